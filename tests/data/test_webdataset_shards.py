import gzip
import io
import json
import math
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torchvision.io import encode_jpeg

from mhc_vision.data import TimmDataModule
from mhc_vision.data.webdataset_shards import open_shards

pytest.importorskip("webdataset")
TRAIN_LENGTHS, VAL_LENGTHS = (7, 10, 4, 9, 8), (4, 0, 3)
NUM_TRAIN, NUM_VAL = sum(TRAIN_LENGTHS), sum(VAL_LENGTHS)
OPTIONS: dict[str, Any] = {
    "dataset": "wds/numbered",
    "train_split": "train-{0..4}.tar",
    "val_split": "val-{0..2}.tar",
    "batch_size": 3,
    "img_size": 16,
    "seed": 5,
    "shuffle_buffer": 6,
    # sample i has label i, so labels tell the order
    "num_classes": NUM_TRAIN,
}


def write_shard(path: Path, labels: range, files: Any = None) -> None:
    generator = torch.Generator().manual_seed(labels.start)
    with tarfile.open(path, "w") as tar:
        for label in labels:
            image = encode_jpeg(torch.randint(256, (3, 20, 20), dtype=torch.uint8, generator=generator))
            sample = {"jpg": image.numpy().tobytes(), "cls": str(label).encode()}
            sample["json"] = json.dumps({"place": {"label": label}}).encode()
            for suffix, content in (files or (lambda sample: sample))(sample).items():
                info = tarfile.TarInfo(f"folder/{label:04}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, lengths in (("train", TRAIN_LENGTHS), ("val", VAL_LENGTHS)):
        first = 0
        for index, length in enumerate(lengths):
            write_shard(tmp_path / f"{split}-{index}.tar", range(first, first + length))
            first += length
    return tmp_path


def make(root: Path, num_workers: int = 0, rank: int = 0, world_size: int = 1, **options: Any) -> TimmDataModule:
    data = TimmDataModule(**{**OPTIONS, "root": str(root), "num_workers": num_workers, **options})
    division = {"strategy": None, "global_rank": rank, "world_size": world_size, "accumulate_grad_batches": 1}
    data.trainer = SimpleNamespace(training=False, state=SimpleNamespace(fn=None), callbacks=[], **division)
    return data


def train_batches(data: TimmDataModule, epoch: int = 0, batches_done: int = 0) -> list[list[torch.Tensor]]:
    data._position = lambda: (epoch, batches_done * data.batch_size)
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) - batches_done
    return batches


