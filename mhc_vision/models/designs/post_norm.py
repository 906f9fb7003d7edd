"""Post-norm: the residual connection of the original transformer."""

from torch import Tensor

from mhc_vision.models.designs.block import DesignedBlock


class PostNormBlock(DesignedBlock):
    """timm's `Block` with each norm after the addition: x' = norm(x + F(x)) (arXiv 1706.03762, Sec. 3.1).

    timm's `ResPostBlock` is another design, Swin V2's res-post-norm x' = x + norm(F(x)) (arXiv 2111.09883), whose
    residual path has no norm in it.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = self.norm1(x + self.drop_path1(self.ls1(self.attn(x, attn_mask=attn_mask, is_causal=is_causal))))
        return self.norm2(x + self.drop_path2(self.ls2(self.mlp(x))))
