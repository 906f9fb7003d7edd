"""What a loaded model, or a part of it, gives for image files, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
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


class ImageOutputs(NamedTuple):
    """What `image_outputs` gives for a batch of files.

    Attributes:
        indices: (B,) int64 on the CPU, places of the readable files among all; B may be 0.
        outputs: (B, ...) fp32, on the device.
        errors: What is wrong with each of the other files, with its name.
    """

    indices: Tensor
    outputs: Tensor
    errors: list[str]


def image_outputs(
    loaded: LoadedModel,
    paths: Sequence[str],
    options: InferenceOptions,
    description: str,
    decode: Callable[[str], Tensor] | None,
    forward: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    what: str,
) -> Iterator[ImageOutputs]:
    """Runs a model, or a part of it, on image files, in their order, under a progress bar on stderr.

    Args:
        loaded: The model, which goes to the device, and how its images are made.
        paths: The files.
        options: How.
        description: What the bar says.
        decode: Reads a file as (3, H, W), uint8, and raises ValueError where it cannot; `None` for `decode_rgb`,
            with the EXIF orientation where the model was trained with it.
        forward: Of the model: from normalised images (B, 3, H, W) to (B, *shape).
        shape: Of an image's output.
        what: What the outputs are, in the plural: `logits`.

    Raises:
        ValueError: If the data settings are out of range, before the first file is read. After the last one, if there
            were outputs that are not finite.
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
    loaded.model.to(device)
    normalise = BatchAugment(loaded.mean, loaded.std, loaded.num_classes).eval().to(device)

    @torch.inference_mode()
    def outputs_of(images: Tensor, indices: Tensor) -> Tensor:
        if not len(indices):
            return torch.empty(0, *shape, device=device)
        images, _ = normalise(images.to(device, non_blocking=True), indices)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            outputs = forward(images)
        return outputs.float()

    def batches() -> Iterator[ImageOutputs]:
        lost: list[str] = []
        with ShortBar(desc=description, total=len(paths), unit="images") as bar:
            for indices, images, errors in loader:
                outputs = outputs_of(images, indices)
                lost += [paths[index] for index in indices[~finite_rows(outputs).cpu()].tolist()]
                yield ImageOutputs(indices, outputs, errors)
                bar.update(len(indices) + len(errors))
        if lost:
            raise ValueError(
                f"model: {loaded.source} gives {what} with NaN or infinity for {len(lost)} of {len(paths)} images, "
                f"such as {lost[0]}, expected finite ones: it has diverged in training, or the precision is too low"
            )

    return batches()


@torch.inference_mode()
def output_of_blank(forward: Callable[[Tensor], Any], loaded: LoadedModel, device: torch.device) -> Any:
    """What `forward` gives for one blank image, to find a size that the model does not take before an image is read.

    Raises:
        ValueError: If the model does not run on it.
    """
    image = torch.zeros(1, loaded.in_chans, loaded.img_size, loaded.img_size, device=device)
    try:
        return forward(image)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"model: got {loaded.source}, expected one that runs on images of {loaded.img_size} pixels: {error}"
        ) from error
