"""Hugging Face datasets, webdataset shards and whatever else timm's dataset factory reads."""

import importlib
from typing import Any

from torch.utils.data import DataLoader, Dataset

from mhc_vision.checks import check_whole_number
from mhc_vision.data.augmented import AugmentedDataModule
from mhc_vision.data.class_names import check_distinct, number_classes
from mhc_vision.data.datamodule import Metric, checked_metric
from mhc_vision.data.readers import (
    ReaderImages,
    TorchvisionImages,
    open_reader,
    open_torchvision,
    reader_classes,
)
from mhc_vision.data.webdataset_shards import open_shards
from mhc_vision.data.webdataset_stream import EvaluationStream, StreamLoader, TrainStream

# an iterable reader whose order is neither known nor can be resumed
_NOT_REPEATABLE = ("hfids", "tfds")
_PACKAGES = {"hfds": "datasets", "wds": "webdataset"}


class TimmDataModule(AugmentedDataModule):
    """A dataset in timm's notation, with the augmentation, order and exact resume of the other data modules.

    `hfds/<name>` reads a Hugging Face dataset, `wds/<any name>` webdataset shards, `torch/<name>` a torchvision
    dataset that is there already, and an empty name the folders or tar files `root/<split>[.tar]` with a folder a
    class, in which timm finds `.jpg`, `.jpeg` and `.png` files. `hfids/` and `tfds/` are refused: a resumed run could
    not go on where it stopped.

    Shards are read one after the other (see `TrainStream`), everything else by index. With shards a run resumes
    exactly with the same number of processes and workers only, which is checked; there are no `repeats` and no
    `broken="skip"`.

    Args:
        dataset: timm's name of the dataset.
        root: Where it is; for `hfds/` the cache of downloads.
        train_split: Name of the training split; for `wds/` also shards as `train-{0000..1023}.tar`.
        val_split: The same for validation.
        class_names: Names of the classes, in the order of the labels; `None` takes those of the dataset.
        num_classes: Their number, for a dataset that does not know its classes and has no names worth giving.
        image_key: Column or suffix of the image, where it is not timm's default.
        label_key: Column of the label; for `wds/` a field of a sample's `.json` in place of `.cls`.
        shuffle_buffer: Encoded samples that each worker keeps to draw from, for `wds/`; about 110 kB each on ImageNet.
        test_split: The same for test; `None` for the images of validation.
        metric: By which models are compared: `"top1"`, or `"mean_per_class"`, the mean of the classes' accuracies.
        allow_commands: For `wds/`: read from where webdataset runs a command, `pipe:` and all URLs but `https://` and
            `http://`. Never taken from a file beside a checkpoint.
        augmentation: The options of `AugmentedDataModule`.

    Raises:
        ImportError: If the package of the reader is missing.
        ValueError: If an argument is out of range, or dataset, split or classes are not there.
    """

    def __init__(
        self,
        dataset: str,
        root: str | None = None,
        train_split: str = "train",
        val_split: str = "validation",
        class_names: list[str] | None = None,
        num_classes: int | None = None,
        image_key: str | None = None,
        label_key: str | None = None,
        shuffle_buffer: int = 2048,
        test_split: str | None = None,
        metric: Metric = "top1",
        allow_commands: bool = False,
        **augmentation: Any,
    ) -> None:
        super().__init__(**augmentation)
        check_whole_number("shuffle_buffer", shuffle_buffer, at_least=1)
        if num_classes is not None:
            check_whole_number("num_classes", num_classes, at_least=1)
        prefix = dataset.partition("/")[0].lower() if "/" in dataset else ""
        if prefix in _NOT_REPEATABLE:
            raise ValueError(
                f"dataset: got {dataset!r}, expected samples in an order that a run can resume; use hfds/ or wds/"
            )
        if prefix in _PACKAGES:
            _require(_PACKAGES[prefix], dataset)
        self.shuffle_buffer = shuffle_buffer
        self.metric = checked_metric(metric)
        self.is_stream = prefix == "wds"
        splits = [train_split, val_split, *([] if test_split is None else [test_split])]
        keys = (image_key, label_key)
        if self.is_stream:
            self._refuse_for_streams()
            names = chosen_classes([None], class_names, num_classes)
            self.use(names, *(open_shards(dataset, root, split, *keys, allow_commands) for split in splits))  # type: ignore[arg-type]
            return
        if prefix == "torch":
            sources = [open_torchvision(dataset, root, split) for split in splits]
            wrap: Any = TorchvisionImages
        else:
            if prefix != "hfds" and dataset:
                raise ValueError(f"dataset: got {dataset!r}, expected hfds/..., wds/..., torch/... or an empty name")
            sources = [open_reader(dataset, root, split, *keys) for split in splits]
            wrap = ReaderImages
        names = chosen_classes([reader_classes(source) for source in sources], class_names, num_classes)
        train, *others = sources
        self.use(
            names,
            wrap(train, self.to_train, len(names)),
            *(wrap(source, self.to_eval, len(names)) for source in others),
        )

    def train_dataloader(self) -> DataLoader:
        """Shuffled whole batches, equally many in each process.

        Raises:
            ValueError: If the training samples do not fill one batch in every process, with shards in every worker.
        """
        if not self.is_stream:
            return super().train_dataloader()
        self._check_evaluation_size(self.eval_set)
        rank, world_size = self._process()
        stream = TrainStream(
            self.train_set,  # type: ignore[arg-type]
            self.to_train,
            self.num_classes,
            self.batch_size,
            self.seed,
            rank,
            world_size,
            self.num_workers,
            self.shuffle_buffer,
            self._accumulated(),
        )
        return StreamLoader(stream, self._position, **self._stream_options())

    def _evaluation_loader(self, samples: Dataset) -> DataLoader:
        if not self.is_stream:
            return super()._evaluation_loader(samples)
        stream = EvaluationStream(
            samples,  # type: ignore[arg-type]
            self.to_eval,
            self.num_classes,
            self.batch_size,
            *self._process(),
            self.num_workers,
        )
        return StreamLoader(stream, **self._stream_options())

    def state_dict(self) -> dict[str, Any]:
        """What a run depends on, for its checkpoints; with shards also what divides them."""
        state = super().state_dict()
        if self.is_stream:
            state |= {"num_workers": self.num_workers, "shuffle_buffer": self.shuffle_buffer}
        return state

    def _stream_options(self) -> dict[str, Any]:
        options = self._loader_options()
        del options["batch_size"]
        return options

    def _refuse_for_streams(self) -> None:
        if self.repeats != 1:
            raise ValueError(f"repeats: got {self.repeats}, expected 1 with wds/: shards have no samples by index")
        if self.broken != "raise":
            raise ValueError(
                f"broken: got {self.broken!r}, expected 'raise' with wds/: shards have no samples by index"
            )


