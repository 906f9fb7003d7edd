"""Kernels run on the device of their tensors, whichever is the current one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mhc_vision.kernels import backend, boundary, branch_input, merge_streams, read_streams, sinkhorn_knopp, use_backend
from mhc_vision.kernels.boundary import Connection, Merge, Norm

pytest.importorskip("triton")


def run_every_op(device: str) -> list[Tensor]:
    """Results and gradients of all ops; the boundary makes its streams again in the backward pass."""

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    generator = torch.Generator().manual_seed(0)
    n, dim, k = 2, 8, 8
    streams, output = random(1, 3, n, dim), random(1, 3, dim)
    maps, connection = random(n + n * n, 3), Connection(random(k, n * dim), random(k), random(k))
    with use_backend("triton"):
        tokens, rest, handed_on = branch_input(streams, *connection[:3])
        res = sinkhorn_knopp(rest[..., n:].unflatten(-1, (n, n)))
        merged = merge_streams(handed_on, tokens, res, rest[..., :n])
        read = read_streams(merged, rest[..., :n])
        norm = Norm(random(dim), random(dim))
        *made, _ = boundary(merged, Merge(output, maps), connection, norm, save=False)
        leaves = [streams, output, maps, *connection[:3], *norm[:2]]
        return [*made, read, *torch.autograd.grad(sum(part.sum() for part in (*made, read)), leaves)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks into the interpreter, which runs where there is no GPU")
def test_every_launch_is_made_while_the_device_of_its_tensors_is_the_current_one(monkeypatch):
    from triton.runtime.interpreter import GridExecutor

    current: list[torch.device] = []
    launches = []

    @contextmanager
    def make_current(tensor: Tensor) -> Iterator[None]:
        current.append(tensor.device)
        yield
        current.pop()

    def launch(executor: GridExecutor, *args, **options) -> None:
        launches.append((executor.fn.__name__, list(current)))
        plain_launch(executor, *args, **options)

    plain_launch = GridExecutor.__call__
    monkeypatch.setattr(backend, "_current_device", make_current)
    monkeypatch.setattr(GridExecutor, "__call__", launch)
    run_every_op("cpu")
    assert {"streams_backward_kernel", "sums_backward_kernel"} <= {name for name, _ in launches}
    assert all(devices == [torch.device("cpu")] for _, devices in launches)


def test_the_device_of_the_first_tensor_becomes_the_current_one(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: chosen.append(str(device)) or torch.no_grad())
    with FakeTensorMode():
        tensor = torch.empty(2, device="cuda:1")
        assert backend.on_its_device(lambda tensor, number: number)(tensor, 3) == 3
    assert chosen == ["cuda:1"]


def test_a_tensor_where_no_kernel_runs_is_named():
    with pytest.raises(RuntimeError, match="kernels: got a tensor on meta, expected one on a GPU"):
        backend.on_its_device(lambda tensor: tensor)(torch.empty(2, device="meta"))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_second_gpu():
    first, second = run_every_op("cuda:0"), run_every_op("cuda:1")
    assert {result.device for result in second} == {torch.device("cuda:1")}
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(first, second, strict=True))
