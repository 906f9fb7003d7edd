"""The class of each pixel of image files, as mask files."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from mhc_vision.atomic_files import new_directory
from mhc_vision.checks import check_number, first_few
from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.decode import decode_file
from mhc_vision.data.segmentation.datamodule import EvalTransform
from mhc_vision.data.segmentation.masks import check_elongation
from mhc_vision.finite import finite_rows
from mhc_vision.inference.input_files import check_some_readable
from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.inference.logits import check_runs
from mhc_vision.inference.model_class_names import names_of_classes
from mhc_vision.inference.options import InferenceOptions
from mhc_vision.progress import ShortBar
from mhc_vision.segmentation_scores import resized
from mhc_vision.stored.checkpoint_schema import MOST_PIXELS

_OVERLAY_ALPHA = 0.5


def predict_masks(
    loaded: LoadedModel,
    files: Sequence[str],
    directory: Path,
    options: InferenceOptions,
    overlays: bool,
    exif_orientation: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Writes the mask of each image: a PNG with the number of a class in each pixel and a palette to see it by.

    Images are resized as in validation, one by one: the shorter side becomes the model's `img_size / crop_pct`, and
    windows of `img_size` slide over it. The logits are resized to the image.

    Args:
        loaded: A model of segmentation.
        files: The images.
        directory: A new or empty one, which appears when all masks are written.
        options: Device and precision.
        overlays: Write `<name>_overlay.jpg`, the image under its mask, too.
        exif_orientation: Turn photos upright.

    Returns:
        Of each file that could be read `image`, `mask` and `classes`, the share of the pixels of each class that is
        predicted; and what is wrong with each other file, with its name.

    Raises:
        ValueError: If two images have one name, the model does not run, no file can be read, a mask cannot be written,
            or logits are not finite; then there is no directory.
    """
    if twice := [stem for stem, count in Counter(Path(file).stem for file in files).items() if count > 1]:
        raise ValueError(f"images: got several files of the names {first_few(twice)}, expected one mask for each name")
    device = options.torch_device()
    check_runs(loaded.model.to(device), loaded, device)
    logits_of = _logits_function(loaded, options, device)
    names = names_of_classes(loaded) or [str(index) for index in range(loaded.num_classes)]
    palette = class_colors(loaded.num_classes)
    images: list[dict[str, Any]] = []
    unreadable: list[str] = []
    with new_directory(directory) as temporary, ShortBar(desc="predict", total=len(files), unit="images") as bar:
        for file in files:
            bar.update(1)
            try:
                image = decode_file(file, exif_orientation)
                check_elongation(image, file)
            except ValueError as error:
                unreadable.append(str(error))
                continue
            mask = logits_of(image, file).argmax(0).to(torch.uint8).cpu()
            stem = Path(file).stem
            stored = Image.fromarray(mask.numpy())
            stored.putpalette(palette.flatten().tolist())
            try:
                stored.save(temporary / f"{stem}.png")
                if overlays:
                    drawn = draw_overlay(image, mask, palette)
                    Image.fromarray(drawn.permute(1, 2, 0).numpy()).save(temporary / f"{stem}_overlay.jpg", quality=90)
            except OSError as error:
                raise ValueError(f"masks: that of {file} cannot be written: {error.strerror or error}") from error
            counts = mask.flatten().bincount(minlength=loaded.num_classes).double() / mask.numel()
            shares = {names[label]: round(share, 6) for label, share in enumerate(counts.tolist()) if share}
            images.append({"image": file, "mask": str(directory / f"{stem}.png"), "classes": shares})
        check_some_readable(files, unreadable)
    return images, unreadable


def _logits_function(
    loaded: LoadedModel, options: InferenceOptions, device: torch.device
) -> Callable[[Tensor, str], Tensor]:
    """What gives logits (num_classes, H, W) of an image uint8 (3, H, W) and the name that an error gives it."""
    model: Any = loaded.model
    short_side = loaded.img_size / loaded.crop_pct
    check_number(
        f"crop_pct: {loaded.source}: shorter side of a resized image", short_side, at_least=1, at_most=MOST_PIXELS
    )
    resize = EvalTransform(round(short_side), loaded.interpolation).resize
    normalise = BatchAugment(loaded.mean, loaded.std, loaded.num_classes).eval().to(device)

    @torch.inference_mode()
    def logits_of(image: Tensor, file: str) -> Tensor:
        pixels, _ = normalise(resize(image).unsqueeze(0).to(device), torch.empty(0))
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            logits = model.predict(pixels).float()
        if not finite_rows(logits).all():
            raise ValueError(
                f"model: {loaded.source} gives logits with NaN or infinity for {file}, expected finite ones: it has "
                "diverged in training, or the precision is too low"
            )
        return resized(logits, image[:1])[0]

    return logits_of


def draw_overlay(image: Tensor, mask: Tensor, palette: np.ndarray) -> Tensor:
    """An image uint8 (3, H, W) under the colours of a mask (H, W); the first class, mostly background, stays clear."""
    present = [int(label) for label in mask.unique() if label > 0]
    if not present:
        return image
    layers = torch.stack([mask == label for label in present])
    colors = [tuple(map(int, palette[label])) for label in present]
    return draw_segmentation_masks(image, layers, _OVERLAY_ALPHA, colors)


def class_colors(num_classes: int) -> np.ndarray:
    """Colours of the classes, (num_classes, 3), uint8: Pascal VOC's, which take the bits of a label from the lowest."""
    labels = np.arange(num_classes)
    colors = np.zeros((num_classes, 3), dtype=np.uint8)
    for place in range(3):
        for channel in range(3):
            bit = (labels >> (3 * place + channel)) & 1
            colors[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return colors
