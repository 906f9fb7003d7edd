import hashlib
import json
from pathlib import Path

import pytest
import torch

from mhc_vision.cli import main
from mhc_vision.inference.load_model import load_model
from mhc_vision.inference.model_identity import model_identity, weights_sha256


def test_the_digest_is_of_names_types_shapes_and_values():
    state = {"b": torch.tensor([1, 2], dtype=torch.int64), "a": torch.tensor(0.5)}
    expected = hashlib.sha256(
        b"a torch.float32 ()\n" + b"\x00\x00\x00\x3f" + b"b torch.int64 (2,)\n" + b"\1" + bytes(7) + b"\2" + bytes(7)
    ).hexdigest()
    assert weights_sha256(state) == expected
    assert weights_sha256(dict(reversed(state.items()))) == expected
    # values in memory may stand in any order
    matrix = torch.arange(6.0).view(2, 3)
    assert weights_sha256({"a": matrix.t()}) == weights_sha256({"a": matrix.t().contiguous()})
    others = (
        {**state, "a": torch.tensor(0.25)},
        {**state, "a": torch.tensor([0.5])},
        {**state, "a": torch.tensor(0.5, dtype=torch.float64)},
        {"b": state["b"], "c": state["a"]},
        {**state, "b": torch.tensor([1, 2], dtype=torch.int32)},
    )
    assert len({expected, *map(weights_sha256, others)}) == 1 + len(others)


@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc", None])
def test_a_registered_name_says_what_it_is(connection):
    name = f"test_vit_{connection}" if connection else "test_vit"
    identity = model_identity(load_model(name, weights="initial"))
    assert identity["architecture"] == "test_vit"
    assert identity["connection"] == connection
    assert identity["num_streams"] == (4 if connection else 1)


def test_all_records_of_a_model_say_the_same(train, tmp_path: Path):
    checkpoint = train(connection="mhc") / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    weights = content["state_dict"]
    expected = {
        "architecture": content["hyper_parameters"]["name"],
        "connection": "mhc",
        "num_streams": 4,
        "weights_sha256": weights_sha256({key.removeprefix("model."): value for key, value in weights.items()}),
    }
    main(["export", str(checkpoint), str(tmp_path / "timm")])
    assert expected["weights_sha256"] in (tmp_path / "timm" / "README.md").read_text()
    for name in (str(checkpoint), str(tmp_path / "timm"), f"local-dir:{tmp_path / 'timm'}"):
        assert model_identity(load_model(name, needs_rgb_classes=False)) == expected
    main(["analyze", str(checkpoint), "--out", str(tmp_path / "analysis"), "--data", "random", "--num-images", "2"])
    model = json.loads((tmp_path / "analysis" / "analysis.json").read_text())["model"]
    assert {key: model[key] for key in expected} == expected
