"""A recipe for a folder of photos, from the number of images, the model and the machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config

from mhc_vision.command_line.given_settings import Given, source_of, value_of
from mhc_vision.data.machine import available_cores
from mhc_vision.data.transforms import INTERPOLATIONS
from mhc_vision.inference.load_model import load_model
from mhc_vision.models.names import split_name

SCHEDULES = (
    # up to so many training images: epochs, images of a step
    (200, 40, 16),
    (1_000, 30, 32),
    (5_000, 20, 64),
    (50_000, 10, 128),
    (math.inf, 5, 128),
)
"""This project's first choice: some hundred steps for the smallest folders, some thousand for large ones."""

BASE_LR, BASE_BATCH = 1e-4, 128
"""Those of `configs/finetune`; smaller steps take the square root of their share, as is usual with Adam."""

_AS_THERE = {
    "model.layer_decay": 0.65,
    "model.label_smoothing": 0.1,
    "model.model_args.drop_path_rate": 0.1,
    "trainer.gradient_clip_val": 1.0,
}
_LARGEST_OWN_SIZE, _SIZE_INSTEAD = 384, 224
_SMALL_FOLDER = 1_000
_MOST_WORKERS = 8
_MOST_STEPS_A_LOG = 50
# one of them is enough: what is given takes the place of the others
_INSTEAD = {
    # a time alone would leave the schedule without a length
    "trainer.max_epochs": ("trainer.max_epochs", "trainer.max_steps"),
    "model.warmup_epochs": ("model.warmup_epochs", "model.warmup_steps"),
    "data.total_batch_size": ("data.total_batch_size", "data.batch_size"),
}


@dataclass(frozen=True)
class StartImages:
    """The images that a model was made for.

    Attributes:
        img_size: Height and width that fine-tuning takes, in pixels.
        own_size: Those of the model: larger where it would take very long.
        mean: Of each channel, for pixels in 0..1.
        std: Their standard deviation.
        crop_pct: Part of the resized image's shorter side that the crop covers.
        interpolation: Of resizing.
    """

    img_size: int
    own_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str


def start_images(name: str) -> StartImages:
    """The images that the model of this name was made for, by its own record.

    Args:
        name: As in `load_model`. The weights of a timm name are not loaded.

    Raises:
        ValueError: If there is no such model, or it takes no RGB images.
    """
    if timm.is_model(split_name(name).registered) and not Path(name).exists():
        try:
            with torch.device("meta"):
                model: Any = timm.create_model(name)
        except RuntimeError as error:
            # of a tag that there is not
            raise ValueError(f"model: got {name!r}, expected a model that timm makes: {error}") from error
        config = resolve_model_data_config(model)
        own_size = config["input_size"][-1]
    else:
        loaded = load_model(name, needs_rgb_classes=False)
        if loaded.in_chans != 3:
            raise ValueError(
                f"model: got {name} for images of {loaded.in_chans} channel(s), expected 3: photos are read as RGB"
            )
        model, config, own_size = loaded.model, vars(loaded), loaded.img_size
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))[0]
    return StartImages(
        img_size=own_size if own_size <= _LARGEST_OWN_SIZE else _SIZE_INSTEAD // patch * patch,
        own_size=own_size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_pct=config["crop_pct"],
        # timm knows more kinds than ours
        interpolation=config["interpolation"] if config["interpolation"] in INTERPOLATIONS else "bicubic",
    )


def photo_recipe(num_train: int, images: StartImages, has_gpu: bool, given: Sequence[Given]) -> dict[str, Any]:
    """The options of `finetune` that are not given.

    Args:
        num_train: Images to train on.
        images: Those of the start.
        has_gpu: Whether a GPU trains.
        given: What the user sets, which is left out; the rest goes with it.

    Returns:
        Options by name.
    """
    epochs: float
    epochs, batch_size = next(choice for limit, *choice in SCHEDULES if num_train <= limit)
    batch_size = _whole(given, "data.total_batch_size", "data.batch_size") or min(batch_size, num_train)
    steps_per_epoch = max(1, num_train // batch_size)
    max_steps = _whole(given, "trainer.max_steps")
    of_steps = None if max_steps is None else max_steps / steps_per_epoch
    epochs = _whole(given, "trainer.max_epochs") or of_steps or epochs
    recipe = {
        "trainer.max_epochs": epochs,
        "data.total_batch_size": batch_size,
        "model.lr": float(f"{BASE_LR * math.sqrt(min(1.0, batch_size / BASE_BATCH)):.2g}"),
        # the same for all usual lengths: a run that is made longer goes on
        "model.warmup_epochs": min(1.0, round(epochs / 10, 3)),
        **_AS_THERE,
        "data.img_size": images.img_size,
        "data.crop_pct": images.crop_pct,
        "data.interpolation": images.interpolation,
        "data.mean": list(images.mean),
        "data.std": list(images.std),
        "data.exif_orientation": True,
        "data.num_workers": min(_MOST_WORKERS, available_cores() - 1),
        "trainer.accelerator": "auto",
        "trainer.devices": 1,
        "trainer.precision": _mixed_precision() if has_gpu else "32-true",
        "trainer.log_every_n_steps": min(_MOST_STEPS_A_LOG, max(1, steps_per_epoch // 4)),
    }
    return {
        name: value
        for name, value in recipe.items()
        if all(source_of(given, one) is None for one in _INSTEAD.get(name, (name,)))
    }


def val_share(num_images: int) -> float:
    """Part of each class that is held out of so many images: more of few, of which a tenth would say little."""
    return 0.2 if num_images < _SMALL_FOLDER else 0.1


def _mixed_precision() -> str:
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _whole(given: Sequence[Given], *names: str) -> int | None:
    """The first of these that is given as a number of something; other values are left to the parser."""
    for name in names:
        value = value_of(given, name)
        value = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(value, int) and value > 0:
            return value
    return None
