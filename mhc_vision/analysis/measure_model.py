"""All measures of a model in one pass over some images."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mhc_vision.analysis.measures.branch_similarity import BranchSimilarity
from mhc_vision.analysis.measures.coefficient_distribution import CoefficientDistribution
from mhc_vision.analysis.measures.connection_matrix import ConnectionMatrix
from mhc_vision.analysis.measures.gain_profile import GainProfile
from mhc_vision.analysis.measures.map_travel import MapTravel
from mhc_vision.analysis.measures.mean_maps import MeanMaps
from mhc_vision.analysis.measures.memory import memory_profile
from mhc_vision.analysis.measures.sinkhorn_residual import (
    ITERATIONS,
    SinkhornResidual,
    observe_sinkhorn_logits,
    sinkhorn_iterations,
)
from mhc_vision.analysis.measures.stream_statistics import StreamStatistics
from mhc_vision.kernels import Coefficients, use_backend
from mhc_vision.layers import (
    initial_coefficients,
    maps_at_start,
    named_connections,
    observe_connections,
    observe_reduction,
)
from mhc_vision.models import HyperConnected, hyperconnect
from mhc_vision.models.instruments.contribution import LossDifferences, contribution_of


def as_hyper_connected(model: nn.Module) -> HyperConnected:
    """The model itself if it has hyper-connections; of a plain ViT a copy with one stream and maps of ones.

    That copy computes what the plain model computes, so that both are measured by the same code.

    Raises:
        ValueError: a model that has no residual additions which connections can replace, such as a ResNet.
    """
    if isinstance(model, HyperConnected):
        return model
    return hyperconnect(model, "shc", num_streams=1)


@torch.no_grad()
def measure_model(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], class_names: Sequence[str], loss: str | None = None
) -> dict[str, Any]:
    """Measure what the connections of a model do with these images.

    Args:
        model: hyper-connected or a plain timm ViT, in eval mode.
        batches: images (B, C, H, W) as the model takes them, on its device, and labels (B,).
        class_names: in the order of the labels.
        loss: that the model was trained with, `"ce"` or `"bce"`, where labels are the classes of its head; `None` where
            they are not: then what its connections contribute is not measured.

    Returns:
        `model` (`connection`, None for a plain one; `num_streams`, `num_branches`, `branches`: their names;
        `sinkhorn_iters`, None where there are none), `num_images`, `num_tokens` (of an image), and the results of the
        modules beside this one: `travel` (None for a plain model), `gains`, `memory` (None for one stream), `sinkhorn`,
        `maps`, `connection_matrix`, `similarity`, `streams`, `coefficients`; and `contribution` (None where
        it is not measured): `value` and `standard_error`, as in `Contribution`. All plain numbers, lists and dicts.

    Raises:
        ValueError: a model that cannot be measured or is in training mode, no images, or streams that are not finite.
    """
    if model.training:
        raise ValueError("model: got one in training mode, expected eval mode, in which nothing is dropped at random")
    hyper = as_hyper_connected(model)
    pass_through = _Collectors(hyper, loss if isinstance(model, HyperConnected) else None)
    for images, labels in batches:
        pass_through.run(images, labels)
    if not pass_through.num_images:
        raise ValueError("batches: got no images, expected at least one")
    connection = hyper.connection if isinstance(model, HyperConnected) else None
    return {
        "model": {
            "connection": connection,
            "num_streams": hyper.num_streams,
            "num_branches": len(pass_through.names),
            "branches": pass_through.names,
            "sinkhorn_iters": pass_through.sinkhorn_iters,
        },
        # of a plain model nothing could move
        "travel": pass_through.travel.result() if connection else None,
        **pass_through.result(class_names),
    }


class _Collectors:
    """Everything that looks at a forward pass."""

    def __init__(self, model: HyperConnected, loss: str | None) -> None:
        self.model = model
        self.differences = None if loss is None else LossDifferences(loss)
        self.names = list(named_connections(model))
        self._index = {name: index for index, name in enumerate(self.names)}
        self.num_images = 0
        self.num_tokens = 0
        self.gains, self.maps, self.matrix = GainProfile(), MeanMaps(), ConnectionMatrix()
        self.starts = [initial_coefficients(module) for module in named_connections(model).values()]
        self.travel = MapTravel(dict(enumerate(self.starts)))
        self.similarity, self.streams = BranchSimilarity(), StreamStatistics()
        self.sinkhorn_iters = sinkhorn_iterations(model)
        self.sinkhorn = SinkhornResidual(sorted({*ITERATIONS, *([self.sinkhorn_iters] if self.sinkhorn_iters else [])}))
        self.coefficients = CoefficientDistribution()
        self._batch_maps: list[Coefficients] = []
        self._read_weights: Tensor | None = None

    def run(self, images: Tensor, labels: Tensor) -> None:
        """Pass one batch through the model."""
        self._batch_maps.clear()
        with (
            observe_connections(self.model, self._connection),
            observe_reduction(self.model, self._reduction),
            observe_sinkhorn_logits(self.model, self.sinkhorn.add),
        ):
            logits = self.model(images)
        if self.differences is not None:
            # on the same path as above, so that rounding is no difference
            with use_backend("torch"), maps_at_start(self.model):
                self.differences.add(logits, self.model(images), labels.to(logits.device))
        assert self._read_weights is not None
        self.gains.add([maps.res for maps in self._batch_maps], weight=len(images))
        self.matrix.add(self._batch_maps, self._read_weights)
        self.coefficients.add(self._batch_maps, labels)
        self.num_images += len(images)

    def _connection(self, name: str, streams: Tensor, tokens: Tensor, maps: Coefficients) -> None:
        branch = self._index[name]
        self.num_tokens = tokens.shape[1]
        self._add_streams(branch, streams, f"branch {branch} ({name})")
        self.similarity.add(branch, tokens)
        self.maps.add(branch, maps)
        self.travel.add(branch, maps)
        self._batch_maps.append(maps)

    def _reduction(self, streams: Tensor, weights: Tensor) -> None:
        self._add_streams(len(self.names), streams, "the read-out")
        self._read_weights = weights

    def _add_streams(self, place: int, streams: Tensor, description: str) -> None:
        if not streams.isfinite().all():
            raise ValueError(
                f"model: got streams with NaN or infinity before {description}, expected finite ones; it has "
                "diverged in training, or the images are not finite"
            )
        self.streams.add(place, streams)

    def result(self, class_names: Sequence[str]) -> dict[str, Any]:
        maps = self.maps.result()
        contribution = None if self.differences is None else contribution_of(self.differences.moments())
        return {
            "num_images": self.num_images,
            "num_tokens": self.num_tokens,
            "contribution": None if contribution is None else dataclasses.asdict(contribution),
            "gains": self.gains.result(),
            "memory": memory_profile(maps, self.starts),
            "sinkhorn": self.sinkhorn.result(),
            "maps": maps,
            "connection_matrix": self.matrix.result(),
            "similarity": self.similarity.result(),
            "streams": self.streams.result(),
            "coefficients": self.coefficients.result(class_names),
        }
