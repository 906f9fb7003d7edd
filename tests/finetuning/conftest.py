from collections.abc import Callable
from pathlib import Path

import pytest

from mhc_vision.cli import main
from mhc_vision.finetuning.cli import FinetuneCLI

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of a plain ViT of two blocks, trained on the digits until it knows something of them."""
    run_dir = tmp_path_factory.mktemp("pretrained")
    main(
        [
            *("fit", "--config", str(CONFIGS / "digits.yaml"), "--model.model_args.depth", "2"),
            *("--trainer.max_epochs", "2", *QUIET, "--trainer.default_root_dir", str(run_dir)),
        ]
    )
    return run_dir


@pytest.fixture
def words(pretrained: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The command line, behind `finetune fit`, of a run from `pretrained` on the digits."""

    def build(*more: str, method: str = "full", connection: str = "baseline") -> list[str]:
        return [
            *("--config", str(CONFIGS / "finetune" / "digits.yaml")),
            *("--config", str(CONFIGS / "connections" / f"{connection}.yaml")),
            *("--config", str(CONFIGS / "finetune" / "methods" / f"{method}.yaml")),
            *("--model.name", str(pretrained / "checkpoints" / "last.ckpt")),
            *("--model.probe_epochs", "5"),
            *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "5", *QUIET),
            *("--trainer.default_root_dir", str(tmp_path / "run"), *more),
        ]

    return build


@pytest.fixture
def finetune(words: Callable[..., list[str]], tmp_path: Path) -> Callable[..., Path]:
    """Runs such a command line; returns the run directory."""

    def run(*more: str, **options: str) -> Path:
        main(["finetune", *words(*more, **options)])
        return tmp_path / "run"

    return run


@pytest.fixture
def built(words: Callable[..., list[str]]) -> Callable[..., FinetuneCLI]:
    """Data, model and trainer of such a command line, before anything is run."""

    def build(*more: str, **options: str) -> FinetuneCLI:
        return FinetuneCLI(words(*more, **options), run=False)

    return build
