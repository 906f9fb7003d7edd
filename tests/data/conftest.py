from pathlib import Path

import pytest
import torch
from torchvision.io import write_jpeg


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes, 8 images each to train on and 3 for validation, of noise in different shapes."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 3)):
        for name in ("blue", "green", "red"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(256, (3, 40 + 3 * index, 56), dtype=torch.uint8, generator=generator)
                write_jpeg(pixels, str(folder / f"{index}.jpg"))
    return tmp_path / "images"
