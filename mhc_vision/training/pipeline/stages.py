"""Stages: a timm model cut between its blocks."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mhc_vision.layers.blocks.stack import StreamStack
from mhc_vision.models.eva_mhc import HyperEva
from mhc_vision.models.vision_transformer_mhc import HyperVisionTransformer

_MODELS = (VisionTransformer, HyperVisionTransformer, Eva, HyperEva)
_AFTER_BLOCKS = ("norm", "fc_norm", "attn_pool", "head_drop", "head")


class Stage(nn.Module):
    """Consecutive blocks of a model; the first stage also embeds images, the last one makes logits.

    Stages meet after the merge of a block: what passes between them is one tensor, the streams (B, N, n, C) or, in a
    plain model, the tokens (B, N, C). A stage is a stack of its own, so `stream_stride` counts from its end, and what
    the backward pass makes again lies within it.

    Args:
        model: The whole model, in which the parameters of other stages may be on the meta device.
        part: The blocks.

    Attributes:
        image_size: Height and width of the images that are on their way, from which rotary embeddings follow.
    """

    def __init__(self, model: nn.Module, part: range) -> None:
        super().__init__()
        # a tuple keeps the model out of the submodules, and its other parameters out of this stage's
        self._model: tuple[Any] = (model,)
        self._part = slice(part.start, part.stop)
        self._names = {name for name, _ in model.named_parameters() if _block_of(name, model) in part}
        self.image_size: tuple[int, int] = (0, 0)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of this stage, by their names in the model."""
        return ((name, value) for name, value in self._model[0].named_parameters() if name in self._names)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W), streams or tokens to streams, tokens or logits (B, num_classes)."""
        model = self._model[0]
        rope: Any = None
        if self._part.start == 0:
            x = model._pos_embed(model.patch_embed(x))
            x, rope = x if isinstance(x, tuple) else (x, None)
            x = model.norm_pre(x)
        elif getattr(model, "rope", None) is not None:
            grid = model.patch_embed.dynamic_feat_size(self.image_size)
            rope = model.rope.get_embed(shape=grid) if model.dynamic_img_size else model.rope.get_embed()
        arguments = {} if rope is None else {"rope": rope}
        blocks = list(model.blocks)[self._part]
        if isinstance(model.blocks, StreamStack):
            x = model.blocks.run(x, [arguments] * len(blocks), self._part)
        else:
            for block in blocks:
                x = block(x, **arguments)
        return model.forward_head(model.norm(x)) if self._part.stop == len(model.blocks) else x


def check_model(model: nn.Module, num_stages: int) -> None:
    """Raise ValueError unless a model can be cut into so many stages."""
    kind = type(model).__name__
    if type(model) not in _MODELS:
        expected = ", ".join(sorted(known.__name__ for known in _MODELS))
        raise ValueError(f"model: got {kind} for a pipeline, expected one of {expected}; train it with DDP or FSDP2")
    timm_model: Any = model
    if (depth := len(timm_model.blocks)) < num_stages:
        raise ValueError(
            f"trainer.strategy.pipeline_size: got {num_stages} stages for {depth} blocks, expected at most one stage "
            "for each block; take fewer processes, or the schedule 1F1B, which has one stage in each"
        )
    rope: Any = getattr(timm_model, "rope", None)
    drawn = [name for name in ("shift_coords", "jitter_coords", "rescale_coords") if getattr(rope, name, None)]
    if rope is not None and (drawn or any(True for _ in rope.parameters())):
        what = f"rotary embeddings with {drawn[0]}" if drawn else "rotary embeddings that are learned"
        raise ValueError(f"model: got {what} for a pipeline, expected the same ones in all stages; take DDP or FSDP2")
    if type(getattr(timm_model, "patch_drop", None)) not in (nn.Identity, type(None)):
        raise ValueError(
            "model_args.patch_drop_rate: got tokens to drop in a pipeline, expected 0: stages know their number"
        )
    if getattr(timm_model, "grad_checkpointing", False):
        raise ValueError("model: got grad_checkpointing for a pipeline, expected none; take model_args.stream_stride")


def stage_parts(num_blocks: int, num_stages: int) -> list[range]:
    """The blocks of each stage, as even as can be."""
    cuts = [round(index * num_blocks / num_stages) for index in range(num_stages + 1)]
    return [range(*cut) for cut in pairwise(cuts)]


def keep_parts(model: nn.Module, parts: list[range]) -> None:
    """Leave the parameters of these blocks and of the ends beside them; all others go to the meta device, in place.

    Names, shapes and order stay those of the whole model, so parameter groups and checkpoints do, too.
    """
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            path = f"{prefix}.{name}" if prefix else name
            if parameter is not None and not any(_block_of(path, model) in part for part in parts):
                empty = torch.empty_like(parameter, device="meta")
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)


def _block_of(name: str, model: Any) -> int:
    """The block that a parameter belongs to; the ends belong to the first and to the last one."""
    first, _, rest = name.partition(".")
    if first == "blocks":
        return int(rest.partition(".")[0])
    return len(model.blocks) - 1 if first in _AFTER_BLOCKS else 0
