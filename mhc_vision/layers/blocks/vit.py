"""The blocks of timm's `VisionTransformer` with hyper-connections in place of their two additions: `HyperBlock`, ..."""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from timm.models.vision_transformer import Block, ParallelThingsBlock, ResPostBlock
from torch import Tensor

from mhc_vision.layers.blocks.steps import PreNorm, Step
from mhc_vision.layers.blocks.stream_block import StreamBlock


class ViTStreamBlock(StreamBlock):
    """Forward pass of the blocks of timm's `VisionTransformer`."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Streams (B, N, n, C) to streams; tokens (B, N, C) where the block has an expansion or a reduction."""
        streams, dtype = self.expansion(x), self.token_dtype()
        tokens, streams, res, post = self.connection1.open(streams, dtype)
        streams = self.connection1.merge(streams, self.attention_branch(tokens, attn_mask, is_causal), res, post)
        tokens, streams, res, post = self.connection2.open(streams, dtype)
        streams = self.connection2.merge(streams, self.mlp_branch(tokens), res, post)
        return self.leave(streams, dtype)


class HyperBlock(ViTStreamBlock, Block):
    """timm's pre-norm `Block` whose attention and MLP each sit in a hyper-connection; see `StreamBlock`.

    Args:
        dim: channels C.
        num_heads: attention heads.
        depth: index of the block; its branches have the layer indices 2·depth and 2·depth + 1.
        connection: `shc`, `dhc` or `mhc`.
        num_streams: n, from 1 to 8.
        connection_options: further arguments of the connection's class.
        **kwargs: of timm's `Block`.

    Raises:
        ValueError: unknown connection, or an option out of range.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        depth: int = 0,
        connection: str = "mhc",
        num_streams: int = 4,
        connection_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, num_heads, depth=depth, **kwargs)
        self.add_connections(dim, depth, connection, num_streams, connection_options)

    def attention_branch(self, tokens: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.drop_path1(self.ls1(self.attn(self.norm1(tokens), attn_mask=attn_mask, is_causal=is_causal)))

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.drop_path2(self.ls2(self.mlp(self.norm2(tokens))))

    def steps(self, attn_mask: Tensor | None = None, is_causal: bool = False) -> tuple[Step, Step]:
        """Both branches and their parts; see `StreamBlock`."""
        attend = partial(self.attn, attn_mask=attn_mask, is_causal=is_causal)
        parts = (
            PreNorm(self.norm1, attend, getattr(self.ls1, "gamma", None), self.drop_path1, (self.ls1,)),
            PreNorm(self.norm2, self.mlp, getattr(self.ls2, "gamma", None), self.drop_path2, (self.ls2,)),
        )
        return self.make_steps(parts, attn_mask=attn_mask, is_causal=is_causal)


class HyperResPostBlock(ViTStreamBlock, ResPostBlock):
    """timm's `ResPostBlock`, which norms what a branch returns, between streams."""

    def attention_branch(self, tokens: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.drop_path1(self.norm1(self.attn(tokens, attn_mask=attn_mask, is_causal=is_causal)))

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.drop_path2(self.norm2(self.mlp(tokens)))

    def steps(self, attn_mask: Tensor | None = None, is_causal: bool = False) -> tuple[Step, Step]:
        """Both branches; see `StreamBlock`."""
        return self.make_steps(attn_mask=attn_mask, is_causal=is_causal)


class HyperParallelThingsBlock(ViTStreamBlock, ParallelThingsBlock):
    """timm's `ParallelThingsBlock` between streams: its parallel attentions are one branch, its MLPs the other."""

    if TYPE_CHECKING:
        attns: Any
        ffns: Any

    def attention_branch(self, tokens: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        outputs = []
        for attn in self.attns:
            output = attn.attn(attn.norm(tokens), attn_mask=attn_mask, is_causal=is_causal)
            outputs.append(attn.drop_path(attn.ls(output)))
        return torch.stack(outputs).sum(dim=0)

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return torch.stack([ffn(tokens) for ffn in self.ffns]).sum(dim=0)

    def steps(self, attn_mask: Tensor | None = None, is_causal: bool = False) -> tuple[Step, Step]:
        """Both branches; see `StreamBlock`."""
        return self.make_steps(attn_mask=attn_mask, is_causal=is_causal)
