"""A folder of photos in place of a recipe: found among the words, and looked at before anything heavy is imported."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mhc_vision.checks import nearest
from mhc_vision.command_line.given_settings import Given, given_settings, source_of, value_of
from mhc_vision.command_line.named_paths import check_model
from mhc_vision.command_line.option_names import SUBCOMMANDS, check_option_names, data_class_name
from mhc_vision.command_line.recipes import with_config_paths
from mhc_vision.yaml_files import safe_load

ARGUMENT = "PHOTOS"
"""What help and errors call the folder."""

DATA_MODULE = "ImageFolderDataModule"
"""What reads it."""

# options that take no value
_FLAGS = ("-h", "--help", "--print_config")
_SHORT = {"--model": "--model.name", "--out": "--trainer.default_root_dir"}
_TRAIN = "train"
_VALIDATION = ("val", "valid", "validation")
_TEST = ("test",)


class PhotoFolder(NamedTuple):
    """Class folders, and how they are divided.

    Attributes:
        root: The folder.
        train_split: Of `ImageFolderDataModule`: the folder within it that has the class folders.
        val_split: The same for validation; `None` where there is none.
        test_split: The same for test.
        class_names: Of the class folders to train on, sorted.
    """

    root: Path
    train_split: str
    val_split: str | None
    test_split: str | None
    class_names: list[str]


def split_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The folder among the words of `finetune`, and the options; `None` and all words where there is no folder.

    `--model NAME` and `--out DIR` become the options that they stand for.

    Raises:
        ValueError: If there is more than one folder, or one for a subcommand that takes none.
    """
    rest = list(words)
    subcommand = rest.pop(0) if rest and rest[0] in SUBCOMMANDS else None
    folders: list[str] = []
    options: list[str] = []
    takes_value = False
    for word in rest:
        if takes_value or word.startswith("-"):
            options.append(word)
            takes_value = not takes_value and "=" not in word and word not in _FLAGS
        else:
            folders.append(word)
    if not folders:
        return None, list(words)
    if subcommand not in (None, SUBCOMMANDS[0]):
        raise ValueError(
            f"{ARGUMENT}: got {folders[0]} after {subcommand}, expected --config RUN/config.yaml; "
            f"or use mhc-vision evaluate CHECKPOINT {folders[0]}"
        )
    if len(folders) > 1:
        raise ValueError(f"{ARGUMENT}: got {' and '.join(folders)}, expected one folder, then --OPTION VALUE")
    return folders[0], _spelt_out(options)


def find_photos(folder: str) -> PhotoFolder:
    """Looks at the names of the folders in `folder`: `train/<class>` with or without `val/` and `test/`, or `<class>`.

    Raises:
        ValueError: If there is no such folder, or not at least two class folders in it.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "a file" if root.exists() else "not there"
        hint = nearest(folder, SUBCOMMANDS)
        raise ValueError(f"{ARGUMENT}: got {folder}, which is {what}, expected a folder with class folders{hint}")
    names = _folders(root)
    within = {name: _folders(root / name) for name in (_TRAIN, *_VALIDATION, *_TEST) if name in names}
    divided = [name for name, classes in within.items() if classes]
    if _TRAIN in divided:
        val = next((name for name in _VALIDATION if name in divided), None)
        test = next((name for name in _TEST if name in divided), None)
        photos = PhotoFolder(root, _TRAIN, val, test, within[_TRAIN])
    elif divided:
        raise ValueError(f"{ARGUMENT}: got {folder} with {divided[0]}/ alone, expected {folder}/{_TRAIN}/<class>/ too")
    elif _TRAIN in names and set(names) <= {_TRAIN, *_VALIDATION, *_TEST}:
        # images of all classes in one folder: their classes are not known
        raise ValueError(
            f"{ARGUMENT}: got {folder} with {' and '.join(f'{name}/' for name in names)} without class folders, "
            f"expected {folder}/{_TRAIN}/<class>/*.jpg"
        )
    else:
        photos = PhotoFolder(root, ".", None, None, names)
    place = root / photos.train_split
    if not photos.class_names:
        raise ValueError(
            f"{ARGUMENT}: got {place} without class folders, expected {place}/<class>/*.jpg: the images of each class "
            "in a folder of its own"
        )
    if len(photos.class_names) == 1:
        raise ValueError(
            f"{ARGUMENT}: got {place} with one class folder, {photos.class_names[0]}, expected at least two: a model "
            "learns to tell classes apart"
        )
    return photos


def check_photo_options(options: Sequence[str]) -> list[Given]:
    """Looks at the options beside a folder: what they set.

    Raises:
        ValueError: If there is no such option or file, no model is named or there can be none of this name, or other
            data are.
    """
    given = given_settings(with_config_paths(options), safe_load)
    check_option_names("finetune", [Given(ARGUMENT, {"data": DATA_MODULE}), *given])
    for one in given:
        if (name := data_class_name(one.settings.get("data"))) not in (None, DATA_MODULE):
            raise ValueError(f"data: got {name} in {one.source}, expected none: {ARGUMENT} are the data")
        if one.source == "--data.root":
            raise ValueError(f"data.root: got it with {ARGUMENT}, expected one of them")
    model = value_of(given, "model.name")
    if model is None:
        raise ValueError(
            "model: got none, expected --model NAME, such as vit_small_patch14_reg4_dinov2_mhc; mhc-vision list models "
            "prints them"
        )
    if not isinstance(model, str | int | float):
        # a file of settings in place of a name has been read
        raise ValueError(f"model: got settings from {source_of(given, 'model.name')}, expected the name of a model")
    check_model(str(model))
    return given


def _spelt_out(options: Sequence[str]) -> list[str]:
    spelt: list[str] = []
    for place, word in enumerate(options):
        name, equals, value = word.partition("=")
        is_value = place > 0 and options[place - 1] in _SHORT
        spelt.append(word if is_value else f"{_SHORT.get(name, name)}{equals}{value}")
    return spelt


def _folders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{ARGUMENT}: {folder} cannot be listed: {error.strerror}") from error
