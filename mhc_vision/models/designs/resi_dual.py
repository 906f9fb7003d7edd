"""ResiDual: a post-norm and a pre-norm residual stream side by side."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mhc_vision.layers import StreamExpansion
from mhc_vision.models.designs.block import DesignedBlock


class ResiDualBlock(DesignedBlock):
    """timm's `Block` on two streams of ResiDual (Xie et al., arXiv 2304.14802, Sec. 2.3).

    Each branch f reads the post-norm stream x and is added to both; the dual stream d is never normed on the way:

        x_{k+1} = LN(x_k + f(x_k))
        d_{k+1} = d_k + f(x_k)

    Both start as the embedded token, x_0 = d_0, and the output is x_N + LN(d_N): see `ResiDualNorm`. Attention and MLP
    are one branch each. `expansion` copies the token in the first block and does nothing in the others.
    """

    def connect(self, depth: int, num_blocks: int, dim: int, num_streams: int) -> None:
        """Add an expansion, which does something in the first block of a stack; it is always to two streams."""
        self.expansion: nn.Module = StreamExpansion(2) if depth == 0 else nn.Identity()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, N, 2, C) -> (B, N, 2, C), post-norm stream first; the first block takes tokens, (B, N, C)."""
        normed, dual = self.expansion(x).unbind(-2)
        output = self.drop_path1(self.ls1(self.attn(normed, attn_mask=attn_mask, is_causal=is_causal)))
        normed, dual = self.norm1(normed + output), dual + output
        output = self.drop_path2(self.ls2(self.mlp(normed)))
        normed, dual = self.norm2(normed + output), dual + output
        return torch.stack([normed, dual], -2)


class ResiDualNorm(nn.LayerNorm):
    """The final LayerNorm of a ViT as ResiDual's read-out x_N + LN(d_N)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, N, 2, C) -> (B, N, C)."""
        normed, dual = input.unbind(-2)
        return normed + F.layer_norm(dual, self.normalized_shape, self.weight, self.bias, self.eps)
