"""`finetune` with a decoder: from a classifier to classes of pixels."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from masked_copies import halves, save_mask, write_folder
from PIL import Image

from mhc_vision.cli import main
from mhc_vision.finetuning.cli import FinetuneCLI, SegmentationCLI, finetune_cli
from mhc_vision.finetuning.segmentation import SegmentationModule, mask_loss
from mhc_vision.inference.load_model import load_model
from mhc_vision.models.segmenter import Segmenter
from mhc_vision.segmentation_scores import IGNORED

CONFIGS = Path(__file__).parents[3] / "configs"
QUIET = ("--trainer.enable_progress_bar", "false")


def built(words: list[str]) -> SegmentationCLI:
    assert finetune_cli(words) is SegmentationCLI
    return SegmentationCLI(words, run=False)


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_a_run_leaves_the_records_of_a_training(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(trained)
    metrics = summary["metrics"]
    assert summary["connection"] == "mhc"
    scores = {"val/mean_iou", "val/mean_dice", "val/pixel_accuracy", "val/iou/ground", "val/iou/sky"}
    assert scores | {"val/loss", "val/contribution"} <= metrics.keys()
    assert metrics["val/mean_iou"] == pytest.approx((metrics["val/iou/ground"] + metrics["val/iou/sky"]) / 2)
    # bright or dark is not hard
    assert metrics["val/mean_iou"] > 0.8
    assert re.search(r"val/mean_iou +\| +\d+\.\d\d %", (trained / "report.md").read_text())
    main(["finetune", "test", "--config", str(trained / "config.yaml"), "--ckpt_path", "last", *QUIET])
    assert f"test: mean IoU {100 * metrics['val/mean_iou']:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc", "ihc"])
def test_step_0_is_that_of_the_plain_model(connection: str, words: Callable[..., list[str]]) -> None:
    images = torch.randn(2, 3, 32, 32)
    plain, connected = (
        built(words("--config", f"connections/{name}")).model.eval() for name in ("baseline", connection)
    )
    torch.testing.assert_close(connected(images), plain(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "overlay", "learning"),
    [
        ("full", "mhc", ("decoder", "connection", "blocks")),
        ("linear", "baseline", ("decoder",)),
        ("connections", "mhc", ("decoder", "connection")),
        ("lora", "mhc", ("decoder", "connection", "lora_")),
    ],
)
def test_the_decoder_learns_and_of_the_vit_what_the_method_says(
    method: str, overlay: str, learning: tuple[str, ...], words: Callable[..., list[str]]
) -> None:
    pytest.importorskip("peft")
    more = ("--config", f"connections/{overlay}", "--model.method", method, "--model.layer_decay", "1.0")
    module = built(words(*more)).model
    assert not module.is_probe
    for name, parameter in module.model.named_parameters():
        said = any(part in name for part in learning)
        assert parameter.requires_grad == (said or method == "full"), name


def test_adapters_are_merged_where_a_checkpoint_is_used(words: Callable[..., list[str]], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    more = ("--config", "connections/mhc", "--model.method", "lora", "--model.lr", "1e-2")
    main(["finetune", *words(*more, "--trainer.max_epochs", "1")])
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    module = built(words(*more, run="other")).model.eval()
    module.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    merged = load_model(str(checkpoint), segmentation=True).model
    assert not any("lora" in name for name, _ in merged.named_parameters())
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(merged(images), module(images), rtol=1e-4, atol=1e-4)


def test_the_linear_probe_of_dinov2_trains(words: Callable[..., list[str]], tmp_path: Path) -> None:
    overlay = str(CONFIGS / "segmentation" / "methods" / "linear.yaml")
    main(["finetune", *words("--config", overlay, "--trainer.max_epochs", "1")])
    summary = summary_of(tmp_path / "run")
    assert summary["method"] == "linear"
    assert summary["steps"] == 2


def test_a_stopped_run_goes_on_to_the_same_weights(
    words: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--config", "connections/mhc", "--data.color_jitter", "0.4", "--trainer.max_epochs", "3")
    main(["finetune", *words(*more, run="whole")])
    step = SegmentationModule.training_step

    def stopped_once(module: SegmentationModule, batch: Any, index: int) -> Any:
        if module.trainer.global_step == 3:
            raise KeyboardInterrupt
        return step(module, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(SegmentationModule, "training_step", stopped_once)
        with pytest.raises(SystemExit):
            main(["finetune", *words(*more, run="parts")])
    main(["finetune", *words(*more, "--ckpt_path", "last", run="parts")])
    whole, parts = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def in_processes(words: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """`finetune` in processes of its own, of which the first one starts the others by its command line."""
    script = tmp_path / "run.py"
    script.write_text("from mhc_vision.cli import main\n\nmain()\n")
    command = [sys.executable, "-W", "ignore", str(script), "finetune", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_score_the_images_of_both(words: Callable[..., list[str]], tmp_path: Path) -> None:
    root = tmp_path / "photos"
    write_folder(root, images=5)
    (root / "classes.txt").write_text("ground\nsky\nsea\n")
    # one process has three images, and of other sizes and classes than the other one's two
    for number in (0, 2, 4):
        for kind in ("images", "masks"):
            with Image.open(root / "val" / kind / f"{number}.png") as image:
                image.resize((90, 60), 0).save(root / "val" / kind / f"{number}.png")
    save_mask(root / "val" / "masks" / "1.png", halves(2, 1))
    more = ("--data.root", str(root), "--model.decoder", "linear", "--trainer.max_epochs", "1")
    devices = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    finished = in_processes(words("--config", "connections/mhc", *more, *devices), tmp_path)
    assert finished.returncode == 0, finished.stderr
    metrics = summary_of(tmp_path / "run")["metrics"]
    scores = [metrics[f"val/iou/{name}"] for name in ("ground", "sky", "sea")]
    assert metrics["val/mean_iou"] == pytest.approx(sum(scores) / 3)


def test_sharding_is_refused(words: Callable[..., list[str]], tmp_path: Path) -> None:
    strategy = ("--config", "strategies/fsdp2", "--trainer.strategy.process_group_backend", "gloo")
    size = ("--trainer.devices", "1", "--trainer.strategy.data_parallel_size", "1")
    finished = in_processes(words(*strategy, *size), tmp_path)
    assert finished.returncode == 2
    assert "trainer.strategy: got ModelParallelStrategy for segmentation, expected DDP" in finished.stderr


@pytest.mark.parametrize("kind", ["ce", "dice", "ce_dice", "focal", "lovasz"])
def test_losses_are_lower_for_what_is_right_and_leave_ignored_pixels_out(kind: str) -> None:
    loss = mask_loss(kind)
    masks = torch.randint(0, 3, (2, 8, 8))
    right = 8.0 * torch.nn.functional.one_hot(masks, 3).movedim(-1, 1)
    assert loss(right, masks) < loss(torch.zeros_like(right), masks) < loss(-right, masks)
    masks[:, :4] = IGNORED
    logits = right.clone().requires_grad_()
    loss(logits, masks).backward()
    assert logits.grad is not None
    assert logits.grad[:, :, :4].abs().max() == 0
    # as where a crop fell outside of the classes
    nothing = loss(right.requires_grad_(), torch.full_like(masks, IGNORED))
    assert nothing.isfinite()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model.decoder", "unet"), "model.decoder"),
        (("--model.mask_loss", "iou"), "model.mask_loss"),
        (("--model.method", "knn"), "method: got 'knn'"),
        (("--model.loss", "bce"), "loss: got another one"),
        (("--model.label_smoothing", "0.1"), "loss: got another one"),
        (("--model.window_stride", "40"), "window_stride: got 40"),
        (("--model.decoder", "upernet", "--data.batch_size", "1"), "batch_size: got 1"),
        (("--model.connection", "alt_up"), "connection: "),
        (("--data.resize_to", "16"), "resize_to: got 16"),
        (("--model.decodr", "dpt"), "there is no such option"),
    ],
)
def test_bad_input_ends_with_a_message(
    more: tuple[str, ...],
    message: str,
    words: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", *words(*more)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_decoder_needs_masks_and_masks_a_decoder(
    words: Callable[..., list[str]], start: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = words()
    with pytest.raises(SystemExit):
        main(["finetune", *line, "--data", "FakeDataModule"])
    assert "model.decoder: got one for data with a class for each image" in capsys.readouterr().err
    data = ("--data", "SegmentationDataModule", "--data.dataset", "folder", "--data.root", str(photos))
    plain = ["--config", str(CONFIGS / "debug.yaml"), "--model.name", str(start), *data, "--data.img_size", "32"]
    assert finetune_cli(["fit", *plain]) is FinetuneCLI
    with pytest.raises(SystemExit):
        main(["finetune", *plain])
    assert "data: got a class for each pixel" in capsys.readouterr().err


def test_the_head_of_the_classifier_is_gone(words: Callable[..., list[str]]) -> None:
    module = built(words("--config", "connections/mhc")).model
    assert isinstance(module, SegmentationModule)
    assert isinstance(module.model, Segmenter)
    assert not any("head" in name for name, _ in module.model.encoder.named_parameters())
