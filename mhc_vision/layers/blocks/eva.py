"""The blocks of timm's `Eva` (EVA-02, DINOv3 and other rotary models) with connections in place of their additions."""

from functools import partial

from timm.models.eva import EvaBlock, EvaBlockPostNorm
from torch import Tensor

from mhc_vision.layers.blocks.steps import PreNorm, Step
from mhc_vision.layers.blocks.stream_block import StreamBlock


class EvaStreamBlock(StreamBlock):
    """Forward pass of the blocks of timm's `Eva`, which also take rotary position embeddings."""

    def forward(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Streams (B, N, n, C) to streams; tokens (B, N, C) where the block has an expansion or a reduction."""
        streams, dtype = self.expansion(x), self.token_dtype()
        tokens, streams, res, post = self.connection1.open(streams, dtype)
        streams = self.connection1.merge(streams, self.attention_branch(tokens, rope, attn_mask, is_causal), res, post)
        tokens, streams, res, post = self.connection2.open(streams, dtype)
        streams = self.connection2.merge(streams, self.mlp_branch(tokens), res, post)
        return self.leave(streams, dtype)


class HyperEvaBlock(EvaStreamBlock, EvaBlock):
    """timm's pre-norm `EvaBlock` between streams: EVA-02, DINOv3 and other rotary models."""

    def attention_branch(
        self, tokens: Tensor, rope: Tensor | None, attn_mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        output = self.attn(self.norm1(tokens), rope=rope, attn_mask=attn_mask, is_causal=is_causal)
        if self.gamma_1 is not None:
            output = self.gamma_1 * output
        return self.drop_path1(output)

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        output = self.mlp(self.norm2(tokens))
        if self.gamma_2 is not None:
            output = self.gamma_2 * output
        return self.drop_path2(output)

    def steps(
        self, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> tuple[Step, Step]:
        """Both branches and their parts; see `StreamBlock`."""
        attend = partial(self.attn, rope=rope, attn_mask=attn_mask, is_causal=is_causal)
        parts = (
            PreNorm(self.norm1, attend, self.gamma_1, self.drop_path1),
            PreNorm(self.norm2, self.mlp, self.gamma_2, self.drop_path2),
        )
        return self.make_steps(parts, rope=rope, attn_mask=attn_mask, is_causal=is_causal)


class HyperEvaBlockPostNorm(EvaStreamBlock, EvaBlockPostNorm):
    """timm's `EvaBlockPostNorm`, which norms what a branch returns, between streams."""

    def attention_branch(
        self, tokens: Tensor, rope: Tensor | None, attn_mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        output = self.attn(tokens, rope=rope, attn_mask=attn_mask, is_causal=is_causal)
        return self.drop_path1(self.norm1(output))

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.drop_path2(self.norm2(self.mlp(tokens)))

    def steps(
        self, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> tuple[Step, Step]:
        """Both branches; see `StreamBlock`."""
        return self.make_steps(rope=rope, attn_mask=attn_mask, is_causal=is_causal)
