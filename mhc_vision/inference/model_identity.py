"""Which model a record is about: its name, its connection and the very weights."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.models.segmenter import Segmenter


def model_identity(loaded: LoadedModel) -> dict[str, Any]:
    """What the records of `evaluate`, `predict`, `embed`, `analyze` and `export` say of a model, however it was named.

    Returns:
        `architecture` (timm's name of the plain model), `connection` (`None` for a plain one), `num_streams` (1 for a
        plain one), of segmentation `decoder`, and `weights_sha256`.
    """
    decoder = {"decoder": loaded.model.decoder_name} if isinstance(loaded.model, Segmenter) else {}
    return {
        "architecture": loaded.settings["name"],
        "connection": loaded.settings["connection"],
        # what the model has: plain ones do not follow the setting
        "num_streams": getattr(loaded.model, "num_streams", 1),
        **decoder,
        "weights_sha256": weights_sha256(loaded.model.state_dict()),
    }


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    r"""SHA-256 of weights, the same wherever they lie: in a checkpoint, an exported directory or a model on a GPU.

    For each tensor, sorted by name, the digest takes a line `<name> <dtype> <shape>\n`, as
    `head.bias torch.float32 (10,)`, and the bytes of its values in row-major order, little-endian as on every machine
    that PyTorch runs on. Resampled weights (another image size) are other weights.

    Args:
        state: Tensors by name, as `nn.Module.state_dict` gives them.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