def labels_of(batches: list[list[torch.Tensor]]) -> list[int]:
    return [label for _, labels in batches for label in labels.tolist()]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_evaluation_sees_every_sample_once(root: Path, num_workers: int, world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        loader = make(root, num_workers, rank, world_size).val_dataloader()
        batches = list(loader)
        assert len(batches) == len(loader)
        seen += labels_of(batches)
    assert sorted(seen) == list(range(NUM_VAL))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_training_has_whole_batches_equally_many_in_each_process(root: Path, num_workers: int, world_size: int) -> None:
    shares = [train_batches(make(root, num_workers, rank, world_size)) for rank in range(world_size)]
    streams = world_size * max(1, num_workers)
    assert {len(share) for share in shares} == {NUM_TRAIN // (3 * streams) * max(1, num_workers)}
    assert {tuple(images.shape) for share in shares for images, _ in share} == {(3, 3, 16, 16)}
    seen = [label for share in shares for label in labels_of(share)]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("accumulated", [2, 3, 4])
def test_training_has_whole_steps(root: Path, num_workers: int, accumulated: int) -> None:
    data = make(root, num_workers, batch_size=1)
    data.trainer.accumulate_grad_batches = accumulated
    batches = len(data.train_dataloader())
    # no batch more would do: there is a multiple of workers and accumulated batches
    step = math.lcm(accumulated, max(1, num_workers))
    assert batches == NUM_TRAIN // step * step
    data.trainer.accumulate_grad_batches = 100
    with pytest.raises(
        ValueError, match=r"expected at least 100: .* x \d+ batches of each, for 100 accumulated ones\)"
    ):
        data.train_dataloader()


def test_images_belong_to_their_labels(root: Path) -> None:
    # crops that are the whole (square) image, so that its pixels tell which it is
    plain = {"train_scale": (1.0, 1.0), "hflip": 0.0}
    data = make(root, val_split="train-{0..4}.tar", crop_pct=1.0, batch_size=1, **plain)
    by_label = {int(labels): images for images, labels in data.val_dataloader()}
    for images, labels in train_batches(data):
        assert torch.equal(images, by_label[int(labels)])
    assert len(by_label) == NUM_TRAIN


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_a_resumed_run_goes_on_bit_for_bit(root: Path, num_workers: int, rank: int, world_size: int) -> None:
    division = {"num_workers": num_workers, "rank": rank, "world_size": world_size}
    whole = train_batches(make(root, **division), epoch=2)
    # workers are processes to start: after the first batch, in the middle and before the last
    for done in range(len(whole)) if num_workers == 0 else (1, len(whole) // 2, len(whole) - 1):
        rest = train_batches(make(root, **division), epoch=2, batches_done=done)
        for (images, labels), (same_images, same_labels) in zip(rest, whole[done:], strict=True):
            assert torch.equal(labels, same_labels)
            assert torch.equal(images, same_images)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_epoch_of_one_loader_has_its_own_order(root: Path, num_workers: int) -> None:
    data = make(root, num_workers)
    position = [0, 0]
    data._position = lambda: (position[0], position[1])
    loader = data.train_dataloader()
    orders = []
    for epoch in range(3):
        position[0] = epoch
        orders.append(labels_of(list(loader)))
        assert orders[-1] == labels_of(train_batches(make(root, num_workers), epoch))
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])
    assert set(orders[0]) | set(orders[1]) | set(orders[2]) == set(range(NUM_TRAIN)), "left-out samples should change"


def test_order_and_pixels_depend_on_the_seed(root: Path) -> None:
    assert labels_of(train_batches(make(root))) != labels_of(train_batches(make(root, seed=6)))


def test_a_checkpoint_of_other_workers_is_refused(root: Path) -> None:
    state = make(root, num_workers=2).state_dict()
    with pytest.raises(ValueError, match="num_workers: got 1, expected 2 as in the checkpoint"):
        make(root, num_workers=1).load_state_dict(state)


def write_info(root: Path, lengths: tuple[int, ...] = TRAIN_LENGTHS) -> None:
    splits = {
        split: {
            "name": split,
            "num_samples": sum(counts),
            "filenames": [f"{prefix}-{index}.tar" for index in range(len(counts))],
            "shard_lengths": counts,
        }
        for split, prefix, counts in (("train", "train", lengths), ("validation", "val", VAL_LENGTHS))
    }
    (root / "_info.json").write_text(json.dumps({"splits": splits}))


def test_splits_of_an_info_file(root: Path) -> None:
    write_info(root)
    data = make(root, train_split="train", val_split="validation")
    assert labels_of(train_batches(data)) == labels_of(train_batches(make(root)))
    assert sorted(labels_of(list(data.val_dataloader()))) == list(range(NUM_VAL))


@pytest.mark.parametrize(("shard", "length", "found"), [(1, 11, "only 10"), (3, 8, "more than 8")])
def test_a_shard_that_is_not_as_long_as_it_should_be(root: Path, shard: int, length: int, found: str) -> None:
    wrong = list(TRAIN_LENGTHS)
    wrong[shard] = length
    write_info(root, tuple(wrong))
    with pytest.raises(ValueError, match=rf"train-{shard}.tar: got {found} samples, expected {length}"):
        train_batches(make(root, train_split="train", val_split="validation", batch_size=1))


def test_labels_from_json(root: Path) -> None:
    assert labels_of(list(make(root, label_key="place/label").val_dataloader())) == list(range(NUM_VAL))
    with pytest.raises(ValueError, match=r"sample folder/0000 of .*: got a \.json without 'class'"):
        list(make(root, label_key="class").val_dataloader())
    for broken in (b"{", b"\xff"):
        write_shard(root / "val-0.tar", range(VAL_LENGTHS[0]), lambda sample, broken=broken: sample | {"json": broken})
        with pytest.raises(ValueError, match=r"sample folder/0000 of .*val-0\.tar: got a broken \.json"):
            list(make(root, label_key="place/label").val_dataloader())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lambda sample: sample | {"jpg": sample["jpg"][:50]}, "cannot decode sample folder/0000"),
        (lambda sample: {"cls": sample["cls"]}, r"got no image, expected one of the files jpg, png, webp"),
        (lambda sample: {"jpg": sample["jpg"]}, "got no file .cls"),
        (lambda sample: sample | {"cls": b"-1"}, "got the label -1, expected a number from 0 to 37"),
        (lambda sample: sample | {"cls": b"cat"}, "got the label 'cat'"),
    ],
)
def test_samples_that_cannot_be_used_are_named(root: Path, files: Any, message: str) -> None:
    write_shard(root / "val-0.tar", range(4), files)
    with pytest.raises(ValueError, match=message):
        list(make(root).val_dataloader())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_classes": None}, "num_classes: got none, expected a number"),
        ({"class_names": ["a"]}, "num_classes: got 38, expected 1, the number of class names"),
        ({"repeats": 3}, "repeats: got 3, expected 1 with wds/"),
        ({"broken": "skip"}, "broken: got 'skip', expected 'raise' with wds/"),
        ({"shuffle_buffer": 0}, "shuffle_buffer: got 0, expected a whole number from 1"),
        ({"train_split": "train"}, "has no split 'train'"),
        ({"train_split": "train-{0..5}.tar"}, "train-5.tar is missing"),
        ({"train_split": "train-{0..4}.tar|40"}, "got 38 samples in its shards, expected 40"),
        ({"root": "https://host.invalid/data"}, "cannot be counted"),
        ({"mean": (0.5,)}, r"mean: got \(0.5,\), expected 3 numbers"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(root: Path, wrong: dict[str, Any], message: str, monkeypatch: Any) -> None:
    # no look for an _info.json at a URL
    monkeypatch.setattr("timm.data.readers.reader_wds._load_info", lambda *_: {})
    with pytest.raises(ValueError, match=message):
        TimmDataModule(**{**OPTIONS, "root": str(root), "num_workers": 0, **wrong})


def test_a_file_that_is_no_whole_tar(root: Path) -> None:
    whole = gzip.compress((root / "val-0.tar").read_bytes())
    for content in (b"no tar", whole[: len(whole) // 2]):
        (root / "val-1.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"val-1\.tar, expected a readable tar file"):
            make(root)


def test_too_few_samples_for_all_streams(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"got 38 training samples, expected at least 40: .*4 streams \(2 processes x 2 workers\)"
    ):
        make(root, 2, 0, 2, batch_size=10).train_dataloader()
    with pytest.raises(ValueError, match="got 7 samples to evaluate, expected one for each of 8 processes"):
        make(root, world_size=8).val_dataloader()


def test_counting_reads_names_only(root: Path) -> None:
    shards = open_shards("wds/any", str(root), "val-{0..2}.tar", None, None)
    assert shards.lengths == VAL_LENGTHS


class Recorder(LightningModule):
    """Writes down the training batches and counts the validation samples."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []
        self.num_validated = 0

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch[0])
        return self.weight * batch[0].sum()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.num_validated += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on logging and workers
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_trainer_resumes_in_the_middle_of_an_epoch(root: Path, num_workers: int) -> None:
    def train(**options: Any) -> Recorder:
        model = Recorder()
        data = TimmDataModule(**{**OPTIONS, "root": str(root), "num_workers": num_workers})
        checkpoint = ModelCheckpoint(root, filename="{step}", save_top_k=-1, every_n_train_steps=5)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=2,
            num_sanity_val_steps=0,
            callbacks=[checkpoint],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(model, data, **options)
        return model

    whole = train()
    assert len(whole.seen) == 24
    assert whole.num_validated == 2 * NUM_VAL
    for step in (5, 15):
        resumed = train(ckpt_path=root / f"step={step}.ckpt")
        assert len(resumed.seen) == 24 - step
        assert torch.equal(torch.stack(resumed.seen), torch.stack(whole.seen[step:]))
