"""Gradients of parameters apart from those of inputs: each is made once, and together they are the whole ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mhc_vision import kernels
from mhc_vision.kernels.boundary import Connection, Merge, Norm, boundary
from mhc_vision.kernels.custom_ops.boundary import parameter_sums
from mhc_vision.kernels.prepared_phi import prepare_phi
from mhc_vision.kernels.weight_gradients import held_weight_gradients, hold, take_weight_gradients

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
N, DIM, TOKENS = 2, 24, 5


class OurOps(TorchDispatchMode):
    """Which of our ops have run, and for the gradients of which parameters, if they say so."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "mhc_vision":
            self.ran.append((func.name().split("::")[1].split(".")[0], True in [arg for arg in args if arg is True]))
        return func(*args, **kwargs or {})


def random(*shape: int, by: float = 1.0) -> Tensor:
    return (by * torch.randn(*shape, device=DEVICE)).requires_grad_()


def inputs_and_parameters(op: str, mix: bool) -> tuple[list[Tensor], list[Tensor], Callable[..., Any]]:
    k = 2 * N + N * N * mix
    streams, parameters = random(2, TOKENS, N, DIM), [random(k, N * DIM, by=0.2), random(k), random(k)]
    if op == "branch_input":
        return [streams], parameters, lambda x, *given: kernels.branch_input(x, *given)

    def run(x: Tensor, output: Tensor, logits: Tensor, *given: Tensor) -> Any:
        weight, scale, bias, norm_weight, norm_bias = given
        connection = Connection(weight, scale, bias)
        return boundary(x, Merge(output, logits), connection, Norm(norm_weight, norm_bias), save=mix)[:3]

    given = [streams, random(2, TOKENS, DIM), random(k - N, 2 * TOKENS)]
    return given, [*parameters, random(DIM), random(DIM)], run


@pytest.mark.parametrize(("op", "mix"), [("boundary", True), ("boundary", False), ("branch_input", True)])
def test_each_half_is_made_once(op, mix):
    inputs, parameters, run = inputs_and_parameters(op, mix)

    def gradients(results: Any) -> None:
        sum(result.float().sin().sum() for result in results).backward()

    with kernels.use_backend("triton"):
        gradients(run(*inputs, *parameters))
        whole = [tensor.grad for tensor in (*inputs, *parameters)]
        for tensor in (*inputs, *parameters):
            tensor.grad = None
        # scales may be made of others
        with held_weight_gradients():
            results = run(*inputs, parameters[0], 1.0 * parameters[1], *parameters[2:])
        with OurOps() as first:
            gradients(results)
        assert all(torch.equal(tensor.grad, of) for tensor, of in zip(inputs, whole, strict=False))
        assert all(parameter.grad is None for parameter in parameters)
        assert [name for name, learned in first.ran if learned and name.endswith("_backward")] == []
        assert first.ran[-1][0] == f"{op}_backward"
        with OurOps() as second:
            take_weight_gradients()()
        assert [name for name, _ in second.ran] == ["parameter_sums"]
        made = [tensor.grad for tensor in parameters]
        assert all(torch.equal(a, b) for a, b in zip(made, whole[len(inputs) :], strict=True))
    # they are taken once
    take_weight_gradients()()
    assert all(torch.equal(tensor.grad, of) for tensor, of in zip(parameters, made, strict=True))


def test_what_has_nothing_to_part_is_left_as_it_is():
    parameter, x = random(3), random(3)
    assert hold(x, parameter, None) == ((parameter, None), None)
    with held_weight_gradients():
        for read, given in ((x.detach(), parameter), (x, parameter.detach())):
            assert hold(read, given)[1] is None
        with torch.no_grad():
            assert hold(x, parameter)[1] is None
        (held, none), place = hold(x, parameter, None)
        assert not held.requires_grad
        assert none is None
        assert place is not None
    place.later(lambda: (torch.ones(3, dtype=torch.float64, device=DEVICE), None))
    take_weight_gradients()()
    assert torch.equal(parameter.grad, torch.ones(3, device=DEVICE))


def test_registration():
    k, weight = N * N + 2 * N, torch.randn(N * N + 2 * N, N * DIM, device=DEVICE)
    phi = prepare_phi([weight], N, torch.float32)[0]
    merged, logits = torch.randn(1, TOKENS, N, DIM, device=DEVICE), torch.randn(k, TOKENS, device=DEVICE)
    d_pre, d_rest, statistics = logits[:N].clone(), logits[N:].clone(), torch.rand(3 + 2 * N, TOKENS, device=DEVICE)
    for d_normed in (None, torch.randn(1, TOKENS, DIM, device=DEVICE)):
        given = d_pre, d_normed, d_rest, merged, logits, statistics, torch.ones(k, device=DEVICE), phi
        torch.library.opcheck(parameter_sums, given)
