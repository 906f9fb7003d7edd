"""The table of memory against what a small model of the same family keeps, and what its processes have."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from interpreter import prepared_interpreter
from process_mesh import process_mesh
from torch import nn

import mhc_vision  # noqa: F401  registers the models
from mhc_vision.analysis.memory_table import activation_bytes, gathered_bytes, memory_table, sharded_bytes
from mhc_vision.kernels import use_backend
from mhc_vision.training.sharding import shard_model

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
SMALL = {"embed_dim": 128, "num_heads": 2, "num_classes": 10}


def kept_bytes(model: nn.Module, num_images: int) -> int:
    """Of all memory that the forward pass keeps for the backward pass, each storage once."""
    storages = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(torch.randn(num_images, 3, *model.patch_embed.img_size))
    del logits
    return sum(storage.nbytes() for storage in storages.values())


def check_activations(name: str, stride: int = 1, **options: Any) -> None:
    """Of four blocks: what a model of six keeps beyond one of two, of the second image beyond the first."""
    kept, derived = [], []
    for depth in (2, 6):
        model = timm.create_model(name, depth=depth, **SMALL, **options)
        kept.append(kept_bytes(model, 2) - kept_bytes(model, 1))
        derived.append(activation_bytes(model, stride, product_bytes=4))
    # norms and maps have some numbers for each token that do not grow with C
    assert kept[1] - kept[0] == pytest.approx(derived[1] - derived[0], rel=0.05)


@pytest.mark.parametrize(
    ("name", "img_size"),
    [("vit_7b_patch16_dinov3", 32), ("vit_base_patch16_224", 32), ("vit_giant_patch14_dinov2", 28)],
)
def test_activations_of_a_plain_model(name, img_size):
    check_activations(name, img_size=img_size)


@pytest.mark.parametrize("stride", [1, pytest.param(2, marks=pytest.mark.slow), 4])
def test_activations_with_mhc(stride):
    pytest.importorskip("triton")
    with prepared_interpreter(), use_backend("triton"):
        check_activations("vit_7b_patch16_dinov3_mhc", stride, num_streams=4, stream_stride=stride, img_size=32)


def test_other_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks: got EvaAttention and SwiGLU, expected attention with one layer"):
        activation_bytes(timm.create_model("eva02_base_patch14_224", depth=1, device="meta"))


def test_shards_of_two_processes():
    """Weights, gradients and moments after a step, counted in the processes, and what is gathered for a branch."""
    model = timm.create_model("vit_7b_patch16_dinov3_mhc", depth=2, img_size=32, **SMALL)
    whole = sharded_bytes(model, 1)
    assert whole == 16 * sum(parameter.numel() for parameter in model.parameters())
    sizes = [bytes_of_process(rank) for rank in range(2)]
    assert sizes[0] == sharded_bytes(model, 2)
    # the second one has no padding
    assert sum(sizes) == whole
    # of both blocks, all but the attention is gathered at most
    attention = sum(parameter.nbytes for block in model.blocks for parameter in block.attn.parameters())
    assert gathered_bytes(model) == 2 * (whole // 4 - attention)


def bytes_of_process(rank: int) -> int:
    model = timm.create_model("vit_7b_patch16_dinov3_mhc", depth=2, img_size=32, **SMALL)
    with process_mesh(rank, 2) as mesh:
        shard_model(model, mesh)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.randn(1, 3, 32, 32)).sum().backward()
        optimizer.step()
        moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
        tensors = [*model.parameters(), *(parameter.grad for parameter in model.parameters()), *moments]
        return sum(tensor.to_local().nbytes for tensor in tensors)


def test_the_page_shows_the_table():
    assert memory_table() in PAGE.read_text(encoding="utf-8")


def test_vit_7b_is_sharded_without_values():
    with torch.device("meta"):
        model = timm.create_model("vit_7b_patch16_dinov3_mhc", num_streams=4)
    expected = sharded_bytes(model, 8)
    with process_mesh(0, 8) as mesh:
        shard_model(model, mesh)
    assert 4 * sum(parameter.to_local().nbytes for parameter in model.parameters()) == expected
