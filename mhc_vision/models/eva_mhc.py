"""Rotary vision transformers with hyper-connections: DINOv3, registered with timm as `vit_*_dinov3_{shc,dhc,mhc}`."""

import torch
from timm.models.eva import Eva
from timm.models.eva import checkpoint_filter_fn as plain_checkpoint_filter_fn
from torch import Tensor

from mhc_vision.models.architectures import EVAS
from mhc_vision.models.hyper_connected import HyperConnected
from mhc_vision.models.registration import connected_default_cfgs, register_architectures
from mhc_vision.models.state_dicts import connected_filter

__all__ = ["HyperEva", "checkpoint_filter_fn"]


class HyperEva(HyperConnected, Eva):
    """timm's `Eva` with a hyper-connection in place of every residual addition; see `HyperConnected`."""

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As timm's, whose loop over the blocks is the stack's to run."""
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript leaves out what this alone guards)
            if self.grad_checkpointing:
                return super().forward_features(x, attn_mask, is_causal)
        x, rope = self._pos_embed(self.patch_embed(x))
        x = self.norm_pre(x)
        by_block = getattr(self, "rope_mixed", False)
        if not torch.jit.is_scripting():
            ropes = rope if by_block and rope is not None else [rope] * len(self.blocks)
            given = [
                {"rope": ropes[i], "attn_mask": attn_mask, "is_causal": is_causal} for i in range(len(self.blocks))
            ]
            return self.norm(self.blocks.run(x, given))
        for i, block in enumerate(self.blocks):
            x = block(x, rope[i] if by_block and rope is not None else rope, attn_mask, is_causal)
        return self.norm(x)


checkpoint_filter_fn = connected_filter(plain_checkpoint_filter_fn)
# timm looks for this name when a model is registered, so it stands above the registration
default_cfgs = connected_default_cfgs(EVAS)
register_architectures(__name__, HyperEva, EVAS, checkpoint_filter_fn)
