"""Weights for hyper-connected models: conversion of plain ones, and checks that a state dict fits."""

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from mhc_vision.layers import CONNECTIONS, ScaledExpansion, connection_parameters

CheckpointFilter = Callable[..., dict[str, Tensor]]

_ADVICE = "create the model with the options of the checkpoint"


def connected_filter(plain_filter: CheckpointFilter) -> CheckpointFilter:
    """timm's checkpoint conversion for a family of models, for the hyper-connected models of that family.

    Args:
        plain_filter: `checkpoint_filter_fn` of timm's module.

    Returns:
        A filter for `build_model_with_cfg`.
    """

    def checkpoint_filter_fn(
        state_dict: dict[str, Tensor], model: nn.Module, strict: bool = True, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Convert a checkpoint; a plain one leaves the connections at the model's values.

        Args:
            state_dict: of a plain or a hyper-connected model, in any layout that timm reads.
            model: to be loaded.
            strict: refuse what does not fit, even where timm would load the rest.
            **kwargs: of timm's filter.

        Returns:
            State dict in the model's names.

        Raises:
            ValueError: names or connections do not fit, or plain weights for a model that scales its streams.
        """
        try:
            converted = plain_filter(state_dict, model, **kwargs)
        except RuntimeError as error:
            raise ValueError(
                f"state_dict: got one that timm cannot convert for this model ({error}); {_ADVICE}"
            ) from error
        if not _connections_in(converted):
            check_copies(model)
            converted = {**converted, **{name: value.detach() for name, value in connection_parameters(model)}}
        check_connections(model, converted, strict=strict)
        if strict:
            _check_names_and_shapes(model, converted)
        return converted

    return checkpoint_filter_fn


def check_connections(model: nn.Module, state_dict: Mapping[str, Tensor], strict: bool = True) -> None:
    """Compare the connections of a checkpoint with those of the model that is to load it.

    Names that are missing or unknown for other reasons, such as a prefix or another depth, are left to PyTorch.

    Args:
        model: hyper-connected.
        state_dict: to be loaded.
        strict: refuse a state dict without connections.

    Raises:
        ValueError: no connections (if `strict`), or others than the model's.
    """
    given = _connections_in(state_dict)
    if not given:
        nested = any(".connection1." in name or isinstance(value, Mapping) for name, value in state_dict.items())
        if strict and state_dict and not nested:
            raise ValueError(
                "state_dict: got one without connections, expected a hyper-connected model's; to start from plain "
                "weights, use mhc_vision.hyperconnect(plain_model), or create_model(..., pretrained=True, "
                "pretrained_cfg_overlay={'file': path})"
            )
        return
    ours, theirs = (_describe(_connections_in(state), state) for state in (model.state_dict(), state_dict))
    if ours != theirs:
        raise ValueError(f"state_dict: got connections {theirs}, expected {ours}; {_ADVICE}")


def check_copies(model: nn.Module) -> None:
    """Raise ValueError if the model, which is to load plain weights, does not keep their function."""
    if any(isinstance(module, ScaledExpansion) for module in model.modules()):
        raise ValueError(
            "stream_expand: got 'scaled' with weights of a plain model, expected 'copy'; scaled streams do not keep "
            "their function: train from scratch, or load a checkpoint that was trained with 'scaled'"
        )


def check_depth_of_npz(path: str | Path, depth: int) -> None:
    """Raise ValueError if a JAX checkpoint has another number of blocks than `depth`: timm would load the first."""
    if not zipfile.is_zipfile(path):
        return  # timm says what it is instead
    with np.load(path) as arrays:
        found = {int(i) for name in arrays.files for i in re.findall(r"Transformer/encoderblock_(\d+)/", name)}
        stacked = [name for name in arrays.files if name.endswith("Transformer/encoderblock/LayerNorm_0/scale")]
        blocks = len(arrays[stacked[0]]) if stacked else len(found)
    if blocks and blocks != depth:
        raise ValueError(f"checkpoint_path: got {path} with {blocks} blocks, expected {depth}")


def _connections_in(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of connections, of a scaled expansion and of a gated read-out."""
    pattern = re.compile(r"blocks\.\d+\.(?:connection[12]|expansion|reduction)\..+")
    return {name: value for name, value in state_dict.items() if pattern.fullmatch(name)}


def _describe(connections: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]) -> str:
    """The options that show in a checkpoint's connections, read from those of the first branch."""
    first = "blocks.0.connection1."
    one = {name.removeprefix(first): value for name, value in connections.items() if name.startswith(first)}
    norms = ("blocks.0.norm1.weight", "blocks.0.attns.0.norm.weight")
    dim = next((len(state_dict[name]) for name in norms if name in state_dict), 1)
    found = ((name, connection.describe_state(one, dim)) for name, connection in CONNECTIONS.items())
    text = next((f"{name} with {options}" for name, options in found if options), "incomplete")
    gated = any(".reduction." in name for name in connections)
    scaled = any(".expansion." in name for name in connections)
    return (
        f"{text}, stream_expand={'scaled' if scaled else 'copy'}, stream_reduce={'gated' if gated else 'mean or sum'}"
    )


def _check_names_and_shapes(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Everything must fit except the classifier and the first convolution's channels, which timm adapts."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    adapted = tuple(f"{name}." for key in ("classifier", "first_conv") for name in _as_tuple(cfg.get(key)))
    ours, theirs = (
        {name: tuple(value.shape) for name, value in state.items() if not name.startswith(adapted)}
        for state in (model.state_dict(), state_dict)
    )
    if ours.keys() != theirs.keys():
        lacking, unknown = _some(ours.keys() - theirs.keys()), _some(theirs.keys() - ours.keys())
        raise ValueError(
            f"state_dict: got one that lacks {lacking} and has unknown {unknown}, expected the model's names; "
            f"{_ADVICE} or give pretrained_strict=False to load what fits"
        )
    for name, shape in theirs.items():
        if shape != ours[name]:
            raise ValueError(f"state_dict: got {name} of shape {shape}, expected {ours[name]}; {_ADVICE}")


def _as_tuple(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _some(names: set[str], limit: int = 3) -> str:
    shown = ", ".join(sorted(names)[:limit]) or "nothing"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
