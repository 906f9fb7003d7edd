from types import SimpleNamespace

import torch

from mhc_vision.finetuning.probe import extract_features


def test_test_images_that_validate_count_for_both():
    train, val = ([(torch.full((2, 3), value), torch.arange(2))] for value in (0.0, 1.0))
    trainer = SimpleNamespace(
        predict=lambda module, datamodule: [train, val], strategy=SimpleNamespace(root_device="cpu")
    )
    splits = extract_features(trainer, None, SimpleNamespace(has_test_set=True))
    assert splits["test"] is splits["val"]
    assert list(extract_features(trainer, None, SimpleNamespace(has_test_set=False))) == ["train", "val"]
