"""The report of an evaluation: what its sheet of mistakes shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mhc_vision.inference.evaluate import Evaluation
from mhc_vision.inference.evaluation_report import write_evaluation_report
from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.predictions import Predictions, Said
from mhc_vision.run_directory import PREDICTIONS


@pytest.mark.parametrize(("exif_orientation", "dark_half"), [(True, "top"), (False, "left"), (None, "left")])
def test_mistakes_are_shown_as_the_model_saw_them(tmp_path: Path, exif_orientation: bool | None, dark_half: str):
    stored = np.full((16, 16, 3), 200, dtype=np.uint8)
    stored[:, :8] = 0
    exif = Image.Exif()
    # to be turned clockwise: the left edge becomes the top
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    size = {"img_size": 16, "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"}
    grey = (0.5, 0.5, 0.5)
    loaded = LoadedModel(
        nn.Identity(), "a model", 2, 3, {"a": 0, "b": 1}, **size, mean=grey, std=grey, exif_orientation=exif_orientation
    )
    said = Said(np.array([0]), np.array([1]), np.array([0.9], dtype=np.float32))
    evaluation = Evaluation(1, 0.0, None, 2.3, torch.tensor([1]), said, torch.tensor([0]), [], 1.0)
    record = {
        "source": "a model",
        "folder": "photos",
        "labels": "names",
        "num_images": 1,
        "num_real_images": 0,
        "metrics": {"top1": 0.0, "loss": 2.3},
        "settings": {"broken": "raise"},
        "images_per_s": 1.0,
        "broken": [],
    }
    write_evaluation_report(record, evaluation, loaded, [str(tmp_path / "a.png")], tmp_path / "report")
    (shown,) = Predictions.load(tmp_path / "report" / PREDICTIONS).images
    halves = {"top": shown[:7], "left": shown[:, :7]}
    assert halves[dark_half].max() < 20
    assert shown.max() > 180
