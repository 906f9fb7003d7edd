"""Creates timm ViTs of a residual design by its name."""

from typing import Any, cast

import timm
import torch
from timm.layers import use_reentrant_ckpt
from timm.models.vision_transformer import Block, ParallelScalingBlock, VisionTransformer
from torch import nn

from mhc_vision.checks import check_choice
from mhc_vision.kernels.checks import check_num_streams
from mhc_vision.layers import connection_no_weight_decay
from mhc_vision.models.designs.alt_up import AltUpBlock
from mhc_vision.models.designs.attn_res import AttnResBlock
from mhc_vision.models.designs.block import DesignedBlock
from mhc_vision.models.designs.mudd import MuddBlock
from mhc_vision.models.designs.post_norm import PostNormBlock
from mhc_vision.models.designs.resi_dual import ResiDualBlock, ResiDualNorm

# of a model's blocks; `parallel` is timm's own block and has to be asked for when the model is made
_BLOCKS: dict[str, type[DesignedBlock]] = {
    "post_norm": PostNormBlock,
    "resi_dual": ResiDualBlock,
    "alt_up": AltUpBlock,
    "mudd": MuddBlock,
    "attn_res": AttnResBlock,
}
DESIGNS = {
    "post_norm": "x' = norm(x + F(x)), the original transformer's (arXiv 1706.03762)",
    "parallel": "attention and MLP side by side on one norm, timm's own block (arXiv 2302.05442)",
    "resi_dual": "ResiDual, a post-norm and a pre-norm stream (arXiv 2304.14802)",
    "alt_up": "AltUp, one of K streams computed in each block, the others predicted (arXiv 2301.13310)",
    "mudd": "MUDD, blocks that read weighted sums of all outputs so far (arXiv 2502.12170)",
    "attn_res": "attention residuals, branches that attend to all branch outputs so far (arXiv 2603.15031)",
}
"""What each residual design is."""


class DesignedVisionTransformer(VisionTransformer):
    """timm's `VisionTransformer` after `apply_design`.

    Attributes:
        num_streams: streams per token between its blocks: two for ResiDual, K for AltUp, else one.
        keeps_history: whether all outputs so far are between its blocks.
    """

    num_streams: int
    keeps_history: bool

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay."""
        return super().no_weight_decay() | connection_no_weight_decay(self)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As timm's; a history is many tensors, which re-entrant checkpoints would pass on without gradients.

        Raises:
            ValueError: a history, and timm set to re-entrant checkpoints.
        """
        if enable and self.keeps_history and use_reentrant_ckpt():
            raise ValueError(
                "grad_checkpointing: got timm's re-entrant checkpoints, expected others, which pass on gradients of "
                "all outputs so far; call timm.layers.set_reentrant_ckpt(False)"
            )
        super().set_grad_checkpointing(enable)

    @torch.jit.ignore
    def forward_intermediates(self, *args: Any, **kwargs: Any) -> Any:
        """As timm's, for one stream; between other blocks there are no features of timm's shape."""
        self._check_single_stream()
        return super().forward_intermediates(*args, **kwargs)

    @torch.jit.ignore
    def prune_intermediate_layers(self, *args: Any, **kwargs: Any) -> Any:
        """As timm's, for one stream."""
        self._check_single_stream()
        return super().prune_intermediate_layers(*args, **kwargs)

    def _check_single_stream(self) -> None:
        if self.num_streams > 1 or self.keeps_history:
            between = "all outputs so far" if self.keeps_history else f"{self.num_streams} streams"
            raise NotImplementedError(
                f"features of single blocks: got a design with {between} between blocks, expected one "
                "stream; use forward_features, which reads them out"
            )


