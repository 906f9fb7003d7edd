"""DesignedBlock: what the blocks of all residual designs have in common."""

from typing import ClassVar

from timm.models.vision_transformer import Block


class DesignedBlock(Block):
    """timm's `Block`, whose modules are connected in another way; `apply_design` makes it of a block that is there."""

    starts_plain: ClassVar[bool] = False
    """Whether a model of these blocks starts with the function of the plain model, so that it can take its weights."""

    def check(self) -> None:
        """Raise ValueError for modules that the design cannot connect. Nothing has been changed yet."""

    def connect(self, depth: int, num_blocks: int, dim: int, num_streams: int) -> None:
        """Add what the design adds to this block.

        Args:
            depth: index of the block.
            num_blocks: of the stack.
            dim: channels C.
            num_streams: of designs with streams, from 1 to 8.
        """
