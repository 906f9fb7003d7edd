"""The logits of a loaded model on image files, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.decode import decode_rgb
from mhc_vision.data.loaders import outlive_sigterm
from mhc_vision.data.transforms import eval_transform
from mhc_vision.finite import finite_rows
from mhc_vision.inference.evaluation_images import EvaluationImages, collate_readable
from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.inference.options import InferenceOptions
from mhc_vision.progress import ShortBar


class ImageLogits(NamedTuple):
    """What `image_logits` gives for a batch of files.

    Attributes:
        indices: (B,) int64 on the CPU, places of the readable files among all; B may be 0.
        logits: (B, num_classes) fp32, on the device.
        errors: What is wrong with each of the other files, with its name.
    """

    indices: Tensor
    logits: Tensor
    errors: list[str]


def image_logits(
    loaded: LoadedModel,
    paths: Sequence[str],
    options: InferenceOptions,
    description: str,
    decode: Callable[[str], Tensor] | None = None,
) -> Iterator[ImageLogits]:
    """Runs a model on image files, in their order, under a progress bar on stderr.

    Args:
        loaded: The model and how its images are made.
        paths: The files.
        options: How.
        description: What the bar says.
        decode: Reads a file as (3, H, W), uint8, and raises ValueError where it cannot; `None` for `decode_rgb`,
            with the EXIF orientation where the model was trained with it.

    Raises:
        ValueError: If the data settings are out of range or the model does not run on one of its images; before the
            first file is read. After the last one, if there were logits that are not finite.
    """
    transform = eval_transform(loaded.img_size, loaded.interpolation, loaded.crop_pct, loaded.crop_mode)
    device = options.torch_device()
    if decode is None:
        decode = partial(decode_rgb, exif_orientation=bool(loaded.exif_orientation))
    loader = DataLoader(
        EvaluationImages(paths, transform, decode),
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        collate_fn=collate_readable,
        pin_memory=device.type == "cuda",
        worker_init_fn=outlive_sigterm,
    )
    model = loaded.model.to(device)
    check_runs(model, loaded, device)
    normalise = BatchAugment(loaded.mean, loaded.std, loaded.num_classes).eval().to(device)

    @torch.inference_mode()
    def logits_of(images: Tensor, indices: Tensor) -> Tensor:
        if not len(indices):
            return torch.empty(0, loaded.num_classes, device=device)
        images, _ = normalise(images.to(device, non_blocking=True), indices)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            logits = model(images)
        return logits.float()

    def batches() -> Iterator[ImageLogits]:
        lost: list[str] = []
        with ShortBar(desc=description, total=len(paths), unit="images") as bar:
            for indices, images, errors in loader:
                logits = logits_of(images, indices)
                lost += [paths[index] for index in indices[~finite_rows(logits).cpu()].tolist()]
                yield ImageLogits(indices, logits, errors)
                bar.update(len(indices) + len(errors))
        if lost:
            raise ValueError(
                f"model: {loaded.source} gives logits with NaN or infinity for {len(lost)} of {len(paths)} images, "
                f"such as {lost[0]}, expected finite ones: it has diverged in training, or the precision is too low"
            )

    return batches()


@torch.inference_mode()
def check_runs(model: nn.Module, loaded: LoadedModel, device: torch.device) -> None:
    """Finds a size that the model does not take, or an output that is no logits, before an image is read.

    Raises:
        ValueError: If it finds one.
    """
    image = torch.zeros(1, loaded.in_chans, loaded.img_size, loaded.img_size, device=device)
    try:
        logits = model(image)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"model: got {loaded.source}, expected one that runs on images of {loaded.img_size} pixels: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, loaded.num_classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"model: got {got} from {loaded.source} for an image, expected logits (1, {loaded.num_classes})"
        )
