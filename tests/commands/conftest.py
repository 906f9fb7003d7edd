from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.models import save_for_hf
from torchvision.io import write_png

from mhc_vision.cli import main

QUICK = ("--num-workers", "0", "--device", "cpu")
CONFIGS = Path(__file__).parents[2] / "configs"
COLOURS = {"blue": (20, 30, 220), "green": (30, 200, 40), "red": (210, 20, 30)}


@pytest.fixture(scope="session")
def write_images() -> Callable[..., Path]:
    """Writes noisy images (`count` in each class folder, of different shapes) and returns the folder."""

    def write(folder: Path, classes: tuple[str, ...], count: int = 3, seed: int = 0) -> Path:
        generator = torch.Generator().manual_seed(seed)
        for name in classes:
            (folder / name).mkdir(parents=True)
            for index in range(count):
                shape = (3, 24 + 4 * index, 32)
                noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8).float()
                colour = torch.tensor(COLOURS.get(name, (128, 128, 128))).view(3, 1, 1)
                write_png(((noise + colour) / 2).to(torch.uint8), str(folder / name / f"{index}.png"))
        return folder

    return write


@pytest.fixture(scope="session")
def timm_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a tiny ViT with random weights as a directory that timm loads; `favourite` is the class it always says."""

    def write(num_classes: int, in_chans: int = 3, favourite: int | None = None) -> Path:
        torch.manual_seed(0)
        model = timm.create_model(
            "test_vit", num_classes=num_classes, in_chans=in_chans, img_size=16, patch_size=8, depth=1
        )
        if favourite is not None:
            torch.nn.init.zeros_(model.head.weight)
            model.head.bias.data[favourite] = 9
        elif num_classes:
            torch.nn.init.normal_(model.head.weight)
        directory = tmp_path_factory.mktemp("model")
        config = {"pretrained_cfg": {"input_size": [in_chans, 16, 16]}}
        save_for_hf(model, str(directory), model_config=config, safe_serialization=True)
        return directory

    return write


@pytest.fixture
def refused_by(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command on images, which must refuse its input, and returns the message."""

    def run(command: str, *words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([command, *QUICK, *map(str, words)])
        assert stopped.value.code == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "Traceback" not in shown.err
        return shown.err

    return run


@pytest.fixture
def write_matrix(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny matrix, digits and one block; keys given replace its own."""

    def write(**keys: object) -> Path:
        content = {
            "name": "tiny",
            "recipes": {"digits": [str(CONFIGS / "digits.yaml")]},
            "arms": {name: [str(CONFIGS / "connections" / f"{name}.yaml")] for name in ("baseline", "mhc")},
            "seeds": [0, 1],
            "set": {
                "model.model_args.depth": 1,
                "trainer.max_epochs": 2,
                "trainer.limit_train_batches": 5,
                "trainer.limit_val_batches": 2,
            },
            "gpus": 0,
        }
        path = tmp_path / "matrix.yaml"
        path.write_text(yaml.safe_dump({**content, **keys}, sort_keys=False))
        return path

    return write
