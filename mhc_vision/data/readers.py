"""timm's map-style readers as datasets of uint8 tensors."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import create_dataset, get_img_extensions
from timm.data.readers import create_reader
from timm.utils.misc import natural_key
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from mhc_vision.checks import first_few, nearest
from mhc_vision.data.decode import PILLOW_ERRORS, decode_any_bytes, open_unconverted, pil_to_rgb, read_image_file
from mhc_vision.data.folders import class_folders, has_hidden_part, is_hidden, walk_files
from mhc_vision.data.image_folder import ClassFolderImages

# timm unpacks the lists of an empty tar file, too
_READER_ERRORS = (RuntimeError, OSError, KeyError, ValueError, AssertionError, EOFError, tarfile.TarError)
_VALIDATION = ("val", "valid", "validation", "eval", "evaluation")

Transform = Callable[[Tensor], Tensor]


class ReaderImages(Dataset):
    """The samples of a timm reader: (image uint8 (3, H, W) after `transform`, label).

    The encoded bytes are decoded here and not by timm's dataset, which lets another sample take the place of one that
    it cannot read, in evaluation too.

    Args:
        reader: Gives (open file, label) for an index.
        transform: From uint8 (3, H, W) of any size to the model's size.
        num_classes: Labels are below it.
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
        num_classes: Labels are below it.
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


class FolderReader:
    """timm's reader of folders, by our rule of what is listed: timm takes what is hidden and follows links in circles.

    As with timm the class of an image is the name of the folder it lies in, classes and images are in natural order,
    and files are `.jpg`, `.jpeg` and `.png`.

    Args:
        root: The folder of a split.

    Raises:
        ValueError: If a folder cannot be listed, there are no images, or one lies in no class folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        suffixes = tuple(get_img_extensions())
        paths = [
            os.path.join(directory, file)
            for directory, _, files in walk_files(root, "root")
            for file in files
            if file.lower().endswith(suffixes)
        ]
        if not paths:
            raise ValueError(f"root: got no images in {root}, expected {', '.join(suffixes)} in class folders")
        if outside := [path for path in paths if Path(path).parent == root]:
            raise ValueError(f"root: got {first_few(outside)}, expected images in class folders only")
        names = {path: Path(path).parent.name for path in sorted(paths, key=natural_key)}
        classes = sorted(set(names.values()), key=natural_key)
        self.class_to_idx = {name: label for label, name in enumerate(classes)}
        self.samples = [(path, self.class_to_idx[name]) for path, name in names.items()]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        """File and label.

        Raises:
            ValueError: If the file cannot be read.
        """
        path, label = self.samples[index]
        return io.BytesIO(read_image_file(path)), label

    def filename(self, index: int) -> str:
        """Path of a file below the root."""
        return os.path.relpath(self.samples[index][0], self.root)


def checked_label(label: Any, num_classes: int, name: str) -> int:
    """The label as an int.

    Raises:
        ValueError: If it is not one of 0 to num_classes - 1; datasets mark what has no label with -1.
    """
    if not hasattr(label, "__index__") or not 0 <= int(label) < num_classes:
        raise ValueError(f"{name}: got the label {label!r}, expected a number from 0 to {num_classes - 1}")
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
        place = find_split(Path(root or ""), split)
        if place.is_dir():
            return FolderReader(place)
        root = str(place)
    try:
        reader = create_reader(dataset, root=root, split=split, **options)
    except _READER_ERRORS as error:
        raise ValueError(f"dataset: {dataset!r} with split {split!r} cannot be opened: {error}") from error
    if is_hfds and len(reader):
        _check_columns(reader, dataset)
    if not is_hfds:
        _leave_hidden_out(reader)
    return reader


def _leave_hidden_out(reader: Any) -> None:
    """Take hidden files and classes, as macOS puts beside the others, from timm's reader of a tar file."""
    names = sorted(reader.class_name_to_idx, key=reader.class_name_to_idx.get)
    # a path in a tar file may begin with ./
    parts = [Path(sample[0].path).parts for sample in reader.samples]
    kept = np.array([place for place, ones in enumerate(parts) if not any(map(is_hidden, ones))], dtype=np.int64)
    if not len(kept):
        raise ValueError(f"root: got no images in {reader.root}, expected some that are not hidden")
    labels = [names[reader.targets[place]] for place in kept]
    known = [name for name in names if name in set(labels)]
    reader.class_name_to_idx = {name: label for label, name in enumerate(known)}
    reader.class_idx_to_name = dict(enumerate(known))
    reader.samples = reader.samples[kept]
    reader.targets = np.array([reader.class_name_to_idx[label] for label in labels], dtype=np.int64)


def _check_columns(reader: Any, dataset: str) -> None:
    """Raise ValueError unless the first sample has an image and a label; timm makes an empty column of a wrong name."""
    sample = reader.dataset[0]
    for argument, key in (("image_key", reader.image_key), ("label_key", reader.label_key)):
        # timm's a/b is the field b of the column a, unless a column has that name
        if sample.get(key, sample.get(key.split("/")[0])) is None:
            columns = [name for name, value in sample.items() if value is not None]
            hint = nearest(key, columns)
            raise ValueError(f"{argument}: got {key!r}, expected a column of {dataset!r}: {', '.join(columns)}{hint}")


def open_torchvision(dataset: str, root: str | None, split: str) -> Dataset:
    """One split of `torch/<name>`, which must have been downloaded before.

    Raises:
        ValueError: If it is not there or timm does not know it.
    """
    if dataset.lower() in ("torch/image_folder", "torch/folder"):
        folder = find_split(Path(root or ""), split, tars=False)
        return ClassFolderImages(folder, None, class_folders(folder, "root"), loader=open_unconverted)
    try:
        images = create_dataset(dataset, root=root, split=split)
    except (RuntimeError, OSError, AssertionError, KeyError) as error:
        raise ValueError(f"dataset: {dataset!r} with split {split!r} cannot be opened: {error}") from error
    if hasattr(images, "loader"):
        # torchvision's would make all values of 16 bits white
        images.loader = open_unconverted
    if isinstance(images, ImageFolder):
        images.samples = [sample for sample in images.samples if not has_hidden_part(sample[0], Path(images.root))]
    return images


def find_split(root: Path, split: str, tars: bool = True) -> Path:
    """The folder or tar file of a split; timm would take `root` itself for every split that it does not find.

    Args:
        root: Has the splits.
        split: Name of one; of a folder of torchvision's, also by another word for validation, as timm knows them.
        tars: Whether it may be a tar file, too.

    Raises:
        ValueError: If there is neither, or the split has no name.
    """
    if not split:
        raise ValueError(f"train_split, val_split: got {split!r}, expected a folder or tar file in {root}")
    names = [split, f"{split}.tar"] if tars else [split, *(_VALIDATION if split in _VALIDATION else ())]
    for name in names:
        if (root / name).exists():
            return root / name
    if not tars:
        raise ValueError(f"root: got {root}, expected a folder {split} in it")
    raise ValueError(f"root: got {root} without {split}, expected a folder {root / split} or a file {root / split}.tar")


def reader_classes(source: Any) -> list[str] | None:
    """Names of the classes in the order of the labels, as far as a reader or a torchvision dataset knows them."""
    names = getattr(source, "classes", None)
    if names:
        return [name if isinstance(name, str) else ", ".join(name) for name in names]
    indices = getattr(source, "class_to_idx", None) or getattr(source, "class_name_to_idx", None)
    return sorted(indices, key=indices.get) if indices else None
