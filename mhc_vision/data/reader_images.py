"""timm's map-style readers as datasets of uint8 tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.data import create_dataset
from timm.data.readers import create_reader
from torch import Tensor
from torch.utils.data import Dataset

from mhc_vision.data.decode import PILLOW_ERRORS, decode_any_bytes, pil_to_rgb

Transform = Callable[[Tensor], Tensor]


class ReaderImages(Dataset):
    """The samples of a timm reader: (image uint8 (3, H, W) after `transform`, label).

    The encoded bytes are decoded here and not by timm's dataset, which lets another sample take the place of one that
    it cannot read, in evaluation too.

    Args:
        reader: Gives (open file, label) for an index.
        transform: From uint8 (3, H, W) of any size to the model's size.
        num_classes: Labels must be below it.
    """

    def __init__(self, reader: Any, transform: Transform, num_classes: int) -> None:
        self.reader = reader
        # timm would keep open tar files, whose place in the file forked workers would share
        if hasattr(reader, "cache_tarfiles"):
            reader.cache_tarfiles = False
        self.transform = transform
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A sample.

        Raises:
            ValueError: If its image cannot be decoded or its label is no class.
        """
        file, label = self.reader[index]
        with file:
            content = file.read()
        name = f"image {index} ({self.reader.filename(index)})"
        return self.transform(decode_any_bytes(content, name)), checked_label(label, self.num_classes, name)


class TorchvisionImages(Dataset):
    """The samples of a torchvision dataset of (Pillow image, label), in the same form.

    Args:
        dataset: What to wrap.
        transform: From uint8 (3, H, W) of any size to the model's size.
        num_classes: Labels must be below it.
    """

    def __init__(self, dataset: Dataset, transform: Transform, num_classes: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A sample.

        Raises:
            ValueError: If its image cannot be decoded or its label is no class.
        """
        name = f"image {index}"
        try:
            image, label = self.dataset[index]
            pixels = pil_to_rgb(image)
        except PILLOW_ERRORS as error:
            raise ValueError(f"cannot decode {name}: {error}") from error
        return self.transform(pixels), checked_label(label, self.num_classes, name)


def checked_label(label: Any, num_classes: int, name: str) -> int:
    """The label as an int.

    Raises:
        ValueError: If it is not one of 0 to num_classes - 1; datasets mark what has no label with -1.
    """
    if not hasattr(label, "__index__") or not 0 <= int(label) < num_classes:
        raise ValueError(f"{name} has the label {label!r}, expected a number of 0 to {num_classes - 1}")
    return int(label)


def open_reader(dataset: str, root: str | None, split: str, image_key: str | None, label_key: str | None) -> Any:
    """timm's reader of one split of `hfds/<name>`, or of a folder or tar file `root/<split>[.tar]`.

    Raises:
        ValueError: If there is no such dataset or split, or no such column.
    """
    options: dict[str, Any] = {}
    is_hfds = dataset.lower().startswith("hfds/")
    if is_hfds:
        options = {"input_key": image_key, "target_key": label_key}
    else:
        root = str(find_split(Path(root or ""), split))
    try:
        reader = create_reader(dataset, root=root, split=split, **options)
    except (RuntimeError, OSError, KeyError) as error:
        raise ValueError(f"dataset: {dataset!r} with split {split!r} cannot be opened: {error}") from error
    if is_hfds and len(reader):
        _check_columns(reader, dataset)
    return reader


def _check_columns(reader: Any, dataset: str) -> None:
    """Raise ValueError unless the first sample has an image and a label; timm makes an empty column of a wrong name."""
    sample = reader.dataset[0]
    for argument, key in (("image_key", reader.image_key), ("label_key", reader.label_key)):
        # timm's a/b is the field b of the column a, unless a column has that name
        if sample.get(key, sample.get(key.split("/")[0])) is None:
            columns = ", ".join(name for name, value in sample.items() if value is not None)
            raise ValueError(f"{argument}: {dataset!r} has no column {key!r}; there is: {columns}")


def open_torchvision(dataset: str, root: str | None, split: str) -> Dataset:
    """One split of `torch/<name>`, which must have been downloaded before.

    Raises:
        ValueError: If it is not there or timm does not know it.
    """
    try:
        return create_dataset(dataset, root=root, split=split)
    except (RuntimeError, OSError, AssertionError) as error:
        raise ValueError(f"dataset: {dataset!r} with split {split!r} cannot be opened: {error}") from error


def find_split(root: Path, split: str) -> Path:
    """The folder or tar file of a split; timm would take `root` itself for every split that it does not find.

    Raises:
        ValueError: If there is neither, or the split has no name.
    """
    if not split:
        raise ValueError(f"train_split and val_split must be names of folders or tar files in {root}, got {split!r}")
    for path in (root / split, root / f"{split}.tar"):
        if path.exists():
            return path
    raise ValueError(f"root: neither a folder {root / split} nor a file {root / split}.tar")


def reader_classes(source: Any) -> list[str] | None:
    """Names of the classes in the order of the labels, as far as a reader or a torchvision dataset knows them."""
    names = getattr(source, "classes", None)
    if names:
        return [name if isinstance(name, str) else ", ".join(name) for name in names]
    indices = getattr(source, "class_to_idx", None) or getattr(source, "class_name_to_idx", None)
    return sorted(indices, key=indices.get) if indices else None
