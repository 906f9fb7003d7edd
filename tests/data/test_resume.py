"""A run shuffles each epoch anew, and a resumed run goes on with the order of the uninterrupted one."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import TensorDataset

from mhc_vision.data import ImageDataModule
from mhc_vision.data.batch_augment import BatchAugment

NUM_SAMPLES = 26
BATCH_SIZE = 4
BATCHES = NUM_SAMPLES // BATCH_SIZE  # 6, the last 2 samples of an epoch are left out
EPOCHS = 3

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on logging and workers


@pytest.fixture(autouse=True)
def quiet_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "disabled", True)


class NumberedDataModule(ImageDataModule):
    """Sample i has label i, so labels tell the order."""

    in_chans = 1
    img_size = 1

    def __init__(self, num_workers: int, seed: int) -> None:
        super().__init__(BATCH_SIZE, num_workers, seed)
        self.class_names = [str(index) for index in range(NUM_SAMPLES)]
        self.batch_augment = BatchAugment([0.5], [0.5], NUM_SAMPLES)
        images = torch.zeros(NUM_SAMPLES, 1, 1, 1, dtype=torch.uint8)
        self.train_set = self.eval_set = TensorDataset(images, torch.arange(NUM_SAMPLES))


class Recorder(LightningModule):
    """Writes down the labels of each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen.append(labels.tolist())
        return self.weight * images.sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # schedules ask for this, and it makes the loader before the checkpoint's progress is restored
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(num_workers: int = 0, seed: int = 0, ckpt_path: Path | None = None, **options: Any) -> list[list[int]]:
    model = Recorder()
    options = {"max_epochs": EPOCHS, "enable_checkpointing": "callbacks" in options, **options}
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(model, NumberedDataModule(num_workers, seed), ckpt_path=ckpt_path)
    return model.seen


def orders_of(seen: list[list[int]]) -> list[list[int]]:
    """The order of the samples in each epoch."""
    return torch.tensor(seen).view(-1, BATCHES * BATCH_SIZE).tolist()


def test_each_epoch_has_its_own_order_without_repeats() -> None:
    orders = orders_of(train())
    assert len(orders) == EPOCHS
    assert all(len(set(order)) == BATCHES * BATCH_SIZE for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert set(orders[0]) != set(orders[1]), "the samples that are left out should change"


def test_order_depends_on_the_seed() -> None:
    first, second = orders_of(train(seed=0)), orders_of(train(seed=1))
    assert not any(order in first for order in second)


def test_order_does_not_depend_on_the_workers() -> None:
    assert train(num_workers=1) == train(num_workers=0)


SAVE_AFTER = {
    "epoch": {"save_on_train_epoch_end": True},
    "validation": {"save_on_train_epoch_end": False},
    "4_steps": {"every_n_train_steps": 4},
}


@pytest.mark.parametrize("limit", [{"max_epochs": EPOCHS}, {"max_epochs": -1, "max_steps": EPOCHS * BATCHES}], ids=str)
@pytest.mark.parametrize("save_after", list(SAVE_AFTER))
@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_run_goes_on_like_the_uninterrupted_one(
    tmp_path: Path, num_workers: int, save_after: str, limit: dict[str, int]
) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **SAVE_AFTER[save_after])
    whole = train(num_workers, callbacks=[checkpoint], **limit)
    for batches_done in (4, 8) if save_after == "4_steps" else (BATCHES, 2 * BATCHES):
        resumed = train(num_workers, ckpt_path=tmp_path / f"step={batches_done}.ckpt", **limit)
        assert resumed == whole[batches_done:]


@pytest.mark.parametrize(("accumulated", "batches"), [(2, 6), (4, 4), (5, 5)])
def test_an_epoch_has_whole_steps_and_a_resumed_run_goes_on_with_them(
    tmp_path: Path, accumulated: int, batches: int
) -> None:
    accumulate = {"accumulate_grad_batches": accumulated}
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    whole = train(callbacks=[checkpoint], **accumulate)
    assert len(whole) == EPOCHS * batches
    for step in range(1, EPOCHS * batches // accumulated):
        resumed = train(ckpt_path=tmp_path / f"step={step}.ckpt", **accumulate)
        assert resumed == whole[step * accumulated :]


def test_train_loader_starts_at_the_first_batch_after_training() -> None:
    model = Recorder()
    data = NumberedDataModule(num_workers=0, seed=0)
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    trainer.fit(model, data)
    assert [labels.tolist() for _, labels in data.train_dataloader()] == model.seen
