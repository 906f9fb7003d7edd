"""Vision transformers with hyper-connections, registered with timm as `vit_*_{shc,dhc,mhc}`.

A model has the modules, parameter names and options of timm's `VisionTransformer`; its blocks carry n streams between
them. The first block copies tokens into streams, the last one reads them out, so `blocks` maps (B, N, C) to (B, N, C).
"""

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as plain_checkpoint_filter_fn

from mhc_vision.models.architectures import VISION_TRANSFORMERS
from mhc_vision.models.hyper_connected import HyperConnected
from mhc_vision.models.registration import connected_default_cfgs, register_architectures
from mhc_vision.models.state_dicts import check_copies, check_depth_of_npz, connected_filter

__all__ = ["HyperVisionTransformer", "HyperVisionTransformerDistilled", "checkpoint_filter_fn"]


class HyperVisionTransformer(HyperConnected, VisionTransformer):
    """timm's `VisionTransformer` with a hyper-connection in place of every residual addition; see `HyperConnected`."""

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str, prefix: str = "") -> None:
        """Load plain weights in Google's JAX format; the connections keep their values.

        Args:
            checkpoint_path: an `.npz` file.
            prefix: of its names.

        Raises:
            ValueError: it has another number of blocks, or is no such checkpoint; or the model scales its streams.
        """
        check_copies(self)
        check_depth_of_npz(checkpoint_path, len(self.blocks))
        super().load_pretrained(checkpoint_path, prefix)


class HyperVisionTransformerDistilled(HyperConnected, VisionTransformerDistilled):
    """timm's `VisionTransformerDistilled` (DeiT with a distillation token) with hyper-connections."""


checkpoint_filter_fn = connected_filter(plain_checkpoint_filter_fn)
# timm looks for this name when a model is registered, so it stands above the registration
default_cfgs = connected_default_cfgs(VISION_TRANSFORMERS)
register_architectures(__name__, HyperVisionTransformer, VISION_TRANSFORMERS, checkpoint_filter_fn)
