"""Parameters and multiply-accumulates of the registered models: `python -m mhc_vision.analysis.model_table`.

Multiply-accumulates are those of one image in the model's own input size. PyTorch's `FlopCounterMode` counts the plain
model (half its FLOPs: matrix products, attention, convolution); the connections are counted by formula.
"""

from typing import Any

import timm
import torch
from torch import nn

from mhc_vision.layers import CONNECTIONS, HyperConnection
from mhc_vision.models import hyperconnect
from mhc_vision.models.architectures import EVAS, VISION_TRANSFORMERS
from mhc_vision.models.instruments.costs import image_macs
from mhc_vision.report.markdown import markdown_table


def model_table(num_streams: int = 4) -> str:
    """Markdown table of all registered models.

    Args:
        num_streams: n of the hyper-connected models, from 1 to 8.

    Returns:
        One row per architecture, with its number of classes: parameters and multiply-accumulates of the plain model,
        and what each connection adds to both.

    Raises:
        ValueError: `num_streams` out of range.
    """
    return markdown_table([_row(name, num_streams) for name in (*VISION_TRANSFORMERS, *EVAS)])


def _row(name: str, num_streams: int) -> dict[str, str]:
    with torch.device("meta"):
        plain: Any = timm.create_model(name).eval().requires_grad_(False)
    size = plain.default_cfg["input_size"]
    parameters, macs = _num_parameters(plain), image_macs(plain, size)
    row = {
        "model": f"`{name}_*`",
        "input": "x".join(str(length) for length in size[1:]),
        "parameters": f"{parameters:,}",
        "GMACs": f"{macs / 1e9:.2f}",
    }
    for connection in CONNECTIONS:
        hyper: Any = hyperconnect(plain, connection, num_streams)
        added = _num_parameters(hyper) - parameters
        num_tokens = hyper.patch_embed.num_patches + hyper.num_prefix_tokens
        connections = [module for module in hyper.modules() if isinstance(module, HyperConnection)]
        added_macs = num_tokens * sum(module.macs() for module in connections)
        row[f"`{connection}` adds"] = f"{added:,} ({100 * added / parameters:.2g} %)"
        row[f"GMACs `{connection}` adds"] = f"{added_macs / 1e9:.2g} ({100 * added_macs / macs:.2g} %)"
    return row


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    print(model_table(), end="")
