"""How to load and run a model: options that a command can take before PyTorch is imported."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mhc_vision.checks import check_choice, check_whole_number

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelOptions:
    """What `load_model` takes beside the name."""

    connection: str | None = None
    weights: Literal["default", "raw"] = "default"
    img_size: int | None = None
    crop_pct: float | None = None


@dataclass(frozen=True)
class InferenceOptions:
    """How to run a model; nothing but `precision` changes what comes out.

    Args:
        batch_size: Images per batch.
        num_workers: Processes that load images, 0 to load in the main process.
        device: `"auto"` (a GPU where there is one), or a device of torch.
        precision: `"32"`, or `"bf16"` for autocast.

    Raises:
        ValueError: If an option is out of range.
    """

    batch_size: int = 128
    num_workers: int = 4
    device: str = "auto"
    precision: Literal["32", "bf16"] = "32"

    def __post_init__(self) -> None:
        check_whole_number("batch_size", self.batch_size, at_least=1)
        check_whole_number("num_workers", self.num_workers, at_least=0)
        check_choice("precision", self.precision, ("32", "bf16"))
        self.torch_device()

    def torch_device(self) -> "torch.device":
        """The device that `device` means on this machine."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            # a device can be well-formed and not be there
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"device: got {self.device!r}, expected one that torch can use: {error}") from error
        return device


@dataclass(frozen=True)
class EvaluationOptions(InferenceOptions):
    """How to evaluate; nothing but `precision` and `broken` changes what comes out.

    Args:
        broken: What an image that cannot be decoded does: `"raise"` an error, or `"skip"`: it does not count. The
            others are those of `InferenceOptions`.

    Raises:
        ValueError: If an option is out of range.
    """

    broken: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("broken", self.broken, ("raise", "skip"))
