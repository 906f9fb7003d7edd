"""JPEG files that cost a decoder what photographs cost: noise with the spectrum of natural images, in colour."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import encode_jpeg

SIZE = (375, 500)  # of most images of ImageNet
TARGET_BYTES = 110_000  # their mean

_CONTRAST = 60.0  # standard deviation of the brightness
_COLOURS = torch.tensor([[1.0, 0.35, 0.1], [1.0, 0.0, -0.2], [1.0, -0.35, 0.2]])  # red, green, blue of three sources


def write_photos(folder: Path, count: int, seed: int = 0) -> float:
    """Write `count` files `000000.jpg` and so on, of about 110 kB.

    Args:
        folder: A folder that exists.
        count: How many.
        seed: Of the noise.

    Returns:
        Mean size of a file, in bytes.
    """
    generator = torch.Generator().manual_seed(seed)
    quality = _quality_for(synthetic_photo(generator))
    total = 0
    for index in range(count):
        content = encode_jpeg(synthetic_photo(generator), quality).numpy().tobytes()
        (folder / f"{index:06}.jpg").write_bytes(content)
        total += len(content)
    return total / count


def synthetic_photo(generator: torch.Generator) -> Tensor:
    """Noise whose amplitude falls as 1/frequency (Field 1987), its colours correlated: (3, 375, 500), uint8."""
    height, width = SIZE
    vertical, horizontal = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    amplitude = 1 / (vertical**2 + horizontal**2).sqrt().clamp(min=1 / width)
    spectrum = torch.fft.rfft2(torch.randn(3, height, width, generator=generator)) * amplitude
    sources = torch.fft.irfft2(spectrum, s=SIZE)
    sources = sources / sources.std((1, 2), keepdim=True)
    pixels = torch.einsum("cs,shw->chw", _COLOURS, sources)
    return (128 + _CONTRAST * pixels).round().clamp(0, 255).to(torch.uint8)


def _quality_for(image: Tensor) -> int:
    """The JPEG quality at which an image has about the size of those of ImageNet."""
    return min(range(50, 100), key=lambda quality: abs(len(encode_jpeg(image, quality)) - TARGET_BYTES))
