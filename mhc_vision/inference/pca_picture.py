"""A picture of patch features: their first three principal components as colours, of several models side by side."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mhc_vision.report.figures import FAINT, SEQUENTIAL, figure_style, new_figure, plain_text

# outliers, which large ViTs have, would leave the others one colour
_QUANTILES = (0.01, 0.99)


def pca_picture(
    features_by_model: Mapping[str, ArrayLike],
    images: ArrayLike,
    attention_by_model: Mapping[str, ArrayLike] | None = None,
) -> Any:
    """Draws a row per image: the image, and for each model its patch features as colours and where it looks.

    Each model has components of its own, common to all images, so the same colour means alike within a column only.

    Args:
        features_by_model: (N, gh, gw, C) of each model, by the name that its column gets; grids may differ.
        images: (N, H, W, 3), uint8, as the models saw them.
        attention_by_model: (N, gh, gw) of some of the models.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: If there is no model, shapes do not fit, or features are not finite.
        ImportError: If matplotlib is missing.
    """
    pictures = np.asarray(images)
    if pictures.ndim != 4 or not len(pictures) or pictures.shape[-1] != 3:
        raise ValueError(f"images: got the shape {pictures.shape}, expected (N, H, W, 3)")
    if not features_by_model:
        raise ValueError("features_by_model: got none, expected one model or more")
    columns: list[tuple[str, NDArray[Any]]] = [("image", pictures)]
    for name, features in features_by_model.items():
        columns.append((name, principal_colours(features)))
        if attention_by_model and name in attention_by_model:
            columns.append(("attention", np.asarray(attention_by_model[name])))
    for name, column in columns:
        if len(column) != len(pictures) or column.ndim < 3:
            raise ValueError(f"{name}: got the shape {column.shape}, expected {len(pictures)} maps, one per image")
    with figure_style():
        figure = new_figure(1.9 * len(columns), 0.3 + 1.9 * len(pictures))
        panels = figure.subplots(len(pictures), len(columns), squeeze=False)
        for place, (name, column) in enumerate(columns):
            panels[0, place].set_title(plain_text(name), fontsize=8, color=FAINT)
            for axes, picture in zip(panels[:, place], column, strict=True):
                axes.set_axis_off()
                axes.imshow(picture, cmap=SEQUENTIAL, interpolation="nearest")
        return figure


def principal_colours(features: ArrayLike) -> NDArray[np.float32]:
    """The first three principal components of patch features as red, green and blue: (N, gh, gw, 3) in [0, 1].

    Args:
        features: (N, gh, gw, C), C at least 3; the components are those of all N * gh * gw patches. The sign of each is
            chosen so that its largest entry is positive, so equal features have equal colours.

    Raises:
        ValueError: For another shape, or features that are not finite.
    """
    tokens: Tensor = torch.as_tensor(np.asarray(features), dtype=torch.float64)
    if tokens.ndim != 4 or not tokens.numel() or tokens.shape[-1] < 3:
        raise ValueError(f"features: got the shape {tuple(tokens.shape)}, expected (N, gh, gw, C) with C from 3")
    if not tokens.isfinite().all():
        raise ValueError("features: got NaN or infinity, expected finite numbers")
    centred = tokens.flatten(0, 2) - tokens.mean((0, 1, 2))
    # eigenvalues rise
    components = torch.linalg.eigh(centred.t() @ centred).eigenvectors[:, -3:].flip(1)
    largest = components.gather(0, components.abs().argmax(0, keepdim=True))
    scores = centred @ (components * largest.sign())
    low, high = torch.quantile(scores, torch.tensor(_QUANTILES, dtype=scores.dtype), dim=0)
    colours = ((scores - low) / (high - low).clamp_min(torch.finfo(scores.dtype).tiny)).clamp(0, 1)
    return colours.view(*tokens.shape[:3], 3).float().numpy()