def chosen_classes(known: list[list[str] | None], class_names: list[str] | None, num_classes: int | None) -> list[str]:
    """Names of the classes: those given, else those that the splits know, else numbers.

    Args:
        known: What each split knows.
        class_names: Names given.
        num_classes: Number given.

    Raises:
        ValueError: If none says how many classes there are, or two of them differ.
    """
    first, *others = known
    for split, other in zip(("validation", "test"), others, strict=False):
        if other != first:
            raise ValueError(f"dataset: got {split} classes {other}, expected those of the training split, {first}")
    if class_names is not None and not class_names:
        raise ValueError("class_names: got an empty list, expected a name for each class")
    names = class_names or first
    if names is None:
        if num_classes is None:
            raise ValueError(
                "num_classes: got none, expected a number: the dataset names no classes; give it, or class_names"
            )
        return number_classes(num_classes)
    if num_classes not in (None, len(names)):
        raise ValueError(f"num_classes: got {num_classes}, expected {len(names)}, the number of class names")
    if first is not None and len(names) != len(first):
        raise ValueError(f"class_names: got {len(names)}, expected one for each of the dataset's {len(first)} classes")
    check_distinct(names, "class_names" if class_names else "dataset")
    return list(names)


def _require(package: str, dataset: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{dataset} needs {package}: pip install 'mhc-vision[readers]'") from error
