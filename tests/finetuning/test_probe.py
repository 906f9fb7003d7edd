from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mhc_vision.finetuning.probe import extract_features, run_probe
from mhc_vision.training.checkpoint import ShardingStrategy


def test_test_images_that_validate_count_for_both():
    train, val = ([(torch.full((2, 3), value), torch.arange(2))] for value in (0.0, 1.0))
    trainer = SimpleNamespace(
        predict=lambda module, datamodule: [train, val], strategy=SimpleNamespace(root_device="cpu")
    )
    splits = extract_features(trainer, None, SimpleNamespace(has_test_set=True))
    assert splits["test"] is splits["val"]
    assert list(extract_features(trainer, None, SimpleNamespace(has_test_set=False))) == ["train", "val"]


def test_shards_give_no_features():
    trainer: Any = SimpleNamespace(strategy=ShardingStrategy(), world_size=1)
    module: Any = None
    with pytest.raises(ValueError, match=r"trainer\.strategy: got ShardingStrategy for a probe, expected one process"):
        run_probe(trainer, module, module)
