"""From a folder of photos and a model to the words that `finetune` takes with a configuration file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from mhc_vision.command_line.given_settings import Given, source_of, value_of
from mhc_vision.command_line.photos import ARGUMENT, DATA_MODULE, PhotoFolder
from mhc_vision.data.division import hold_out
from mhc_vision.data.folders import list_class_images
from mhc_vision.finetuning.photo_recipe import StartImages, photo_recipe, start_images, val_share

_RUNS = "runs"


def photo_words(photos: PhotoFolder, options: Sequence[str], given: Sequence[Given]) -> list[str]:
    """The words of `FinetuneCLI` that fine-tune on a folder of photos; says the recipe in a line.

    Args:
        photos: The folder.
        options: The words that are given beside it, which count for more than the recipe.
        given: What they set; `model.name` among it.

    Raises:
        ValueError: If there is no such model, a class has no images or a file has a format that cannot be decoded.
    """
    images = start_images(str(value_of(given, "model.name")))
    place = photos.root / photos.train_split
    labels = list_class_images(place, {name: label for label, name in enumerate(photos.class_names)}, ARGUMENT)[1]
    layout: dict[str, Any] = {
        "trainer.default_root_dir": f"{_RUNS}/{photos.root.resolve().name}",
        "data.train_split": photos.train_split,
        "data.val_split": photos.val_split,
        "data.test_split": photos.test_split,
    }
    num_train = len(labels)
    if photos.val_split is None:
        layout["data.val_share"] = val_share(len(labels))
        num_train = len(hold_out(labels, layout["data.val_share"])[0])
    recipe = {name: value for name, value in layout.items() if source_of(given, name) is None}
    recipe |= photo_recipe(num_train, images, torch.cuda.is_available(), given)
    # a configuration that is printed goes to a file, which a line of words would break
    if not any(word.partition("=")[0] == "--print_config" for word in options):
        held_out = f", {len(labels) - num_train:,} held out to validate on" if num_train < len(labels) else ""
        said = f"{num_train:,} images of {len(photos.class_names)} classes to train on{held_out}"
        rank_zero_only(print)(f"recipe: {said}; {_account(recipe, num_train, images)}", flush=True)
    return [
        "fit",
        *("--data", DATA_MODULE),
        *(word for name, value in recipe.items() for word in (f"--{name}", _text(value))),
        *options,
        # last, as a configuration file may name a folder of its own
        *("--data.root", str(photos.root)),
    ]


def _account(recipe: Mapping[str, Any], num_train: int, images: StartImages) -> str:
    """The choices that people change, in words."""
    said = []
    if "trainer.max_epochs" in recipe:
        said.append(f"{recipe['trainer.max_epochs']} epochs")
    if (batch_size := recipe.get("data.total_batch_size")) is not None:
        steps = num_train // batch_size
        said.append(f"{steps} step{'' if steps == 1 else 's'} of {batch_size} images per epoch")
    if "model.lr" in recipe:
        said.append(f"learning rate {recipe['model.lr']:g}")
    if (img_size := recipe.get("data.img_size")) is not None:
        slower = (images.own_size / img_size) ** 2
        own = f" (--data.img_size {images.own_size}, the model's own, is {slower:.0f} times the work)"
        said.append(f"{img_size} pixels{own if images.own_size != img_size else ''}")
    if "trainer.precision" in recipe:
        said.append(f"precision {recipe['trainer.precision']}")
    return ", ".join(said) or "all else as given"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
