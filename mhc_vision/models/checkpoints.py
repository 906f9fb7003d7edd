"""What a checkpoint must hold to be loaded into a hyper-connected model, and how plain weights become such a one."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from mhc_vision.layers import connection_parameters

CheckpointFilter = Callable[..., dict[str, Tensor]]

_ADVICE = "Create the model with the options of the checkpoint"


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
        """Convert a checkpoint; connections that a plain one lacks keep the model's values.

        Args:
            state_dict: of a plain or a hyper-connected model, in any layout that timm reads.
            model: to be loaded.
            strict: refuse what does not fit, also where timm would load the rest and go on.
            **kwargs: of timm's filter.

        Returns:
            State dict in the model's names.

        Raises:
            ValueError: names or connections do not fit.
        """
        try:
            converted = plain_filter(state_dict, model, **kwargs)
        except RuntimeError as error:
            raise ValueError(f"state_dict: timm cannot convert it for this model ({error}). {_ADVICE}") from error
        if not _connections_in(converted):
            converted = {**converted, **{name: value.detach() for name, value in connection_parameters(model)}}
        check_connections(model, converted, strict=strict)
        if strict:
            _check_names_and_shapes(model, converted)
        return converted

    return checkpoint_filter_fn


def check_connections(
    model: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = "", strict: bool = True
) -> None:
    """Compare the connections of a checkpoint with those of the model that is to load it.

    Args:
        model: hyper-connected.
        state_dict: to be loaded.
        prefix: of the model's names in it.
        strict: whether all connections must be there.

    Raises:
        ValueError: the checkpoint has no connections (if `strict`), or others than the model.
    """
    given = _connections_in(state_dict, prefix)
    expected = _connections_in(model.state_dict())
    if strict and expected and not given:
        raise ValueError(
            "state_dict: got one without connections, expected a hyper-connected model's. To start from plain weights, "
            "use mhc_vision.hyperconnect(plain_model), or create_model(..., pretrained=True, "
            "pretrained_cfg_overlay={'file': path})"
        )
    shapes = {name: value.shape for name, value in given.items()}
    wanted = {name: value.shape for name, value in expected.items()}
    if not strict:
        shapes = {name: shape for name, shape in shapes.items() if name in wanted}
        wanted = {name: shape for name, shape in wanted.items() if name in shapes}
    if shapes != wanted:
        dim: int = model.embed_dim  # type: ignore[assignment]
        name = min(key for key in shapes.keys() | wanted.keys() if shapes.get(key) != wanted.get(key))
        raise ValueError(
            f"state_dict: its connections are {_describe(given, dim)}, the model's are {_describe(expected, dim)} "
            f"(first difference: {prefix}{name}). {_ADVICE}"
        )


def check_depth_of_npz(path: str | Path, depth: int) -> None:
    """Raise ValueError if a JAX checkpoint has another number of blocks than `depth`: timm would load the first."""
    with np.load(path) as arrays:
        found = {int(i) for name in arrays.files for i in re.findall(r"Transformer/encoderblock_(\d+)/", name)}
        stacked = [name for name in arrays.files if name.endswith("Transformer/encoderblock/LayerNorm_0/scale")]
        blocks = len(arrays[stacked[0]]) if stacked else len(found)
    if blocks and blocks != depth:
        raise ValueError(f"checkpoint_path: got {path} with {blocks} blocks, expected {depth}")


def _connections_in(state_dict: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Entries of connections and of a gated read-out, without the prefix."""
    pattern = re.compile(re.escape(prefix) + r"(blocks\.\d+\.(?:connection[12]|reduction)\..+)")
    matches = ((pattern.fullmatch(name), value) for name, value in state_dict.items())
    return {match.group(1): value for match, value in matches if match}


def _describe(connections: Mapping[str, Tensor], dim: int) -> str:
    """The options that show in a checkpoint's connections, read from those of one branch."""
    prefix = min((name.rpartition(".")[0] for name in connections if ".connection" in name), default="")
    one = {name[len(prefix) + 1 :]: value for name, value in connections.items() if name.startswith(f"{prefix}.")}
    if "pre" in one:
        text = f"{'dhc' if 'weight' in one else 'shc'} with num_streams={len(one['pre'])}"
    elif "weight" in one and "bias" in one:
        num_streams = one["weight"].shape[-1] // dim
        num_logits = len(one["bias"]) - 2 * num_streams
        text = f"mhc with num_streams={num_streams} and {num_logits} logits for res"
    else:
        return "incomplete"
    gated = any(".reduction." in name for name in connections)
    return f"{text}, stream_reduce={'gated' if gated else 'mean or sum'}"


def _check_names_and_shapes(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """All must fit, but for the classifier and the channels of the first convolution, which timm adapts."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    adapted = tuple(f"{name}." for key in ("classifier", "first_conv") for name in _as_tuple(cfg.get(key)))
    ours, theirs = (
        {name: tuple(value.shape) for name, value in state.items() if not name.startswith(adapted)}
        for state in (model.state_dict(), state_dict)
    )
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"state_dict: lacks {_some(ours.keys() - theirs.keys())} and has unknown "
            f"{_some(theirs.keys() - ours.keys())}. {_ADVICE}, or give pretrained_strict=False to load what fits"
        )
    for name, shape in theirs.items():
        if shape != ours[name]:
            raise ValueError(f"state_dict: {name} has shape {shape}, the model's has {ours[name]}. {_ADVICE}")


def _as_tuple(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _some(names: set[str], limit: int = 3) -> str:
    shown = ", ".join(sorted(names)[:limit]) or "nothing"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
