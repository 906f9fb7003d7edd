import sys

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from mhc_vision.kernels import add_and_read, reference

EPS = 1e-5


def arguments(n: int = 3, dim: int = 4, leading=(2, 5), dtype=torch.float64, equal: bool = False) -> list[Tensor]:
    """Streams, branch output, logits of `post`, weight and bias."""
    streams = (*leading, dim) if equal else (*leading, n, dim)
    shapes = [streams, (*leading, dim), (*leading, n), (2 * n, n * dim), (2 * n,)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def step_by_step(streams: Tensor, output: Tensor, post_logits: Tensor, weight: Tensor, bias: Tensor):
    """The same from ops that have a public form."""
    n = post_logits.shape[-1]
    if streams.dim() == output.dim():
        streams = streams.unsqueeze(-2).expand(*post_logits.shape, -1)
    merged = reference.add_output(streams, output, 2.0 * torch.sigmoid(post_logits))
    tokens, rest, merged = reference.branch_input(merged, weight, torch.ones_like(bias), bias, EPS)
    return merged, tokens, rest[..., :n]


def ours(*args: Tensor, **options: bool):
    # times one: the op may overwrite the gradients that it gets, which are then made here
    return tuple(1.0 * result for result in add_and_read(*args, EPS, **options))


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of two or three tokens, of ten."""
    monkeypatch.setattr(sys.modules["mhc_vision.kernels.add_and_read"], "_CHUNK", 40)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("n", "equal"), [(3, False), (3, True), (1, False), (4, False)])
def test_is_the_public_ops_in_a_row(n, equal, last):
    args = arguments(n, equal=equal)
    results, expected = ours(*args, last=last), step_by_step(*args)
    torch.testing.assert_close(results, expected, rtol=0, atol=1e-13)
    weights = [torch.randn_like(result) for result in expected]
    gradients = torch.autograd.grad(results, args, weights)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, args, weights), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("small_chunks")
def test_gradients():
    assert gradcheck(ours, arguments(2, 3, (3,)))


def test_the_last_one_leaves_the_gradient_that_it_gets_as_it_is():
    args = arguments()
    merged, tokens, _ = add_and_read(*args, EPS, last=True)
    given = torch.ones_like(merged)
    torch.autograd.grad((merged, tokens), args, (given, torch.randn_like(tokens)), allow_unused=True)
    assert torch.equal(given, torch.ones_like(given))


def test_without_gradients_it_may_write_over_the_streams():
    args = [argument.detach() for argument in arguments()]
    expected, streams = step_by_step(*args), args[0].clone()
    results = add_and_read(streams, *args[1:], EPS, in_place=True)
    assert results[0].data_ptr() == streams.data_ptr()
    torch.testing.assert_close(results, expected, rtol=0, atol=1e-13)


def test_bf16_streams_are_rounded_before_the_coefficients_are_taken():
    streams, output, *rest = (argument.detach() for argument in arguments(4, 16, (30,), torch.float32))
    streams, output = streams.bfloat16(), output.bfloat16()
    results, expected = add_and_read(streams, output, *rest, EPS), step_by_step(streams, output, *rest)
    assert [result.dtype for result in results] == [torch.bfloat16, torch.bfloat16, torch.float32]
    # sums of 64 products in fp32
    torch.testing.assert_close(results[2], expected[2], rtol=1e-5, atol=1e-5)
    for result, reference_result in zip(results[:2], expected[:2], strict=True):
        # one unit in the last place, where fp32 arithmetic falls on the other side of a tie
        torch.testing.assert_close(result, reference_result, rtol=2**-7, atol=1e-6)
        assert (result == reference_result).float().mean() > 0.99


def test_autocast_rounds_nothing_and_gradients_keep_the_dtypes_of_the_arguments():
    args = arguments(4, 16, (30,), torch.float32)
    args[1] = args[1].detach().bfloat16().requires_grad_()
    expected = add_and_read(*args, EPS)
    with torch.autocast("cpu", torch.bfloat16):
        results = ours(*args)
        gradients = torch.autograd.grad(sum(result.sum() for result in results), args)
    assert all(torch.equal(result, value) for result, value in zip(results, expected, strict=True))
    assert [gradient.dtype for gradient in gradients] == [argument.dtype for argument in args]
