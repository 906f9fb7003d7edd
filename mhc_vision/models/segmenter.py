"""Segmentation models: a timm ViT, plain or connected, under a decoder of segmentation_models_pytorch."""

import importlib.util
import inspect
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mhc_vision.checks import check_choice, check_whole_number
from mhc_vision.segmentation_scores import IGNORED

Decoder = Literal["linear", "dpt", "upernet"]
DECODERS: tuple[str, ...] = get_args(Decoder)

DECODER_SETTINGS = ("decoder", "decoder_channels", "window_stride")
"""The arguments of `Segmenter` among the hyper-parameters of a run."""

_NUM_LEVELS = 4
_WINDOWS_AT_ONCE = 8


class Segmenter(nn.Module):
    """Gives each pixel a logit for each class.

    Decoders read what the ViT's final norm makes of the tokens after a quarter, a half, three quarters and all of its
    blocks; of streams, their read-out. `linear` reads the last of them only.

    - `linear`: batch norm and a 1 x 1 convolution, the head that DINOv2 (arXiv 2304.07193, Sec. 7.4) puts on frozen
      features;
    - `dpt`: reassembled at four scales and fused (arXiv 2103.13413), the prefix tokens' first one included;
    - `upernet`: the same tokens, resized bilinearly to four scales (arXiv 1807.10221).

    Logits of all decoders are resized to the size of the images.

    Args:
        vit: A timm ViT with `forward_intermediates`; its head is taken away.
        num_classes: Number of classes, at most 255: mask files have bytes, one of them for no class.
        decoder: One of the above.
        decoder_channels: Width of `dpt` and `upernet`.
        window_stride: Pixels from one window to the next in images of another size than the ViT's, at most a window;
            `None` for two thirds of it.

    Raises:
        ImportError: If segmentation_models_pytorch is missing.
        ValueError: If an argument is out of range, or the model has no features that a decoder can read.
    """

    def __init__(
        self,
        vit: nn.Module,
        num_classes: int,
        decoder: str = "dpt",
        decoder_channels: int = 256,
        window_stride: int | None = None,
    ) -> None:
        super().__init__()
        check_decoder(decoder, decoder_channels)
        check_whole_number("num_classes", num_classes, at_least=2, at_most=IGNORED)
        self.encoder = ViTFeatures(vit, 1 if decoder == "linear" else _NUM_LEVELS)
        self.num_classes = num_classes
        self.decoder_name = decoder
        if window_stride is not None:
            # longer ones would leave gaps
            check_whole_number("window_stride", window_stride, at_least=1, at_most=min(self.encoder.size))
        self.window_stride = window_stride
        if decoder == "dpt" and any(side % 2 for side in self.encoder.grid):
            raise ValueError(
                f"img_size: got {' x '.join(map(str, self.encoder.grid))} patches, expected even numbers for "
                "decoder dpt, which halves them"
            )
        build = {"linear": LinearDecoder, "dpt": DPTOnTokens, "upernet": UPerNetOnTokens}[decoder]
        # from the seed of the run alone: plain and connected models start with the same decoder
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(torch.initial_seed())
            self.decoder = build(self.encoder, num_classes, decoder_channels)

    @property
    def num_streams(self) -> int:
        """Residual streams of the ViT."""
        return getattr(self.encoder.vit, "num_streams", 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) of images (B, in_chans, H, W) of the ViT's size."""
        levels, prefixes = self.encoder(images)
        return F.interpolate(self.decoder(levels, prefixes), images.shape[-2:], mode="bilinear", align_corners=False)

    def predict(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) of images (B, in_chans, H, W) of any size.

        Windows of the ViT's size slide over them, and each pixel has the mean of the logits of those that cover it.
        What a side lacks to a window is filled with 0, the mean colour, and cut off again.
        """
        height, width = self.encoder.size
        if images.shape[-2:] == (height, width):
            return self(images)
        batch, _, *sides = images.shape
        padded = F.pad(images, (0, max(0, width - sides[1]), 0, max(0, height - sides[0])))
        places = [
            (slice(top, top + height), slice(left, left + width))
            for top in _starts(padded.shape[-2], height, self.window_stride)
            for left in _starts(padded.shape[-1], width, self.window_stride)
        ]
        total = images.new_zeros(batch, self.num_classes, *padded.shape[-2:], dtype=torch.float32)
        count = total.new_zeros(padded.shape[-2:])
        for begin in range(0, len(places), _WINDOWS_AT_ONCE):
            some = places[begin : begin + _WINDOWS_AT_ONCE]
            logits = self(torch.cat([padded[..., rows, columns] for rows, columns in some]))
            for (rows, columns), window in zip(some, logits.split(batch), strict=True):
                total[..., rows, columns] += window
                count[rows, columns] += 1
        return (total / count)[..., : sides[0], : sides[1]]

    def no_weight_decay(self) -> set[str]:
        """Those of the ViT, by timm's convention."""
        undecayed: set[str] = getattr(self.encoder.vit, "no_weight_decay", set)()
        return {f"encoder.vit.{name}" for name in undecayed}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers of the ViT by timm's patterns; the decoder is above them all."""
        groups: dict[str, Any] = self.encoder.vit.group_matcher(coarse)  # type: ignore[operator]
        stem, blocks = groups["stem"], groups["blocks"]
        prefixed = [(pattern.replace("^", r"^encoder\.vit\.", 1), order) for pattern, order in blocks]
        return {"stem": stem.replace("^", r"^encoder\.vit\.(?:", 1) + ")", "blocks": prefixed}


