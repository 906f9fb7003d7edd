import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when it is first imported: without a GPU its kernels run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

CONFIGS = Path(__file__).parents[1] / "configs"
# what is tested there are short runs: drawing the figures of their reports would take longer
WITHOUT_FIGURES = ("bad_input", "data", "finetuning", "training")

# test processes run side by side and their tensors are small: a second thread each would only make them wait
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers, alone or in any order."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def figures_are_empty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in place of figures, where these are not what is tested."""
    if request.path.relative_to(Path(__file__).parent).parts[0] not in WITHOUT_FIGURES:
        return

    def save_empty(figure: Any, file: Path, *, format: str, **_: Any) -> None:
        Path(file).write_text('<svg xmlns="http://www.w3.org/2000/svg"/>' if format == "svg" else "")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save_empty)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Path]:
    """Runs the command line on the digits with a one-block model, three batches an epoch; returns the run directory."""
    # not above: it imports Triton, which reads its variable then
    from mhc_vision.cli import main

    def run(
        *words: str, connection: str = "baseline", subcommand: str = "fit", run_dir: Path = tmp_path / "run"
    ) -> Path:
        main(
            [
                subcommand,
                *("--config", str(CONFIGS / "digits.yaml")),
                *("--config", str(CONFIGS / "connections" / f"{connection}.yaml")),
                *("--model.model_args.depth", "1", "--data.batch_size", "8"),
                *("--trainer.max_epochs", "1"),
                *("--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2"),
                *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
                *("--trainer.default_root_dir", str(run_dir)),
                *words,
            ]
        )
        return run_dir

    return run
