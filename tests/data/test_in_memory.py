"""Datasets in memory: the batches of the path by samples, without it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from mhc_vision.data import DigitsDataModule, FakeDataModule
from mhc_vision.data.in_memory import InMemoryImages
from mhc_vision.data.order import SeededDataset

GPU = torch.device("cuda", 0)


def on_device(data: DigitsDataModule, device: torch.device) -> DigitsDataModule:
    data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=device),
        training=False,
        global_rank=0,
        world_size=1,
        callbacks=[],
        accumulate_grad_batches=1,
    )
    return data


@pytest.mark.parametrize("num_workers", [0, 1])
def test_digits_come_in_the_batches_of_the_path_by_samples(num_workers: int) -> None:
    data = DigitsDataModule(batch_size=100, num_workers=num_workers)
    loader = data.train_dataloader()
    by_sample = DataLoader(SeededDataset(data.train_set), batch_size=100, sampler=loader.sampler, drop_last=True)
    for (images, labels), (expected_images, expected_labels) in zip(loader, by_sample, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)
    evaluated = [torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True)]
    assert all(map(torch.equal, evaluated, data.eval_set.tensors))


def test_no_sample_is_touched_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.utils.data.TensorDataset, "__getitem__")
    data = DigitsDataModule(batch_size=100)
    assert len(list(data.train_dataloader())) == 14


@pytest.mark.parametrize(
    ("options", "share", "place"),
    [
        ({}, 0.2, GPU),
        ({}, 0.3, torch.device("cpu")),
        ({"num_workers": 1}, 0.2, torch.device("cpu")),
        ({"keep_on": "device"}, 0.9, GPU),
        ({"keep_on": "cpu"}, 0.01, torch.device("cpu")),
    ],
    ids=str,
)
def test_where_images_stay_is_chosen_by_the_free_memory_and_said(
    options: dict, share: float, place: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = on_device(DigitsDataModule(**options), GPU)
    num_bytes = 1797 * 64
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (num_bytes / share, 10 * num_bytes))
    moved = []
    monkeypatch.setattr(InMemoryImages, "to", lambda images, device: moved.append(device))
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        data.setup("fit")
    assert moved == [place, place]
    assert [f"1797 images of 0 MiB stay on {place}" in message for message in caplog.messages] == [True]


def test_batches_come_from_the_device_without_pinning() -> None:
    # the device that is on every machine and holds nothing
    device = torch.device("meta")
    data = on_device(DigitsDataModule(batch_size=100, keep_on="device"), device)
    data.setup("validate")
    assert (data.eval_set.device, data.train_set.device) == (device, torch.device("cpu"))
    data.setup("fit")
    assert data.train_set.device == device
    assert not data.train_dataloader().pin_memory


def test_a_test_takes_its_own_images_to_the_device() -> None:
    device = torch.device("meta")
    data = on_device(DigitsDataModule(batch_size=100, keep_on="device"), device)
    data.test_set = InMemoryImages(*(tensor[:7] for tensor in data.train_set.tensors))
    data.setup("test")
    assert (data.test_set.device, data.eval_set.device) == (device, torch.device("cpu"))
    loader = data.test_dataloader()
    assert (len(loader.dataset), loader.pin_memory) == (7, False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_the_gpu_are_those_on_the_cpu() -> None:
    data = on_device(DigitsDataModule(batch_size=100), GPU)
    expected = list(data.train_dataloader())
    data.setup("fit")
    for (images, labels), (expected_images, expected_labels) in zip(data.train_dataloader(), expected, strict=True):
        assert images.device == labels.device == GPU
        assert torch.equal(images.cpu(), expected_images)
        assert torch.equal(labels.cpu(), expected_labels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keep_on": "gpu"}, "keep_on: got 'gpu', expected one of auto, cpu, device"),
        ({"keep_on": "device", "num_workers": 2}, "num_workers: got 2, expected 0 with keep_on='device'"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**wrong)


class Recorder(LightningModule):
    """Keeps the training batches as the model would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch[0].clone())
        return self.weight * batch[0].sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, ckpt_path: Path | None = None) -> list[torch.Tensor]:
    """Batches of two epochs of three."""
    model = Recorder()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)],
    )
    data = FakeDataModule(batch_size=8, img_size=8, num_images=24, crop_padding=2, hflip=0.5)
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return model.seen


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on logging and workers
def test_crops_and_flips_go_on_after_a_resume_as_without(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    for done in (2, 3, 4):
        resumed = train(tmp_path / f"resumed{done}", tmp_path / "whole" / f"step={done}.ckpt")
        assert len(resumed) == 6 - done
        assert all(map(torch.equal, resumed, whole[done:]))
    # the second epoch shows other crops: no image of the first comes again
    first, second = (torch.cat(batches).flatten(1) for batches in (whole[:3], whole[3:]))
    assert (torch.cdist(first, second, p=1) == 0).float().mean() < 0.02
