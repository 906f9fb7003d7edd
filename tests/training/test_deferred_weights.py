"""A model that is sharded as it is made has the bits of one that was made whole, and never is whole in memory."""

import os
import subprocess
import sys

import pytest
import timm
import torch
from process_mesh import process_mesh
from safetensors.torch import save_file
from torch import nn

from mhc_vision.models.create import create_classifier
from mhc_vision.models.designs import DESIGNS
from mhc_vision.training.deferred_weights import DeferredWeights
from mhc_vision.training.sharding import shard_model

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 2, "img_size": 32}
DINOV3 = {**SMALL, "swiglu_mlp": True, "swiglu_align_to": 64}


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def check_same(deferred: nn.Module, weights: DeferredWeights, expected: nn.Module) -> None:
    ours, theirs = tensors(deferred), tensors(expected)
    assert ours.keys() == theirs.keys()
    assert all(parameter.is_meta for parameter in deferred.parameters())
    for name, tensor in ours.items():
        value = weights.value(tensor) if tensor in weights else tensor
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {**SMALL, "weight_init": "jax"}),
        ("vit_tiny_patch16_224_mhc", {**SMALL, "stream_expand": "scaled", "stream_reduce": "gated"}),
        ("vit_tiny_patch16_224_mhc", {**SMALL, "constraint": "permutation", "scale_output_init": True}),
        ("vit_tiny_patch16_224_dhc", {**SMALL, "drop_path_rate": 0.1}),
        ("vit_tiny_patch16_224_shc", {**SMALL, "learn_pre": False}),
        ("vit_small_patch16_dinov3_mhc", DINOV3),
        ("test_resnet", {}),
    ],
)
def test_values_and_random_numbers_are_those_of_the_whole_model(name, options):
    torch.manual_seed(3)
    expected, following = timm.create_model(name, **options), torch.rand(3)
    torch.manual_seed(3)
    with DeferredWeights() as weights:
        model = timm.create_model(name, **options)
    assert torch.equal(torch.rand(3), following)
    check_same(model, weights, expected)


@pytest.mark.parametrize("design", DESIGNS)
def test_residual_designs(design):
    def make() -> nn.Module:
        settings = {"connection": design, "num_streams": 2, "num_classes": 5, "model_args": {"depth": 2}}
        return create_classifier("vit_tiny_patch16_224", **settings)

    torch.manual_seed(3)
    expected, following = make(), torch.rand(3)
    torch.manual_seed(3)
    with DeferredWeights() as weights:
        model = make()
    assert torch.equal(torch.rand(3), following)
    check_same(model, weights, expected)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_pretrained_weights(kind, tmp_path):
    """Read from the file when they are asked for."""
    file = tmp_path / f"weights.{kind}"
    state = timm.create_model("vit_tiny_patch16_224", **SMALL).state_dict()
    save_file(state, file) if kind == "safetensors" else torch.save(state, file)
    options = {**SMALL, "pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}, "num_classes": 10}
    torch.manual_seed(3)
    expected = timm.create_model("vit_tiny_patch16_224_mhc", **options)
    torch.manual_seed(3)
    with DeferredWeights() as weights:
        model = timm.create_model("vit_tiny_patch16_224_mhc", **options)
    assert torch.equal(expected.blocks[1].mlp.fc2.weight, state["blocks.1.mlp.fc2.weight"])
    check_same(model, weights, expected)


def test_what_reads_weights_gets_values():
    torch.manual_seed(3)
    with DeferredWeights() as weights:
        layer = nn.Linear(3, 4)
        copied = layer.weight.detach().clone()
        # a part of a weight, of another weight
        nn.Linear(4, 3).weight.data[:, :3].copy_(layer.weight.data[:3])
        with torch.no_grad():
            layer.weight[1:].mul_(2)
    assert not copied.is_meta
    copied[1:] *= 2
    assert torch.equal(weights.value(layer.weight), copied)


def test_a_source_that_has_changed_is_noticed():
    source = torch.zeros(3)
    with DeferredWeights() as weights:
        weight = torch.empty(3).copy_(source).add_(1)
    source.add_(1)
    with pytest.raises(AssertionError, match="has changed"):
        weights.value(weight)


@pytest.mark.parametrize("num_processes", [2, 5])
def test_shards_are_those_of_the_whole_model(num_processes):
    torch.manual_seed(3)
    expected = timm.create_model("vit_small_patch16_dinov3_mhc", **DINOV3)
    expected.patch_embed.requires_grad_(False)
    shards: dict[str, list[torch.Tensor]] = {name: [] for name, _ in expected.named_parameters()}
    for rank in range(num_processes):
        torch.manual_seed(3)
        with DeferredWeights() as weights:
            model = timm.create_model("vit_small_patch16_dinov3_mhc", **DINOV3)
        model.patch_embed.requires_grad_(False)
        with process_mesh(rank, num_processes) as mesh:
            shard_model(model, mesh, weights)
            # pads shards where there are too few rows
            model(torch.randn(1, 3, 32, 32))
            model.reshard()
        assert not any(tensor.is_meta for tensor in tensors(model).values())
        for name, parameter in model.named_parameters():
            shards[name].append(parameter.to_local())
            assert parameter.requires_grad == expected.get_parameter(name).requires_grad
    for name, parameter in expected.named_parameters():
        assert torch.equal(torch.cat(shards[name]), parameter), name


def test_weights_that_are_not_finite_are_refused(tmp_path):
    """As those of a file are, where a model is made whole."""
    torch.manual_seed(3)
    state = timm.create_model("vit_tiny_patch16_224", **SMALL).state_dict()
    state["pos_embed"][0, 2, 1], state["blocks.1.mlp.fc2.weight"][5, 3] = torch.inf, torch.nan
    save_file(state, tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors")}
    with DeferredWeights() as weights:
        model = timm.create_model("vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, **SMALL)
        # read, and so there at once
        model.pos_embed = nn.Parameter(model.pos_embed.detach().clone())
    message = "NaN or infinity in 2 weights \\(pos_embed, blocks.1.mlp.fc2.weight\\), expected finite ones"
    with process_mesh(0, 2) as mesh, pytest.raises(ValueError, match=message):
        shard_model(model, mesh, weights)


MEMORY = """
import resource
import sys

import timm
import torch
from process_mesh import process_mesh

import mhc_vision
from mhc_vision.training.deferred_weights import DeferredWeights
from mhc_vision.training.sharding import shard_model

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

with process_mesh(3, 8) as mesh:
    for options in ({"depth": 1, "embed_dim": 32, "num_heads": 1}, {"depth": 4}):
        before = megabytes()
        with DeferredWeights() as weights:
            model = timm.create_model("vit_base_patch16_224_mhc", **options)
        shard_model(model, mesh, weights)
print(megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the greatest size of a process in KiB, as Linux has it")
def test_no_process_holds_the_whole_model():
    # else glibc keeps blocks of up to 32 MB for later
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-W", "ignore", "-c", MEMORY]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # 116 MB; a shard of 14 MB, and a weight of 9 MB beside it
    assert float(finished.stdout) < 50