def create_with_design(name: str, design: str, num_streams: int = 4, pretrained: bool = False, **arguments: Any) -> Any:
    """Create a timm ViT of another residual design.

    Args:
        name: timm's name of the plain model.
        design: see `apply_design`; and `parallel`, attention and MLP side by side on one norm, x' = x + F1(y) + F2(y)
            with y = norm(x): timm's `ParallelScalingBlock` (arXiv 2302.05442), whose parameters have names of its own.
        num_streams: K of `alt_up`; the others do not look at it.
        pretrained: load timm's weights; with `alt_up` and `mudd`, which start with the function of the plain model.
        **arguments: of `timm.create_model`.

    Raises:
        ValueError: unknown design, a model that it does not exist for, or pretrained weights that it cannot use.
    """
    check_choice("design", design, DESIGNS)
    if pretrained and not (design in _BLOCKS and _BLOCKS[design].starts_plain):
        raise ValueError(
            f"pretrained: got True, expected False; {design} is another function of the plain model's weights"
        )
    if design == "parallel":
        if "block_fn" in arguments:
            raise ValueError(f"block_fn: got {arguments['block_fn']!r}, expected none; {design} chooses it")
        # as in `check_connection`
        with torch.device("meta"), torch.random.fork_rng(devices=()):
            plain = timm.create_model(name)
        if not isinstance(plain, VisionTransformer):
            raise ValueError(f"model: got {type(plain).__name__}, expected timm's VisionTransformer for {design}")
        return timm.create_model(name, block_fn=ParallelScalingBlock, **arguments)
    return apply_design(timm.create_model(name, pretrained=pretrained, **arguments), design, num_streams)


def apply_design(model: nn.Module, design: str, num_streams: int = 4) -> DesignedVisionTransformer:
    """Connect the branches of a timm ViT in another way, in place; its modules keep their names and weights.

    - `post_norm`: x' = norm(x + F(x)); see `PostNormBlock`. The final norm would norm a second time and becomes
      `nn.Identity()`; a norm after pooling (`fc_norm`) stays.
    - `resi_dual`: two streams; see `ResiDualBlock`. The final norm becomes that of the dual stream, and so does
      `fc_norm` where the model has that one instead, as it has to come before the streams are joined and pooled.
    - `alt_up`: K streams; see `AltUpConnection`.
    - `mudd`: inputs that are weighted sums of all outputs so far; see `MuddBlock`.
    - `attn_res`: branches that attend to all branch outputs so far; see `AttnResBlock`.

    `alt_up` and `mudd` compute what the plain model does at their start, the others do not.

    Args:
        model: timm's `VisionTransformer` itself, with pre-norm blocks.
        design: any but `parallel`.
        num_streams: K of `alt_up`, from 1 to 8; the others do not look at it.

    Returns:
        `model`.

    Raises:
        ValueError: unknown design, a model or blocks that are not supported, or `num_streams` out of range.
    """
    check_choice("design", design, _BLOCKS)
    if type(model) is not VisionTransformer:
        raise ValueError(f"model: got {type(model).__name__}, expected timm's VisionTransformer itself for {design}")
    blocks: list[Any] = list(model.blocks)
    others = {type(block).__name__ for block in blocks if type(block) is not Block}
    if others or not blocks:
        found = ", ".join(sorted(others)) or "none"
        raise ValueError(f"blocks: got {found}, expected at least one of timm's pre-norm Block for {design}")
    if design == "alt_up":
        check_num_streams(num_streams)
    for block in blocks:
        _BLOCKS[design].check(block)
    if design == "resi_dual":
        _use_norm_of_dual_stream(model)

    designed = cast(Any, model)
    designed.__class__ = DesignedVisionTransformer
    for depth, block in enumerate(blocks):
        block.__class__ = _BLOCKS[design]
        block.connect(depth, len(blocks), designed.embed_dim, num_streams)
    if design == "post_norm":
        designed.norm = nn.Identity()
    designed.num_streams = {"resi_dual": 2, "alt_up": num_streams}.get(design, 1)
    designed.keeps_history = design in ("mudd", "attn_res")
    return designed


def _use_norm_of_dual_stream(model: VisionTransformer) -> None:
    """Make the last LayerNorm of the model, wherever it stands, `norm` and ResiDual's read-out."""
    norm: Any = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    if not isinstance(norm, nn.LayerNorm):
        raise ValueError(f"norm: got {type(norm).__name__}, expected a final LayerNorm for resi_dual")
    if norm is model.fc_norm:
        model.fc_norm = nn.Identity()
    norm.__class__ = ResiDualNorm
    model.norm = norm