def check_decoder(decoder: str, decoder_channels: int) -> None:
    """Raise ValueError if an option of a decoder is out of range, ImportError if its library is missing."""
    check_choice("decoder", decoder, DECODERS)
    check_whole_number("decoder_channels", decoder_channels, at_least=1)
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        raise ImportError("segmentation needs segmentation_models_pytorch: pip install 'mhc-vision[dense]'")


class ViTFeatures(nn.Module):
    """Patch tokens as maps, and prefix tokens, after evenly spaced blocks.

    Args:
        vit: As in `Segmenter`.
        num_levels: How many blocks, the last one always among them.
    """

    def __init__(self, vit: nn.Module, num_levels: int) -> None:
        super().__init__()
        gives = getattr(vit, "forward_intermediates", None)
        takes = () if gives is None else inspect.signature(gives).parameters
        # residual designs hand all arguments on
        if {"return_prefix_tokens", "kwargs"}.isdisjoint(takes) or not hasattr(
            getattr(vit, "patch_embed", None), "grid_size"
        ):
            raise ValueError(
                f"name: got a {type(vit).__name__}, expected a ViT of timm, which has a grid of patch tokens"
            )
        depth = len(vit.blocks)  # type: ignore[arg-type]
        if depth < num_levels:
            raise ValueError(f"name: got a model of {depth} blocks, expected at least {num_levels} for its decoder")
        self.indices = [depth * level // num_levels - 1 for level in range(1, num_levels + 1)]
        try:
            vit.prune_intermediate_layers([self.indices[-1]], prune_head=True)  # type: ignore[operator]
        except NotImplementedError as error:
            raise ValueError(f"connection: {error}") from error
        self.vit = vit
        self.dim: int = vit.embed_dim  # type: ignore[assignment]
        self.num_prefix_tokens: int = vit.num_prefix_tokens  # type: ignore[assignment]
        self.size: tuple[int, int] = vit.patch_embed.img_size  # type: ignore[union-attr, assignment]
        self.grid: tuple[int, int] = vit.patch_embed.grid_size  # type: ignore[union-attr, assignment]

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """(B, C, gh, gw) and (B, prefix tokens, C) of each level; `None` without prefix tokens."""
        found = self.vit.forward_intermediates(  # type: ignore[operator]
            images, indices=self.indices, norm=True, intermediates_only=True, return_prefix_tokens=True
        )
        if self.num_prefix_tokens:
            return [level for level, _ in found], [prefix for _, prefix in found]
        return found, [None] * len(found)


class LinearDecoder(nn.Module):
    """A class for each patch, from the last tokens."""

    def __init__(self, encoder: ViTFeatures, num_classes: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(encoder.dim)
        self.classify = nn.Conv2d(encoder.dim, num_classes, 1)

    def forward(self, levels: list[Tensor], prefixes: list[Tensor | None]) -> Tensor:
        """(B, num_classes, gh, gw)."""
        return self.classify(self.norm(levels[-1]))


class DPTOnTokens(nn.Module):
    """DPT at 16 times the resolution of the patches."""

    def __init__(self, encoder: ViTFeatures, num_classes: int, channels: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead

        self.fusion = DPTDecoder(
            [encoder.dim] * _NUM_LEVELS,
            # scales are relative to the patches, whatever their size
            encoder_output_strides=[16] * _NUM_LEVELS,
            encoder_has_prefix_tokens=encoder.num_prefix_tokens > 0,
            readout="cat" if encoder.num_prefix_tokens else "ignore",
            intermediate_channels=[channels, 2 * channels, 4 * channels, 4 * channels],
            fusion_channels=channels,
        )
        self.head = DPTSegmentationHead(channels, num_classes)

    def forward(self, levels: list[Tensor], prefixes: list[Tensor | None]) -> Tensor:
        """(B, num_classes, 16 gh, 16 gw)."""
        return self.head(self.fusion(levels, prefixes))


class UPerNetOnTokens(nn.Module):
    """UPerNet at four times the resolution of the patches."""

    def __init__(self, encoder: ViTFeatures, num_classes: int, channels: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        # the first two are of levels that it leaves out
        self.fusion = UPerNetDecoder([0, 0, *[encoder.dim] * _NUM_LEVELS], _NUM_LEVELS + 1, channels)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, levels: list[Tensor], prefixes: list[Tensor | None]) -> Tensor:
        """(B, num_classes, 4 gh, 4 gw)."""
        height, width = levels[0].shape[-2:]
        pyramid = [
            F.interpolate(level, [4 * height >> place, 4 * width >> place], mode="bilinear", align_corners=False)
            for place, level in enumerate(levels)
        ]
        return self.classify(self.fusion([levels[0], levels[0], *pyramid]))


def _starts(side: int, window: int, stride: int | None) -> list[int]:
    """Where windows begin that cover a side; the last one ends with it."""
    last = side - window
    return [*range(0, last, stride or max(1, 2 * window // 3)), last]
