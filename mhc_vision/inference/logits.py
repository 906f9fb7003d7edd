"""The logits of a loaded model on image files, batch by batch."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mhc_vision.inference.image_outputs import ImageOutputs, image_outputs, output_of_blank
from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.inference.options import InferenceOptions


def image_logits(
    loaded: LoadedModel,
    paths: Sequence[str],
    options: InferenceOptions,
    description: str,
    decode: Callable[[str], Tensor] | None = None,
) -> Iterator[ImageOutputs]:
    """Runs a model on image files, in their order, under a progress bar on stderr.

    Args:
        loaded: The model and how its images are made.
        paths: The files.
        options: How.
        description: What the bar says.
        decode: As in `image_outputs`.

    Returns:
        Batches whose outputs are logits (B, num_classes).

    Raises:
        ValueError: If the data settings are out of range or the model does not run on one of its images; before the
            first file is read. After the last one, if there were logits that are not finite.
    """
    device = options.torch_device()
    model = loaded.model.to(device)
    check_runs(model, loaded, device)
    return image_outputs(loaded, paths, options, description, decode, model, (loaded.num_classes,), "logits")


def check_runs(model: nn.Module, loaded: LoadedModel, device: torch.device) -> None:
    """Finds a size that the model does not take, or an output that is no logits, before an image is read.

    Raises:
        ValueError: If it finds one.
    """
    logits = output_of_blank(model, loaded, device)
    if not isinstance(logits, Tensor) or logits.shape != (1, *loaded.logits_shape):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"model: got {got} from {loaded.source} for an image, expected logits {(1, *loaded.logits_shape)}"
        )
