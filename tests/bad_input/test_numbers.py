"""Numbers that are none, out of range or of another kind, wherever a user gives one: each is an error in words.

A row is a name, what makes something with the bad value, the argument that the message must begin with, and the value.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import mhc_vision  # noqa: F401  registers the models
from mhc_vision import hyperconnect
from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.run.slots import find_slots
from mhc_vision.data import DigitsDataModule, DownstreamDataModule, FakeDataModule, ImageFolderDataModule
from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.division import balanced_subset, draw_per_class, hold_out
from mhc_vision.data.in_memory_folder import InMemoryFolderDataModule
from mhc_vision.data.timm_datasets import TimmDataModule
from mhc_vision.data.transforms import eval_transform, train_transform
from mhc_vision.finetuning.module import FinetuneModule
from mhc_vision.inference.load_model import load_model
from mhc_vision.inference.options import EvaluationOptions
from mhc_vision.inference.predict import predict_files
from mhc_vision.inference.sample_images import sample_indices
from mhc_vision.kernels import branch_input, project_streams, sinkhorn_knopp, stream_logits
from mhc_vision.layers import (
    DynamicHyperConnection,
    GatedReduction,
    HyperBlock,
    ManifoldHyperConnection,
    StaticHyperConnection,
    StreamExpansion,
    create_connection,
    expand_streams,
)
from mhc_vision.models.designs.apply import apply_design
from mhc_vision.models.lora import LoraOptions, add_adapters
from mhc_vision.report.curves import smooth
from mhc_vision.training.callbacks.connection_monitor import ConnectionMonitor
from mhc_vision.training.callbacks.divergence import StopWhenDiverged
from mhc_vision.training.callbacks.ema import EMA
from mhc_vision.training.callbacks.loss_spikes import LossSpikes
from mhc_vision.training.callbacks.throughput import Throughput
from mhc_vision.training.loss import classification_loss
from mhc_vision.training.module import ClassificationModule
from mhc_vision.training.param_groups import param_groups

NAN, INF = math.nan, math.inf
X = torch.zeros(1, 2, 4)
CROP = {"img_size": 8, "interpolation": "bilinear", "scale": (0.1, 1.0), "hflip": 0.5}
CROP |= {"randaugment_ops": 0, "randaugment_magnitude": 0}


@dataclass(frozen=True)
class Row:
    """A bad value and what must refuse it."""

    where: str
    make: Callable[[], Any]
    argument: str
    value: Any


def rows(make: Callable[..., Any], values: dict[str, tuple[Any, ...]], **names: str) -> Iterator[Row]:
    """A row for each bad value of each keyword argument of `make`; `names` are those that messages use instead."""
    where = getattr(make, "__name__", "") or make.func.__name__
    for argument, bad_values in values.items():
        for value in bad_values:
            arguments = {argument: value}
            yield Row(where, lambda arguments=arguments: make(**arguments), names.get(argument, argument), value)


def module(**arguments: Any) -> Any:
    return ClassificationModule(**{"name": "test_vit", "num_classes": 10, **arguments})


def finetune(**arguments: Any) -> Any:
    return FinetuneModule(**{"name": "test_vit", "num_classes": 10, **arguments})


def model_args(**arguments: Any) -> Any:
    return module(model_args=arguments)


def augment(**arguments: Any) -> Any:
    return BatchAugment(**{"mean": [0.5], "std": [0.5], "num_classes": 2, **arguments})


def train_images(**arguments: Any) -> Any:
    return train_transform(**{**CROP, **arguments})


def eval_images(**arguments: Any) -> Any:
    return eval_transform(**{"img_size": 8, "interpolation": "bilinear", "crop_pct": 1.0, **arguments})


def folder(**arguments: Any) -> Any:
    return ImageFolderDataModule(root="there is none", **arguments)


def in_memory_folder(**arguments: Any) -> Any:
    return InMemoryFolderDataModule(root="there is none", **arguments)


def downstream(**arguments: Any) -> Any:
    return DownstreamDataModule("cifar10", "there is none", download=False, **arguments)


def timm_data(**arguments: Any) -> Any:
    return TimmDataModule("", "there is none", **arguments)


def static(**arguments: Any) -> Any:
    return StaticHyperConnection(**{"dim": 4, **arguments})


def dynamic(**arguments: Any) -> Any:
    return DynamicHyperConnection(**{"dim": 4, **arguments})


def manifold(**arguments: Any) -> Any:
    return ManifoldHyperConnection(**{"dim": 4, **arguments})


def gated(**arguments: Any) -> Any:
    return GatedReduction(**{"dim": 4, **arguments})


def by_name(**arguments: Any) -> Any:
    return create_connection(**{"connection": "mhc", "dim": 4, **arguments})


def vit(**arguments: Any) -> Any:
    return timm.create_model("test_vit_mhc", **arguments)


def connected(**arguments: Any) -> Any:
    return hyperconnect(timm.create_model("test_vit", depth=1), **arguments)


def logits(eps: Any) -> Any:
    return stream_logits(X, torch.zeros(3, 8), torch.ones(3), torch.zeros(3), eps)


def branch(eps: Any) -> Any:
    return branch_input(X, torch.zeros(3, 8), torch.ones(3), torch.zeros(3), eps)


def projections(eps: Any) -> Any:
    return project_streams(X, torch.ones(4), torch.zeros(4), torch.zeros(3, 4), eps)


def sinkhorn(num_iters: Any) -> Any:
    return sinkhorn_knopp(torch.zeros(2, 2), num_iters)


def adapters(rank: Any) -> Any:
    add_adapters(timm.create_model("test_vit", depth=1), LoraOptions(rank=rank))


def loss(label_smoothing: Any) -> Any:
    return classification_loss("ce", label_smoothing)


def groups(**arguments: Any) -> Any:
    return param_groups(torch.nn.Linear(2, 2), **{"lr": 0.1, "weight_decay": 0.0, **arguments})


def matrix(**arguments: Any) -> Any:
    return parse_matrix({"name": "x", "recipes": {"a": ["a"]}, "arms": {"b": ["b"]}, "seeds": [0], **arguments})


def slots(jobs: Any) -> Any:
    return find_slots(1, 0, jobs)


def held_out(share: Any) -> Any:
    return hold_out([0, 0, 1, 1], share)


def drawn(number: Any) -> Any:
    return draw_per_class([0, 0, 1, 1], number)


def subset(count: Any) -> Any:
    return balanced_subset([0, 0, 1, 1], count)


def smoothed(window: Any) -> Any:
    return smooth([1.0, 2.0], window)


def samples(num_images: Any) -> Any:
    return sample_indices(4, num_images)


def loaded(**arguments: Any) -> Any:
    return load_model("test_vit", weights="initial", **arguments)


def predictions(top_k: Any) -> Any:
    return predict_files("test_vit", [Path("there is none")], top_k=top_k)


def design(num_streams: Any) -> Any:
    return apply_design(timm.create_model("test_vit", depth=1), "alt_up", num_streams)


ROWS = [
    # training
    *rows(module, {"lr": (NAN, INF, 0.0, -1e-3, "fast", True, None), "min_lr": (NAN, -1.0, 1.0)}),
    *rows(module, {"weight_decay": (NAN, INF, -0.1), "eps": (NAN, 0.0, -1e-8, "small")}),
    *rows(module, {"connection_lr_scale": (NAN, INF, 0.0), "layer_decay": (NAN, 0.0, 1.5)}),
    *rows(module, {"warmup_steps": (-1, 2.5, NAN, True), "warmup_epochs": (-1.0, NAN, INF)}),
    *rows(module, {"betas": ((0.9,), 0.9, "0.9", ())}),
    *rows(module, {"label_smoothing": (NAN, -0.1, 1.0)}),
    *rows(module, {"num_classes": (0, -1, 2.0, True), "in_chans": (0, 1.5), "img_size": (0, -8, 8.0, True)}),
    *rows(module, {"num_streams": (0, 2.5, True)}),
    *rows(model_args, {"drop_path_rate": (NAN, -0.1, 1.0), "attn_drop_rate": (NAN, 2.0), "drop_rate": (NAN, "much")}),
    *rows(model_args, {"depth": (0, 1.5, True), "mlp_ratio": (NAN, 0.0), "init_values": (NAN, INF)}),
    *rows(loss, {"label_smoothing": (NAN, INF, True, "some")}),
    *rows(groups, {"connection_lr_scale": (NAN, 0.0), "layer_decay": (NAN, 0, 2, True)}),
    *rows(EMA, {"decay": (NAN, INF, -0.1, 1.0, "slow", True)}),
    *rows(StopWhenDiverged, {"patience": (0, -1, 2.5, NAN, True)}),
    *rows(LossSpikes, {"threshold": (NAN, INF, 0.0), "decay": (NAN, 0.0, 1.0), "warmup": (1, NAN, 2.5)}),
    *rows(LossSpikes, {"every_n_steps": (0, NAN, 1.5, True)}),
    *rows(Throughput, {"peak_tflops": (NAN, INF, 0.0, -1.0, True), "every_n_steps": (0, NAN)}),
    *rows(ConnectionMonitor, {"num_images": (0, NAN, 2.5, True), "every_n_steps": (0, NAN)}),
    *rows(EvaluationOptions, {"batch_size": (0, -1, NAN, 2.0, True), "num_workers": (-1, NAN, 0.5, True)}),
    *rows(loaded, {"img_size": (0, -16, 32.0, NAN, True), "crop_pct": (NAN, 0.0, 1.5, True)}),
    *rows(predictions, {"top_k": (0, -1, NAN, 1.0, True)}),
    *rows(samples, {"num_images": (0, -1, NAN)}),
    # fine-tuning
    *rows(finetune, {"probe_cs": (0.1, "0.1"), "probe_lrs": ((), 0.1, "0.1")}),
    *rows(finetune, {"probe_epochs": (0, 2.5, NAN), "knn_k": (0, NAN, True), "knn_temperature": (NAN, 0.0, INF)}),
    *rows(finetune, {"lora_rank": (0, 1.5, NAN, True), "lora_alpha": (NAN, 0.0, INF), "lora_dropout": (NAN, 1.0)}),
    *rows(adapters, {"rank": (65, 10**6)}, rank="lora_rank"),
    # data
    *rows(DigitsDataModule, {"batch_size": (0, 2.0, NAN, True), "num_workers": (-1, NAN), "seed": (-1, 2**32, 0.5)}),
    *rows(DigitsDataModule, {"total_batch_size": (0, NAN, True)}),
    *rows(
        FakeDataModule, {"img_size": (0, 8.0), "num_classes": (0, NAN), "num_images": (0, True), "repeats": (0, NAN)}
    ),
    *rows(augment, {"mixup": (NAN, INF, -0.1, True, "0.2"), "cutmix": (NAN, -1.0), "erase": (NAN, 1.1, -0.1)}),
    *rows(augment, {"hflip": (NAN, 2, True), "crop_padding": (-1, 0.5, NAN), "mean": ([], 0.5), "std": ([0.5] * 2,)}),
    *rows(train_images, {"scale": ((0.5,), 0.5)}, scale="train_scale"),
    *rows(train_images, {"hflip": (NAN, -0.1), "color_jitter": (NAN, -1.0, INF)}),
    *rows(train_images, {"randaugment_ops": (-1, 1.5, NAN), "randaugment_magnitude": (-1, 31, 9.5)}),
    *rows(eval_images, {"img_size": (0, NAN, 8.5), "crop_pct": (NAN, 0, 1.01, "all")}),
    *rows(folder, {"mixup": (NAN,), "mean": ((0.5, 0.5),), "std": ((0.5, 0.5),), "crop_pct": (NAN,), "seed": (NAN,)}),
    *rows(in_memory_folder, {"max_train_images": (0, 2.5, NAN), "max_val_images": (-1, True), "erase": (NAN,)}),
    *rows(downstream, {"val_share": (NAN, 0.0, 1.0), "test_share": (NAN, "half"), "max_train_images": (0, NAN, 2.5)}),
    *rows(timm_data, {"shuffle_buffer": (0, NAN, 1.5), "num_classes": (0, NAN, True)}),
    *rows(held_out, {"share": (NAN, 0.0, 1.0)}),
    *rows(drawn, {"number": (0, -1, NAN)}),
    *rows(subset, {"count": (0, -1, NAN)}),
    # layers
    *rows(static, {"dim": (0, -4, 4.0, True, "4"), "num_streams": (0, 9, 2.0, True), "layer_index": (-1, 0.5, True)}),
    *rows(static, {"dtype": (torch.int32, torch.bool, torch.complex64, "float32", 32)}),
    *rows(dynamic, {"eps": (NAN, INF, 0.0, -1e-6, "1e-6", True, None), "dim": (0, True), "dtype": (torch.int8,)}),
    *rows(manifold, {"eps": (NAN, INF, 0.0, -1e-6, "1e-6", True), "sinkhorn_iters": (0, NAN, 2.5, True)}),
    *rows(manifold, {"pre_init": (NAN, 0.0, 1.0, True), "res_init": (NAN, -INF, 0.5, -31, True, "low")}),
    *rows(manifold, {"num_streams": (True, 0), "layer_index": (True, -1), "dtype": (torch.int32,)}),
    *rows(gated, {"dim": (0, -1, True, 1.5), "num_streams": (0, True), "eps": (NAN, 0, -1), "dtype": (torch.int32,)}),
    *rows(by_name, {"dim": (True,), "num_streams": (True,), "layer_index": (-1,), "eps": (NAN,), "res_init": (NAN,)}),
    *rows(StreamExpansion, {"num_streams": (0, 9, True, NAN)}),
    Row("expand_streams", lambda: expand_streams(X, True), "num_streams", True),
    Row("block", lambda: HyperBlock(64, 1, depth=True), "depth", True),
    Row("block", lambda: HyperBlock(64, 1, num_streams=NAN), "num_streams", NAN),
    # kernels
    *rows(logits, {"eps": (NAN, INF, 0.0, -1.0, "1", True)}),
    *rows(branch, {"eps": (NAN, 0.0, -1.0, True)}),
    *rows(projections, {"eps": (NAN, 0.0, -1.0, True)}),
    *rows(sinkhorn, {"num_iters": (0, -1, NAN, 2.5, True)}),
    # models
    *rows(vit, {"num_streams": (True, 0, 9, 2.5, NAN), "sinkhorn_iters": (0, NAN), "res_init": (NAN,)}),
    *rows(
        vit, {"pre_init": (NAN, 1.0), "stream_stride": (0, True, 1.5), "depth": (0, True, NAN), "embed_dim": (0, True)}
    ),
    *rows(vit, {"drop_path_rate": (NAN, 1.0), "proj_drop_rate": (NAN, -1), "dtype": (torch.int32, "float32")}),
    *rows(connected, {"num_streams": (True, NAN), "res_init": (NAN,), "pre_init": (0, INF), "sinkhorn_iters": (True,)}),
    *rows(design, {"num_streams": (True, 0, NAN)}),
    # comparison and analysis
    *rows(matrix, {"threads": (0, 1.5, True), "gpus": (-1, True), "seeds": ([-1], [0.5], [True], [NAN])}),
    *rows(slots, {"jobs": (0, -1, NAN, True)}, jobs="--jobs"),
    *rows(smoothed, {"window": (0, NAN, 1.5)}),
]

IN_SEQUENCES = [
    Row("module", lambda: module(betas=(0.9, NAN)), "betas[1]", NAN),
    Row("module", lambda: module(betas=(1.0, 0.9)), "betas[0]", 1.0),
    Row("augment", lambda: augment(mean=[NAN]), "mean[0]", NAN),
    Row("augment", lambda: augment(std=[NAN]), "std[0]", NAN),
    Row("augment", lambda: augment(std=[0.0]), "std[0]", 0.0),
    Row("folder", lambda: folder(std=(0.5, -0.5, 0.5)), "std[1]", -0.5),
    Row("train_images", lambda: train_images(scale=(NAN, 1.0)), "train_scale[0]", NAN),
    Row("train_images", lambda: train_images(scale=(0.1, 1.5)), "train_scale[1]", 1.5),
    Row("finetune", lambda: finetune(probe_lrs=(0.1, NAN)), "probe_lrs[1]", NAN),
    Row("finetune", lambda: finetune(probe_lrs=[0.0]), "probe_lrs[0]", 0.0),
    Row("finetune", lambda: finetune(probe_cs=(INF,)), "probe_cs[0]", INF),
]


@pytest.mark.parametrize(
    "row", [*ROWS, *IN_SEQUENCES], ids=lambda row: f"{row.where}-{row.argument}-{row.value!r}".replace(" ", "")
)
def test_a_bad_number_is_refused_in_words(row):
    with pytest.raises(ValueError, match=f"^{re.escape(row.argument)}: got ") as refused:
        row.make()
    message = str(refused.value)
    shown = row.value[0] if row.argument == "seeds" else row.value
    assert repr(shown) in message
    assert "expected" in message


def test_a_smaller_scale_comes_first():
    with pytest.raises(ValueError, match=r"train_scale: got \(0.9, 0.1\), expected the smaller number first"):
        train_images(scale=(0.9, 0.1))


def test_there_are_more_than_a_hundred_rows():
    assert len(ROWS) + len(IN_SEQUENCES) > 110
