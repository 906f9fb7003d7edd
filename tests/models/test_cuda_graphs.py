"""A training step on the Triton kernels can be captured as a CUDA graph: nothing in it waits for the GPU."""

from collections.abc import Iterator
from importlib import import_module

import pytest
import torch
from families import VIT
from interpreter import prepared_interpreter
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mhc_vision.kernels import use_backend
from mhc_vision.layers.blocks.fused_stack import why_not_fused

pytest.importorskip("triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures a graph, which needs a GPU")

OPTIONS = [{}, {"stream_stride": 2, "init_values": 0.5, "drop_path_rate": 0.5, "stream_dtype": "bfloat16"}]


@pytest.fixture(autouse=True, scope="module")
def interpreter() -> Iterator[None]:
    with prepared_interpreter():
        yield


class Devices(TorchDispatchMode):
    """Remembers each op that takes or makes a tensor elsewhere than on one device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.custom_ops: set[str] = set()
        self.elsewhere: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type != self.device for tensor in tensors):
            self.elsewhere.append(str(func))
        if func.namespace == "mhc_vision":
            self.custom_ops.add(func.overloadpacket.__name__)
        return made


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_neither_waits_for_the_gpu_nor_copies_from_the_cpu(options, monkeypatch):
    """On the device `meta`, which has no numbers to wait for; `benchmarks/launches.py` looks into the ops."""
    for module in ("backend", "boundary"):
        monkeypatch.setattr(import_module(f"mhc_vision.kernels.{module}"), "can_launch", lambda tensor: True)
    model = VIT.connected("mhc", depth=3, **options).train().to("meta")
    images = torch.empty(4, 3, 16, 16, device="meta")
    with use_backend("triton"), Devices("meta") as devices:
        assert not why_not_fused(model.blocks, torch.empty(1, 4, 64, device="meta"))
        model(images).square().sum().backward()
    assert devices.elsewhere == []
    replayed = {"boundary_replay"} if options else set()
    assert {"boundary", "boundary_backward", "merge"} | replayed <= devices.custom_ops
    assert all(parameter.grad is not None for parameter in model.parameters())


def model_on_gpu(trained_like, options: dict) -> tuple[nn.Module, Tensor]:
    # drawn factors of DropPath would differ between eager steps and captured ones
    model = trained_like(VIT.connected("mhc", depth=3, **options | {"drop_path_rate": 0.0})).cuda().train()
    return model, torch.randn(3, 4, 3, 16, 16, device="cuda")


def eager_steps(model: nn.Module, batches: Tensor) -> list[list[Tensor]]:
    """Loss and gradients of each batch."""
    steps = []
    for images in batches:
        model.zero_grad()
        loss = model(images).square().sum()
        loss.backward()
        steps.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    return steps


@needs_gpu
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cuda_graph_of_a_training_step(options, trained_like):
    model, batches = model_on_gpu(trained_like, options)
    expected = eager_steps(model, batches)
    images = batches[0].clone()

    def step() -> Tensor:
        model.zero_grad(set_to_none=False)
        loss = model(images).square().sum()
        loss.backward()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for batch, eager in zip(batches, expected, strict=True):
        images.copy_(batch)
        graph.replay()
        captured = [loss, *(parameter.grad for parameter in model.parameters())]
        # attention's backward pass may sum in another order
        torch.testing.assert_close(captured, eager, rtol=1e-4, atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_compiled_step_with_reduced_overhead_is_captured(options, trained_like):
    model, batches = model_on_gpu(trained_like, options)
    expected = eager_steps(model, batches)
    counters = torch._dynamo.utils.counters["inductor"]
    counters.clear()
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    # the first two calls warm up and record
    for batch, eager in zip(batches.repeat(2, 1, 1, 1, 1), expected * 2, strict=True):
        torch.compiler.cudagraph_mark_step_begin()
        (step,) = eager_steps(compiled, batch.unsqueeze(0))
        for actual, right in zip(step, eager, strict=True):
            torch.testing.assert_close(actual, right, rtol=1e-3, atol=1e-4)
    assert counters["cudagraph_skips"] == 0
