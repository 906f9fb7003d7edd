from collections.abc import Callable
from pathlib import Path

import pytest
from masked_copies import write_folder

from mhc_vision.cli import main

CONFIGS = Path(__file__).parents[3] / "configs"
QUIET = ("--trainer.enable_progress_bar", "false")


@pytest.fixture(scope="session", autouse=True)
def decoders() -> None:
    pytest.importorskip("segmentation_models_pytorch")


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a plain ViT of four blocks that has seen images of one class each."""
    run = tmp_path_factory.mktemp("start")
    words = [
        *("--config", str(CONFIGS / "debug.yaml"), "--model.name", "test_vit", "--model.model_args.depth", "4"),
        *("--model.model_args.patch_size", "8", "--data", "FakeDataModule", "--data.img_size", "32"),
        *("--data.num_images", "16", "--trainer.max_epochs", "1"),
        *(*QUIET, "--trainer.default_root_dir", str(run)),
    ]
    main(["train", *words])
    return run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_folder(root)
    return root


def line(start: Path, photos: Path, run: Path, *more: str) -> list[str]:
    """The command line, behind `finetune`, of a short run on `photos`."""
    return [
        *("--config", str(CONFIGS / "segmentation" / "folder.yaml"), "--data.root", str(photos)),
        *("--model.name", str(start), "--model.model_args", "{}", "--model.decoder_channels", "8"),
        *("--model.warmup_epochs", "0", "--data.img_size", "32", "--data.total_batch_size", "null"),
        *("--data.batch_size", "2", "--data.num_workers", "0", "--data.mean", "[0.5, 0.5, 0.5]"),
        *("--data.std", "[0.5, 0.5, 0.5]", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
        *("--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1", *QUIET),
        *("--trainer.default_root_dir", str(run), *more),
    ]


@pytest.fixture
def words(start: Path, photos: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Makes a `line` with a run directory below `tmp_path`."""

    def build(*more: str, run: str = "run") -> list[str]:
        return line(start, photos, tmp_path / run, *more)

    return build


@pytest.fixture(scope="session")
def trained(start: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of an mHC model that tells dark from bright."""
    run = tmp_path_factory.mktemp("segmented") / "run"
    more = ("--model.lr", "1e-2", "--data.min_scale", "1", "--data.resize_to", "36", "--trainer.max_epochs", "20")
    main(["finetune", *line(start, photos, run, "--config", "connections/mhc", *more)])
    return run
