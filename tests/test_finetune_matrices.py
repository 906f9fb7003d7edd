"""The matrices that compare fine-tuning: every run builds the model that its names say, from a start of one block."""

import itertools
from pathlib import Path

import pytest
import torch
import yaml
from torchvision_copies import write_image

from mhc_vision.cli import main
from mhc_vision.comparison.plan.matrix import load_matrix
from mhc_vision.finetuning.cli import FinetuneCLI

ROOT = Path(__file__).parents[1]
COMPARE = ROOT / "configs" / "compare"
# each with the recipe of what it starts from
STARTS = {"finetune_digits": "digits", "finetune_cifar10": "cifar10_half", "finetune_auto": "cifar10_half"}


def _classes(path: Path) -> list[str]:
    return yaml.safe_load(path.read_text())["data"]["init_args"]["classes"]


def _method(task: str) -> str:
    """Tasks are named by method, or by method and dataset."""
    return task.split("-")[0]


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cifar10")
    names = [name for folder in ("", "finetune") for name in _classes(ROOT / "configs" / folder / "cifar10_half.yaml")]
    for split, (label, name), index in itertools.product(("train", "test"), enumerate(names), range(2)):
        write_image(root / split / name / f"{index}.jpg", label)
    return root


def test_every_matrix_of_fine_tuning_is_known_here() -> None:
    assert {path.stem for path in COMPARE.glob("finetune_*.yaml")} == set(STARTS)


@pytest.mark.parametrize("name", STARTS)
def test_every_run_builds_its_model_with_its_method(
    name: str, cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    data = ["--data.root", str(cifar10)] if STARTS[name] == "cifar10_half" else []
    short = ["--model.model_args.depth", "1", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    start = ["--config", f"configs/{STARTS[name]}.yaml", "--trainer.default_root_dir", str(tmp_path / "start")]
    main(["train", *start, *data, *short, *quiet, "--data.batch_size", "4"])
    matrix = load_matrix(
        COMPARE / f"{name}.yaml", {"model.name": str(tmp_path / "start" / "checkpoints" / "last.ckpt")}
    )
    assert matrix.command == "finetune"
    without_baseline = [task for task in matrix.tasks if matrix.excluded_arms(task) == ("baseline",)]
    assert without_baseline == [task for task in matrix.tasks if _method(task) == "connections"]
    built = {}
    for cell in [cell for cell in matrix.cells if cell.seed == matrix.seeds[0]]:
        cli = FinetuneCLI([*cell.words(tmp_path / "run")[1:], *data], run=False)
        assert cli.model.hparams["method"] == _method(cell.task)
        # identity HC is a constraint of mHC; shc-lr1 is SHC
        arm = cell.arm.split("-")[0]
        assert (cli.model.hparams["connection"] or "baseline") == {"ihc": "mhc"}.get(arm, arm)
        assert cli.datamodule.seed == cell.seed
        images = torch.zeros(1, cli.datamodule.in_chans, cli.datamodule.img_size, cli.datamodule.img_size)
        with torch.no_grad():
            built[cell.task, cell.arm] = cli.model.eval()(images)
    for (task, _), logits in built.items():
        # connections begin as a plain residual: fp32 rounding
        torch.testing.assert_close(logits, built.get((task, "baseline"), logits), rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "run").exists()
