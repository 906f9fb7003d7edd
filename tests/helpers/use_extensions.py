"""Uses everything that docs/extending.md adds, in a copy of the package: `python use_extensions.py FOLDER`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision_copies import accept_any_checksum

import mhc_vision
from mhc_vision.analysis.analysis_report import write_analysis
from mhc_vision.analysis.measure_model import measure_model
from mhc_vision.cli import main
from mhc_vision.data.downstream.datamodule import DownstreamDataModule
from mhc_vision.layers import connection_parameters

SMALL = {"img_size": 32, "depth": 2, "num_classes": 3, "num_streams": 3}


def train_a_step(name: str, option: dict) -> dict[str, object]:
    """What a step changes in a model that starts as the plain one does."""
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 3
    plain = timm.create_model("test_vit", img_size=32, depth=2, num_classes=3)
    start = mhc_vision.hyperconnect(plain, name.rpartition("_")[2], num_streams=3, **option)
    difference = (start(images) - plain(images)).abs().max().item()
    model = timm.create_model(name, **SMALL, **option)
    scripted = torch.jit.script(model.eval())(images)
    added = dict(connection_parameters(model.train()))
    before = {key: value.clone() for key, value in added.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    moved = [key for key, value in added.items() if not torch.equal(value, before[key])]
    with torch.no_grad():
        model.eval()(images)
        measured = measure_model(model, [(images, labels)], ["a", "b", "c"])
    return {"difference": difference, "scripted": list(scripted.shape), "moved": moved, "measured": measured}


def samples(folder: Path) -> dict[str, object]:
    """The dataset's row, on a made-up copy with ten images of each digit."""
    pixels, labels = np.zeros((100, 256)), np.eye(10)[np.arange(100) % 10]
    np.savetxt(folder / "semeion.data", np.hstack([pixels, labels]))
    monkeypatch = pytest.MonkeyPatch()
    accept_any_checksum(monkeypatch)
    monkeypatch.setattr("torchvision.datasets.semeion.check_integrity", lambda path, md5=None: Path(path).is_file())
    data = DownstreamDataModule(
        "semeion", str(folder), batch_size=2, num_workers=0, img_size=8, complete=False, download=False
    )
    return {"classes": data.num_classes, "parts": [len(data.train_set), len(data.eval_set), len(data.test_set)]}


def use(folder: Path) -> dict[str, object]:
    """What each extension did."""
    constraint = train_a_step("test_vit_mhc", {"constraint": "rows"})
    connection = train_a_step("test_vit_bhc", {"pre_init": 0.8})
    texts = {"source": "bhc", "data": "noise", "command": ["mhc-vision"], "versions": {}}
    report = write_analysis({**connection.pop("measured"), **texts}, folder / "analysis")
    constraint.pop("measured")
    main(["macs", "test_vit_bhc"])
    return {
        "package": mhc_vision.__file__,
        "constraint": constraint,
        "connection": connection,
        "figure": [report.read_text().count("Diagonals"), (folder / "analysis/figures/diagonals.svg").is_file()],
        "dataset": samples(folder),
    }


if __name__ == "__main__":
    print(json.dumps(use(Path(sys.argv[1]))))
