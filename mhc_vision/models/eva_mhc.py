"""Rotary vision transformers with hyper-connections: DINOv3, registered with timm as `vit_*_dinov3_{shc,dhc,mhc}`."""

from timm.models.eva import Eva
from timm.models.eva import checkpoint_filter_fn as plain_checkpoint_filter_fn

from mhc_vision.models.architectures import EVAS
from mhc_vision.models.hyper_connected import HyperConnected
from mhc_vision.models.registration import connected_default_cfgs, register_architectures
from mhc_vision.models.state_dicts import connected_filter

__all__ = ["HyperEva", "checkpoint_filter_fn"]


class HyperEva(HyperConnected, Eva):
    """timm's `Eva` with a hyper-connection in place of every residual addition; see `HyperConnected`."""


checkpoint_filter_fn = connected_filter(plain_checkpoint_filter_fn)
# timm looks for this name when a model is registered, so it stands above the registration
default_cfgs = connected_default_cfgs(EVAS)
register_architectures(__name__, HyperEva, EVAS, checkpoint_filter_fn)
