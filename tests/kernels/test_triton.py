"""The Triton kernels against the plain formulas in fp64: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from mhc_vision.kernels import (
    add_output,
    branch_input,
    merge_and_read,
    merge_streams,
    read_streams,
    reference,
    sinkhorn_knopp,
    stream_coefficients,
    stream_logits,
    use_backend,
)
from mhc_vision.kernels.custom_ops.branch_input import branch_input as branch_input_op
from mhc_vision.kernels.custom_ops.merge import merge
from mhc_vision.kernels.custom_ops.sinkhorn import sinkhorn_maps

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# one unit in the last place of a result of order one: 2^-8, 2^-10 (the interpreter truncates where a GPU rounds)
ULP = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
DTYPES = list(ULP)
NUM_STREAMS = [1, 2, 3, 4, 5, 8]
# odd token counts of one tile and of several, channels that fill no tile
SHAPES = [(1, 64), (3, 40), (69, 24)]
# every two values of n, dtype and shape meet
CASES = [
    (n, *SHAPES[(i + j) % len(SHAPES)], dtype) for i, n in enumerate(NUM_STREAMS) for j, dtype in enumerate(DTYPES)
]


@pytest.fixture(autouse=True)
def triton_backend():
    with use_backend("triton"):
        yield


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype).requires_grad_()


def check(op, formula, arguments: list[Tensor], tolerance: float) -> None:
    """Results and gradients of `op`, relative to the largest value of what the formula gives in fp64."""
    exact = [argument.detach().double().requires_grad_() for argument in arguments]
    results, expected = op(*arguments), formula(*exact)
    results, expected = ([r] if isinstance(r, Tensor) else list(r) for r in (results, expected))
    gradients = [torch.randn_like(result) for result in results]
    grads = torch.autograd.grad(results, arguments, gradients)
    exact_grads = torch.autograd.grad(expected, exact, [gradient.double() for gradient in gradients])
    for actual, right in zip([*results, *grads], [*expected, *exact_grads], strict=True):
        assert actual.isfinite().all()
        scale = right.abs().max().clamp(min=1.0)
        torch.testing.assert_close(actual.double() / scale, right / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("num_iters", [1, 3, 20])
@pytest.mark.parametrize("num_tokens", [1, 197])
@pytest.mark.parametrize("n", range(1, 9))
def test_sinkhorn(n, num_tokens, num_iters):
    given = random(num_tokens, n, n)
    check(
        lambda x: sinkhorn_knopp(3 * x, num_iters), lambda x: reference.sinkhorn_knopp(3 * x, num_iters), [given], 3e-6
    )


@pytest.mark.parametrize("n", [4, 8])
def test_sinkhorn_where_mhc_starts_and_far_away(n):
    start = (8 * torch.eye(n, device=DEVICE)).repeat(5, 1, 1).requires_grad_()
    check(sinkhorn_knopp, reference.sinkhorn_knopp, [start], 3e-6)
    wide = (40 * torch.randn(33, n, n, device=DEVICE)).requires_grad_()
    maps = sinkhorn_knopp(wide)
    maps.square().sum().backward()
    assert maps.isfinite().all()
    assert wide.grad.isfinite().all()
    torch.testing.assert_close(maps.sum(-1), torch.ones(33, n, device=DEVICE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [4, 5])
def test_sinkhorn_hides_no_nan_and_no_infinity(n):
    given = torch.randn(4, n, n, device=DEVICE)
    given[1, 0, 1], given[2, 1, 1], given[3, 2, 0] = float("nan"), float("inf"), float("-inf")
    with use_backend("torch"):
        expected = sinkhorn_knopp(given).isnan()
    assert torch.equal(sinkhorn_knopp(given).isnan(), expected)


@pytest.mark.parametrize(("n", "num_tokens", "dim", "dtype"), CASES, ids=str)
def test_merge_and_read(n, num_tokens, dim, dtype):
    streams, output = random(num_tokens, n, dim, dtype=dtype), random(num_tokens, dim, dtype=dtype)
    res, post, pre = random(num_tokens, n, n), random(num_tokens, n), random(num_tokens, n)
    check(merge_streams, reference.merge_streams, [streams, output, res, post], ULP[dtype])
    check(add_output, reference.add_output, [streams, output, post], ULP[dtype])
    check(read_streams, reference.read_streams, [streams, pre], ULP[dtype])


def test_a_wider_result_is_not_rounded_to_the_dtype_of_the_streams():
    streams, output = random(33, 4, 64, dtype=torch.bfloat16), random(33, 64, dtype=torch.bfloat16)
    res, post, pre = random(33, 4, 4), random(33, 4), random(33, 4)
    parameters = random(24, 4 * 64), random(24), random(24)

    def results() -> list[Tensor]:
        tokens, *_ = branch_input(streams, *parameters, dtype=torch.float32)
        merged = merge_and_read(streams, output, res, post, 0.25, torch.float32)
        made = [tokens, merged, read_streams(streams, pre, torch.float32)]
        return [*made, *torch.autograd.grad([result.sin().sum() for result in made], [streams, output])]

    with use_backend("torch"):
        expected = results()
    for actual, right in zip(results(), expected, strict=True):
        assert actual.dtype == right.dtype
        # bf16 would be off by 2e-3, as the gradients are (the interpreter truncates); 16 bits of φ are not
        assert (actual - right).norm() <= (1e-4 if right.dtype == torch.float32 else 5e-3) * right.norm()


def test_a_single_entry_may_lie_anywhere():
    """A map of one entry is contiguous whatever the stride of that dimension."""
    streams, output, res, post = random(5, 4, 16), random(5, 16), random(5, 1, 4), random(5, 1)
    elsewhere = post.as_strided((5, 1), (1, 7))
    assert torch.equal(merge(streams, output, res, elsewhere), merge(streams, output, res, post))


@pytest.mark.parametrize("n", [2, 4])
def test_maps_that_all_tokens_share(n):
    streams, output = random(2, 33, n, 64, dtype=torch.bfloat16), random(2, 33, 64, dtype=torch.bfloat16)
    res, post, pre = random(n, n), random(n), random(n)
    check(merge_streams, reference.merge_streams, [streams, output, res, post], ULP[torch.bfloat16])
    check(read_streams, reference.read_streams, [streams, pre], ULP[torch.bfloat16])


@pytest.mark.parametrize(("n", "num_tokens", "dim", "dtype"), CASES, ids=str)
def test_logits_and_branch_input(n, num_tokens, dim, dtype):
    k = n * n + 2 * n
    streams = random(num_tokens, n, dim, dtype=dtype)
    parameters = [random(k, n * dim), random(k), random(k)]
    # logits of narrow streams are as good as φ in two bf16 parts; products of n·C terms
    tolerance = 2e-6 if dtype == torch.float32 else 3e-5
    exact = reference.stream_logits(*(t.detach().double() for t in (streams, *parameters)))
    made = stream_logits(streams, *parameters)
    torch.testing.assert_close(made.double() / exact.abs().max(), exact / exact.abs().max(), rtol=0, atol=tolerance)
    check(stream_logits, reference.stream_logits, [streams, *parameters], max(ULP[dtype], 3e-6))
    check(branch_input, reference.branch_input, [streams, *parameters], max(ULP[dtype], 3e-6))


def test_coefficients():
    n, dim = 4, 64
    k = n * n + 2 * n
    arguments = [random(2, 19, n, dim), random(k, n * dim), random(3), random(k)]
    with use_backend("torch"):
        expected = stream_coefficients(*arguments)
    for actual, right in zip(stream_coefficients(*arguments), expected, strict=True):
        torch.testing.assert_close(actual, right, rtol=0, atol=1e-5)
    torch.testing.assert_close(stream_coefficients(*arguments).res.sum(-1), torch.ones(2, 19, n, device=DEVICE))


@pytest.mark.parametrize("dim", [64, 192, 384, 768, 1024, 1280])
def test_widths_of_the_registered_models(dim):
    num_tokens, k = 5, 24
    streams = random(num_tokens, 4, dim, dtype=torch.bfloat16)
    parameters = [random(k, 4 * dim), random(k), random(k)]
    check(branch_input, reference.branch_input, [streams, *parameters], ULP[torch.bfloat16])
    maps = [random(num_tokens, dim, dtype=torch.bfloat16), random(num_tokens, 4, 4), random(num_tokens, 4)]
    check(merge_streams, reference.merge_streams, [streams, *maps], ULP[torch.bfloat16])


@pytest.mark.parametrize("op", [stream_logits, branch_input])
def test_frozen_parameters_cost_no_pass_over_the_streams(op, monkeypatch):
    streams, *parameters = [random(5, 4, 16), random(24, 64), random(24), random(24)]

    def gradient_of_streams(*given: Tensor) -> Tensor:
        results = op(streams, *given)
        return torch.autograd.grad(
            sum(r.square().sum() for r in ([results] if op is stream_logits else results)), streams
        )[0]

    expected = gradient_of_streams(*parameters)
    monkeypatch.delattr("mhc_vision.kernels.triton_kernels.boundary.launch.sums_backward_kernel")
    assert torch.equal(gradient_of_streams(*(parameter.detach() for parameter in parameters)), expected)


@pytest.fixture
def two_partial_sums(monkeypatch) -> int:
    """Makes the gradient of φ a sum of two parts for so many tokens."""
    monkeypatch.setattr("mhc_vision.kernels.triton_kernels.tiles.MIN_TOKENS_PER_SPLIT", 32)
    return 70


def test_partial_sums_of_the_gradient_of_the_weight(two_partial_sums):
    streams, k = random(two_partial_sums, 4, 16, dtype=torch.bfloat16), 24
    parameters = [random(k, 64), random(k), random(k)]
    check(branch_input, reference.branch_input, [streams, *parameters], ULP[torch.bfloat16])


def test_same_bits_every_time(two_partial_sums):
    streams, k = random(two_partial_sums, 4, 16, dtype=torch.bfloat16), 24
    parameters = [random(k, 64), random(k), random(k)]

    def run() -> list[Tensor]:
        tokens, rest, handed_on = branch_input(streams, *parameters)
        merged = merge_streams(handed_on, tokens, sinkhorn_knopp(rest[..., 4:].view(-1, 4, 4)), rest[..., :4])
        return [merged, *torch.autograd.grad(merged.square().sum(), [streams, *parameters])]

    assert all(torch.equal(first, second) for first, second in zip(run(), run(), strict=True))


@pytest.mark.usefixtures("poisoned_memory")
def test_every_result_is_written():
    for n, dim in ((4, 24), (8, 40)):
        k = n * n + 2 * n
        streams, parameters = random(35, n, dim, dtype=torch.bfloat16), [random(k, n * dim), random(k), random(k)]
        tokens, rest, handed_on = branch_input(streams, *parameters)
        maps = sinkhorn_knopp(rest[..., n:].view(-1, n, n)), rest[..., :n]
        merged = merge_streams(handed_on, tokens, *maps)
        again = read_streams(merged, rest[..., :n])
        results = [merged, again, *torch.autograd.grad(again.sum(), [streams, *parameters])]
        assert all(result.isfinite().all() for result in results)


def test_strided_and_empty_streams():
    streams = random(8, 3, 4, 16).transpose(0, 1)
    maps = random(3, 8, 16), random(3, 8, 4, 4), random(3, 8, 4)
    check(lambda *a: merge_streams(a[0].flip(1), *a[1:]), lambda *a: reference.merge_streams(a[0].flip(1), *a[1:]),
          [streams, *maps], 1e-6)  # fmt: skip
    assert merge_streams(torch.ones(0, 4, 16), torch.ones(0, 16), torch.eye(4), torch.ones(4)).shape == (0, 4, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nan_and_infinity_reach_the_results_of_their_token_alone(dtype):
    streams, k = random(7, 4, 64, dtype=dtype).detach(), 24
    parameters = [random(k, 256), random(k), random(k)]
    streams[2, 1, 3], streams[5, 0, 0] = float("nan"), float("inf")
    tokens, rest, handed_on = branch_input(streams, *parameters)
    maps = sinkhorn_knopp(rest[..., 4:].unflatten(-1, (4, 4)))
    merged = merge_streams(handed_on, tokens, maps, rest[..., :4])
    for result in (tokens, rest, maps, merged):
        hit = ~result.flatten(1).isfinite().all(1)
        assert hit.tolist() == [False, False, True, False, False, True, False]


def test_mixed_devices_and_too_many_streams_are_named():
    with pytest.raises(ValueError, match="pre: got device meta, expected"):
        read_streams(torch.ones(2, 4, 16, device=DEVICE), torch.ones(4, device="meta"))
    with pytest.raises(
        ValueError, match=r"number of streams n of shape .*: got 9, expected a whole number from 1 to 8"
    ):
        read_streams(torch.ones(2, 9, 16, device=DEVICE), torch.ones(9, device=DEVICE))
    with pytest.raises(ValueError, match=r"streams: got dtype torch\.int64"):
        merge_streams(torch.ones(2, 4, 16, dtype=torch.int64), torch.ones(2, 16), torch.eye(4), torch.ones(4))


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        (torch.ones(2, 4, 12), "got C = 12, expected a multiple of 8"),
        (torch.ones(2, 4, 16, dtype=torch.float64), r"got dtype torch\.float64, expected fp16, bf16 or fp32"),
        (torch.ones(2, 4, 16, device="meta"), "got device meta, expected a GPU"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(streams, message):
    pre = torch.ones(4, device=streams.device)
    with pytest.raises(ValueError, match=f"streams: {message} for the backend 'triton'; use 'auto' or 'torch'"):
        read_streams(streams, pre)


def ops() -> dict:
    n, dim, k = 4, 16, 24
    streams, output = random(5, n, dim), random(5, dim)
    # its gradient is that of an autograd function
    reading = [random(*shape).detach() for shape in ((5, n, dim), (k, n * dim), (k,), (k,), (1, dim * n, 32))]
    return {
        "sinkhorn": (sinkhorn_maps, (random(5, n, n), 20)),
        "merge": (merge, (streams, output, random(5, n, n), random(5, n))),
        "merge-shared": (merge, (streams, output, random(n, n), random(n))),
        "merge-wide": (merge, (streams.bfloat16(), output, random(5, n, n), random(5, n), torch.float32)),
        "add": (merge, (streams, output, None, random(5, n))),
        "read": (merge, (streams, None, random(5, 1, n), None)),
        "read-wide": (merge, (streams.bfloat16(), None, random(1, n), None, torch.float32)),
        "branch-input": (branch_input_op, (*reading, 1e-6, True, torch.bfloat16)),
        "logits": (branch_input_op, (*reading, 1e-6, False, None)),
    }


def backward_ops() -> dict:
    n, dim, k = 4, 16, 24
    shapes = {
        "sinkhorn_maps_backward": [(5, n, n), (5, n, n)],
        "merge_backward": [(5, n, dim), (5, n, dim), (5, dim), (5, n, n), (5, n)],
        "branch_input_backward": [
            *[(k - n, 5), (5, dim), (5, n, dim), (k, 5)],
            *[(5,), (5, n, dim), (k, n * dim), (k,), (k,), (1, dim * n, 32)],
        ],
    }
    numbers = {"sinkhorn_maps_backward": (20,), "branch_input_backward": (True,)}
    given = {name: tuple(random(*shape).detach() for shape in of) for name, of in shapes.items()}
    calls = {
        name: (getattr(torch.ops.mhc_vision, name).default, of + numbers.get(name, ())) for name, of in given.items()
    }
    # without a read, the gradient is of all logits
    op, (_, _, _, *rest, _) = calls["branch_input_backward"]
    of_logits = random(k, 5).detach(), None, None, *rest, False
    merge_backward, (_, streams, *_) = calls["merge_backward"]
    of_read = random(5, 1, dim).detach(), streams, None, random(5, 1, n).detach(), None
    of_added = random(5, n, dim).detach(), streams, random(5, dim).detach(), None, random(5, n).detach()
    return calls | {
        "logits_backward": (op, of_logits),
        "read_backward": (merge_backward, of_read),
        "add_backward": (merge_backward, of_added),
    }


@pytest.mark.parametrize("name", [*ops(), *backward_ops()])
def test_registration(name):
    op, arguments = (ops() | backward_ops())[name]
    torch.library.opcheck(op, arguments)


def test_compiled_in_one_graph():
    n, dim, k = 4, 16, 24
    arguments = [random(2, 9, n, dim), random(k, n * dim), random(k), random(k)]

    def run(*given: Tensor) -> Tensor:
        tokens, rest, handed_on = branch_input(*given)
        res = sinkhorn_knopp(rest[..., n:].unflatten(-1, (n, n)))
        return merge_streams(handed_on, tokens, res, rest[..., :n])

    expected = run(*arguments)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(*arguments)
    torch.testing.assert_close(compiled, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(compiled, arguments, gradient), torch.autograd.grad(expected, arguments, gradient)
    )
