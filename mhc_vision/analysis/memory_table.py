"""Bytes on each GPU when FSDP2 trains a model: `python -m mhc_vision.analysis.memory_table`.

Weights, gradients and AdamW's two moments are counted from the shards, activations derived from the architecture.

C channels, H hidden channels of the MLP, n streams, r `stream_stride`; bytes of a token and a block under bf16
autocast, where products are bf16 (2 bytes) and streams fp32 (4 bytes). Attention keeps qkv (3C) and its output (C);
with rotary embeddings also what they make of q and k (2C), in whose layout the output then is, which is copied (C). An
MLP keeps what goes into its activation and what comes out (H each), a gated one the other half and the product, too
(4H).

- Plain, a branch: the stream before its norm (4 C), its input, once for each layer that casts it, and its output where
  LayerScale follows (2 C each).
- mHC, a branch: the streams (4 n C / r), its input and its output (2 C each).

Left out are numbers that do not grow with C, both ends of the stack, what autocast makes of the weights, and the r - 1
streams that are made again.
"""

from collections.abc import Iterable
from typing import Any

import timm
import torch
from timm.layers import GluMlp, Mlp, SwiGLU
from torch import nn

from mhc_vision.layers import HyperConnection
from mhc_vision.models import hyperconnect
from mhc_vision.report.markdown import markdown_table

NAMES = ("vit_7b_patch16_dinov3",)
NUMS_GPUS = (8, 16, 64)
# fp32: weights, gradients, two moments
_COPIES, _BYTES = 4, 4


def memory_table(names: Iterable[str] = NAMES, num_streams: int = 4, strides: Iterable[int] = (1, 2, 4)) -> str:
    """Markdown table of GB on each GPU.

    Args:
        names: timm's, of ViTs.
        num_streams: n of the hyper-connected models.
        strides: r of their rows.

    Returns:
        For each model, plain and with mHC: what is sharded over so many GPUs; what is gathered at once; the activations
        of one image in the model's own input size.
    """
    rows = []
    for name in names:
        with torch.device("meta"):
            plain: Any = timm.create_model(name)
        rows.append(_row(f"`{name}`", plain, 1))
        hyper = hyperconnect(plain, "mhc", num_streams)
        rows += [_row(f"`{name}_mhc`, n = {num_streams}, stride {stride}", hyper, stride) for stride in strides]
    return markdown_table(rows)


def _row(label: str, model: Any, stream_stride: int) -> dict[str, str]:
    sharded = {f"{number} GPUs": sharded_bytes(model, number) for number in NUMS_GPUS}
    others = {"gathered": gathered_bytes(model), "activations per image": activation_bytes(model, stream_stride)}
    sizes = {f"{name} (GB)": f"{size / 1e9:.2f}" for name, size in {**sharded, **others}.items()}
    return {"model": label, "parameters": f"{sum(p.numel() for p in model.parameters()):,}", **sizes}


def sharded_bytes(model: nn.Module, num_gpus: int) -> int:
    """Of weights, gradients and moments on the first of so many GPUs, which has the largest shards."""
    rows = ((parameter, -(-parameter.shape[0] // num_gpus)) for parameter in model.parameters())
    return sum(_COPIES * _BYTES * count * parameter[0].numel() for parameter, count in rows)


def gathered_bytes(model: Any) -> int:
    """Of what FSDP2 has whole, at most: all but the branches, the branch in use and the next, and their gradients."""
    branches = [_size(branch) for block in model.blocks for branch in (block.attn, block.mlp)]
    return 2 * _BYTES * (_size(model) - sum(branches) + 2 * max(branches))


def activation_bytes(model: Any, stream_stride: int = 1, product_bytes: int = 2) -> int:
    """Of what the blocks keep of one image for the backward pass, with flash attention.

    Args:
        model: timm's ViT, plain or with mHC that runs fused.
        stream_stride: Of the latter.
        product_bytes: 2 under autocast, 4 in fp32, which casts nothing.

    Raises:
        ValueError: For blocks of another kind than the formula knows.
    """
    return _num_tokens(model) * sum(_block_bytes(block, model, stream_stride, product_bytes) for block in model.blocks)


def _block_bytes(block: Any, model: Any, stream_stride: int, product_bytes: int) -> int:
    if not isinstance(block.mlp, SwiGLU | GluMlp | Mlp) or getattr(block.attn, "qkv", None) is None:
        raise ValueError(
            f"blocks: got {type(block.attn).__name__} and {type(block.mlp).__name__}, expected attention with one "
            "layer for q, k and v, and an MLP, GluMlp or SwiGLU of timm"
        )
    hidden: int = block.mlp.fc2.in_features  # type: ignore[assignment]
    dim, gated = model.embed_dim, not isinstance(block.mlp, Mlp)
    rotary = getattr(model, "rope", None) is not None
    kept = (7 if rotary else 4) * dim + (4 if gated else 2) * hidden
    if any(isinstance(module, HyperConnection) for module in block.modules()):
        streams = 2 * block.connection1.num_streams * dim * _BYTES // stream_stride
        return streams + product_bytes * (kept + 4 * dim)
    scaled = sum(isinstance(value, nn.Parameter) for value in _layer_scales(block))
    inputs = 3 if isinstance(block.mlp, SwiGLU) and product_bytes < _BYTES else 2
    return 2 * dim * _BYTES + product_bytes * (kept + (inputs + scaled) * dim)


def _layer_scales(block: Any) -> list[Any]:
    """Of timm's two kinds of blocks."""
    if hasattr(block, "ls1"):
        return [getattr(block.ls1, "gamma", None), getattr(block.ls2, "gamma", None)]
    return [block.gamma_1, block.gamma_2]


def _num_tokens(model: Any) -> int:
    _, height, width = model.default_cfg["input_size"]
    patch_height, patch_width = model.patch_embed.patch_size
    # a model of another size knows its number
    patches = model.patch_embed.num_patches or (height // patch_height) * (width // patch_width)
    return patches + model.num_prefix_tokens


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    print(memory_table(), end="")
