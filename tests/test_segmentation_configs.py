"""Each file in `configs/segmentation/`: data, model and trainer from it and a small copy of its data; the matrices."""

from pathlib import Path

import pytest
import timm
import torch
from masked_copies import COPIES
from safetensors.torch import save_file

from mhc_vision.comparison.plan.matrix import load_matrix
from mhc_vision.data.segmentation.sets import NAMES
from mhc_vision.finetuning.cli import SegmentationCLI, finetune_cli

pytest.importorskip("segmentation_models_pytorch")

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
FILES = sorted((CONFIGS / "segmentation").glob("*.yaml"))
MATRICES = ("segmentation", "segmentation_frozen")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What takes the place of published weights."""
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    arguments = {"depth": 4, "patch_size": 8}
    save_file(timm.create_model("test_vit", img_size=64, **arguments).state_dict(), path)
    options = [word for key, value in arguments.items() for word in (f"--model.model_args.{key}", str(value))]
    size = ("--data.img_size", "64", "--data.num_workers", "0", "--model.decoder_channels", "8")
    cpu = ("--trainer.accelerator", "cpu", "--trainer.precision", "32-true")
    return ["--model.name", "test_vit", "--model.weights_file", str(path), *options, *size, *cpu]


def test_every_dataset_has_a_file() -> None:
    assert [path.stem for path in FILES] == sorted([*NAMES, "buildings"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_builds_its_data_model_and_trainer(path: Path, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    COPIES["folder" if path.stem == "buildings" else path.stem](tmp_path / "data")
    words = [
        *("--config", str(path), "--config", str(CONFIGS / "connections" / "mhc.yaml"), *small),
        *("--data.root", str(tmp_path / "data"), "--trainer.default_root_dir", str(tmp_path / "run")),
    ]
    cli = SegmentationCLI(words, run=False)
    assert cli.model.hparams["num_classes"] == cli.datamodule.num_classes
    with torch.no_grad():
        logits = cli.model.eval()(torch.zeros(1, 3, 64, 64))
    assert logits.shape == (1, cli.datamodule.num_classes, 64, 64)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", MATRICES)
def test_every_arm_builds_its_model_and_starts_alike(
    name: str, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    COPIES["folder"](tmp_path)
    matrix = load_matrix(CONFIGS / "compare" / f"{name}.yaml", {})
    assert matrix.command == "finetune"
    images = torch.randn(1, 3, 64, 64)
    starts = {}
    for cell in [cell for cell in matrix.cells if (cell.seed, cell.task[-5:]) == (0, "fold0")]:
        words = [*cell.words(tmp_path / "run")[1:], *small, "--data.root", str(tmp_path)]
        assert finetune_cli(words) is SegmentationCLI
        cli = SegmentationCLI(words, run=False)
        learns = {name.split(".")[0] for name, value in cli.model.model.named_parameters() if value.requires_grad}
        alone = name == "segmentation_frozen" and cell.arm.startswith("baseline")
        assert learns == ({"decoder"} if alone else {"encoder", "decoder"})
        with torch.no_grad():
            starts[cell.arm] = cli.model.eval()(images)
    more = ["baseline-lr5e-4", "ihc-lr5e-4", "lora"] if name == "segmentation_frozen" else []
    assert list(starts) == ["baseline", "shc", "dhc", "mhc", "ihc", *more]
    for logits in starts.values():
        torch.testing.assert_close(logits, starts["baseline"], rtol=0, atol=1e-5)
