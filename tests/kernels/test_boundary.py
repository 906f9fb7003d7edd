"""The boundary op against its steps in fp64: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mhc_vision.kernels import boundary, reference
from mhc_vision.kernels.boundary import Connection, Merge, Merged, Norm, Past
from mhc_vision.kernels.boundary_arguments import flatten_arguments, unflatten_arguments
from mhc_vision.kernels.custom_ops.boundary import boundary as boundary_op
from mhc_vision.kernels.custom_ops.boundary import boundary_backward, boundary_replay
from mhc_vision.kernels.prepared_phi import padded_size, prepare_phi

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 2


def arguments(
    n: int, dim: int, tokens: int, dtype: torch.dtype, entry: bool, scaled: bool, mix: bool = True, bias: bool = True
) -> list[Tensor | None]:
    def random(*shape: int, dtype: torch.dtype = torch.float32, by: float = 1.0, plus: float = 0.0) -> Tensor:
        return (by * torch.randn(*shape, device=DEVICE) + plus).to(dtype).requires_grad_()

    num_maps = n + n * n * mix
    k = n + num_maps
    streams = (BATCH, tokens, dim) if entry else (BATCH, tokens, n, dim)
    given: list[Tensor | None] = [random(*streams, dtype=dtype), random(BATCH, tokens, dim, dtype=dtype)]
    given += [random(num_maps, BATCH * tokens), random(k, n * dim, by=0.1), random(k), random(k)]
    given += [random(dim, by=0.2, plus=1.0), random(dim) if bias else None]
    keep = torch.tensor([1.25, 0.0], device=DEVICE)
    return given + ([random(dim, by=0.2, plus=1.0), keep] if scaled else [None, None])


def grouped(given: list[Tensor | None], rms: bool = False) -> tuple[Tensor, Merge, Connection, Norm]:
    streams, output, logits, weight, scale, bias, norm_weight, norm_bias, layer_scale, keep = given
    return (
        streams,
        Merge(output, logits, layer_scale, keep),
        Connection(weight, scale, bias),
        Norm(norm_weight, norm_bias, rms=rms),
    )


def by_steps(
    streams, output, logits, weight, scale, bias, norm_weight, norm_bias, layer_scale, keep, round_to=None, rms=False
) -> tuple[Tensor, Tensor, Tensor]:
    """The boundary in plain PyTorch, in the dtypes of its arguments; `round_to` rounds the merged streams."""
    dim = streams.shape[-1]
    n = weight.shape[1] // dim
    x = streams.unsqueeze(2).expand(-1, -1, n, -1) if streams.dim() == 3 else streams
    f = output if layer_scale is None else output * layer_scale
    f = f if keep is None else f * keep.view(-1, 1, 1)
    maps = logits.t().unflatten(0, x.shape[:2])
    post = 2 * torch.sigmoid(maps[..., :n])
    if len(logits) == n:
        merged = reference.add_output(x, f, post)
    else:
        merged = reference.merge_streams(x, f, reference.sinkhorn_knopp(maps[..., n:].unflatten(-1, (n, n))), post)
    if round_to is not None:
        merged = merged + (merged.detach().to(round_to) - merged.detach())
    made = reference.stream_logits(merged, weight, scale, bias)
    read = reference.read_streams(merged, torch.sigmoid(made[..., :n]))
    if rms:
        normed = F.rms_norm(read.to(norm_weight.dtype), [dim], norm_weight, 1e-6).to(read.dtype)
    else:
        normed = F.layer_norm(read, [dim], norm_weight, norm_bias, 1e-6)
    return merged, normed, made[..., n:].flatten(0, 1).t()


CASES = {
    "fp32": (4, 64, 19, torch.float32, False, True, 2e-6),
    "entry": (4, 40, 19, torch.float32, True, True, 2e-6),
    "bare": (4, 64, 3, torch.float32, False, False, 2e-6),
    "one token": (2, 24, 1, torch.float32, False, False, 2e-6),
    "n=1": (1, 24, 5, torch.float32, False, True, 2e-6),
    "n=3": (3, 24, 19, torch.float32, False, True, 2e-6),
    # the streams that are read again are rounded once, by at most 2^-8
    "bf16": (4, 72, 19, torch.bfloat16, False, True, 1e-2),
    "bf16 entry": (4, 264, 5, torch.bfloat16, True, False, 1e-2),
    "fp16": (4, 64, 19, torch.float16, False, True, 2e-3),
    "ViT-B": (4, 768, 3, torch.bfloat16, False, True, 1e-2),
    "ViT-L": (4, 1024, 3, torch.bfloat16, False, False, 1e-2),
    "ViT-H": (4, 1280, 2, torch.bfloat16, False, True, 1e-2),
    "n=2, wide": (2, 768, 3, torch.bfloat16, False, True, 1e-2),
    "n=1, bf16": (1, 192, 3, torch.bfloat16, True, True, 1e-2),
    "identity": (4, 64, 19, torch.float32, False, True, 2e-6, False),
    "identity, entry": (4, 40, 5, torch.float32, True, False, 2e-6, False),
    "identity, n=1": (1, 24, 5, torch.float32, False, True, 2e-6, False),
    "identity, n=3, bf16": (3, 72, 9, torch.bfloat16, False, True, 1e-2, False),
    "no bias": (4, 40, 5, torch.float32, False, False, 2e-6, True, False),
    "rms": (4, 40, 19, torch.float32, False, True, 2e-6, True, False, True),
    "rms, identity, entry": (2, 72, 5, torch.bfloat16, True, False, 1e-2, False, False, True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_results_and_gradients(case):
    check_results_and_gradients(*case)


def test_partial_sums_of_the_gradient_of_the_weight(monkeypatch):
    monkeypatch.setattr("mhc_vision.kernels.triton_kernels.tiles.MIN_TOKENS_PER_SPLIT", 32)
    # two, of 64 and 6 tokens
    check_results_and_gradients(4, 40, 35, torch.bfloat16, False, True, 1e-2)


@pytest.mark.usefixtures("poisoned_memory")
def test_every_result_is_written(monkeypatch):
    monkeypatch.setattr("mhc_vision.kernels.triton_kernels.tiles.MIN_TOKENS_PER_SPLIT", 32)
    # two splits of the tokens, two tiles of channels of which one is partly filled, and a fourth stream of zeros
    check_results_and_gradients(3, 40, 35, torch.float32, False, True, 2e-6)


def check_results_and_gradients(
    n, dim, tokens, dtype, entry, scaled, tolerance, mix=True, bias=True, rms=False
) -> None:
    given = arguments(n, dim, tokens, dtype, entry, scaled, mix, bias)
    exact = [None if g is None else g.detach().double().requires_grad_(g.requires_grad) for g in given]
    results, expected = boundary(*grouped(given, rms))[:3], by_steps(*exact, rms=rms)
    gradients = [torch.randn_like(result) for result in results]
    wanted, leaves = ([g for g in tensors if g is not None and g.requires_grad] for tensors in (given, exact))
    grads = torch.autograd.grad(results, wanted, gradients)
    exact_grads = torch.autograd.grad(expected, leaves, [gradient.double() for gradient in gradients])
    for actual, right in zip([*results, *grads], [*expected, *exact_grads], strict=True):
        assert actual.isfinite().all()
        largest = right.abs().max().clamp(min=1.0)
        torch.testing.assert_close(actual.double() / largest, right / largest, rtol=0, atol=tolerance)


def test_gradients_of_bf16_parameters_are_bf16():
    given = arguments(4, 40, 9, torch.bfloat16, False, True)
    narrow = [g if g is None or i == 2 else g.detach().bfloat16().requires_grad_() for i, g in enumerate(given)]
    wide = [g if g is None else g.detach().to(old.dtype).requires_grad_() for g, old in zip(narrow, given, strict=True)]

    def gradients(of: list[Tensor | None]) -> list[Tensor]:
        return list(torch.autograd.grad([r.float().sin().sum() for r in boundary(*grouped(of))[:3]], of[3:9]))

    for actual, expected in zip(gradients(narrow), gradients(wide), strict=True):
        assert actual.is_contiguous()
        assert torch.equal(actual, expected.bfloat16())


def test_same_bits_every_time_and_in_one_graph():
    given = arguments(4, 40, 9, torch.bfloat16, False, True)
    wanted = [g for g in given if g.requires_grad]

    def gradients(op) -> list[Tensor]:
        *results, _ = op(*grouped(given))
        return [*results, *torch.autograd.grad([r.float().square().sum() for r in results], wanted)]

    first = gradients(boundary)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(boundary), strict=True))
    compiled = torch.compile(boundary, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(compiled), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_of_keep_does_not_matter(dtype):
    streams, merge, *rest = grouped(arguments(4, 40, 9, torch.bfloat16, False, True))
    keep = torch.tensor([0.0, 2.0], device=streams.device)
    results = [boundary(streams, merge._replace(keep=given), *rest) for given in (keep, keep.to(dtype))]
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


@pytest.mark.parametrize("used", range(3))
def test_results_that_are_not_used_have_no_gradient(used):
    given = arguments(4, 40, 9, torch.float32, False, True)
    wanted = [g for g in given if g.requires_grad]
    results = boundary(*grouped(given))
    found = torch.autograd.grad(results[used].sin().sum(), wanted, retain_graph=True)
    sums = [result.sin().sum() * (i == used) for i, result in enumerate(results[:3])]
    expected = torch.autograd.grad(sum(sums), wanted)
    assert all(torch.equal(actual, right) for actual, right in zip(found, expected, strict=True))
    assert not results[3].requires_grad


def exact_results(given: list[Tensor | None], gradients: list[Tensor], wanted: list[int], rms: bool) -> list[Tensor]:
    """Results and gradients in fp64, where nothing is rounded but the merged streams."""
    exact = [None if g is None else g.detach().double().requires_grad_(g.requires_grad) for g in given]
    results = by_steps(*exact, round_to=given[0].dtype, rms=rms)
    return [*results, *torch.autograd.grad(results, [exact[i] for i in wanted], [g.double() for g in gradients])]


def error(actual: Tensor, right: Tensor) -> float:
    return ((actual.double() - right).norm() / right.norm()).item()


@pytest.mark.parametrize(
    ("dim", "tokens", "mix", "rms"),
    [(192, 21, True, False), (768, 9, True, False), (192, 21, False, False), (192, 21, True, True)],
)
def test_as_exact_as_fp32_arithmetic_rounded_once(dim, tokens, mix, rms):
    given = arguments(4, dim, tokens, torch.bfloat16, False, True, mix, bias=not rms)
    results, eager = boundary(*grouped(given, rms))[:3], by_steps(*given, rms=rms)
    gradients = [torch.randn_like(result) for result in results]
    names = {"streams": 0, "output": 1, "logits": 2, "weight": 3, "scale": 4, "bias": 5}
    wanted = [given[i] for i in names.values()]
    actual, plain = ([*of, *torch.autograd.grad(of, wanted, gradients, retain_graph=True)] for of in (results, eager))
    right = exact_results(given, gradients, list(names.values()), rms)
    merged = by_steps(*(g if g is None else g.detach().double() for g in given))[0]
    assert error(actual[0], merged) <= 1.05 * error(plain[0], merged)
    for i, name in enumerate(["merged", "normed", "logits", *names]):
        if name in ("normed", "streams", "output"):
            assert error(actual[i], right[i]) <= 1.05 * error(plain[i], right[i]), name
    made = reference.stream_logits(actual[0].double(), *(given[i].double() for i in (3, 4, 5)))[..., 4:]
    assert error(actual[2], made.flatten(0, 1).t()) <= 1e-5
    # the largest seen is 5e-5
    for name in ("logits", "weight", "scale", "bias"):
        i = 3 + names[name]
        assert error(actual[i], right[i]) <= 1e-3, name


@pytest.mark.parametrize("offset", [30.0, 1000.0])
def test_what_all_channels_share_does_not_drown_the_variance(offset):
    """Mean and variance of what is read come from one pass over the streams."""
    n = 4
    given = [g if g is None else g.detach() for g in arguments(n, 72, 9, torch.float32, False, False)]
    given[0] += offset
    exact = by_steps(*(g if g is None else g.double() for g in given))
    # n + 1 products make a stream and n of those what is read: fp32 rounds each sum by up to 2^-24 of the offset, and
    # channels differ by about 1
    tolerance = 1e-5 + (2 * n + 1) * offset * 2**-24
    torch.testing.assert_close(boundary(*grouped(given))[1].double(), exact[1], rtol=0, atol=tolerance)


def phi_to_weight(phi: Tensor, k: int, n: int) -> Tensor:
    """(C*n, k), padded as by `prepare_phi` -> (k, n*C)."""
    by_stream = phi.unflatten(0, (-1, padded_size(n)))[:, :n, :k]
    return by_stream.permute(2, 1, 0).flatten(1)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_phi_as_the_kernels_read_it(n):
    k, dim = 2 * n + n * n, 24
    weights = [torch.randn(k, n * dim) for _ in range(2)]
    for prepared, weight in zip(prepare_phi(weights, n, torch.float32), weights, strict=True):
        assert torch.equal(phi_to_weight(prepared[0], k, n), weight)
    for prepared, weight in zip(prepare_phi(weights, n, torch.bfloat16), weights, strict=True):
        both = prepared.float().sum(0)
        torch.testing.assert_close(phi_to_weight(both, k, n), weight, rtol=2**-16, atol=0)
        # beside the weight there is nothing
        assert torch.count_nonzero(both) == torch.count_nonzero(phi_to_weight(both, k, n))


@pytest.mark.parametrize(
    ("dtype", "entry", "mix"),
    [(torch.bfloat16, True, True), (torch.float32, False, True), (torch.bfloat16, True, False)],
    ids=str,
)
def test_streams_made_again_give_the_same_bits(dtype, entry, mix):
    """A chain of four boundaries, of which the streams of the second alone are kept."""
    chain = [arguments(4, 40, 9, dtype, entry and i == 0, i != 2, mix) for i in range(4)]
    wanted = [g for i, given in enumerate(chain) for g in given[0 if i == 0 else 1 :] if g is not None]
    wanted = [g for g in wanted if g.requires_grad]

    def run(saves: list[bool]) -> tuple[list[Tensor], int]:
        streams, past, results = chain[0][0], Past(chain[0][0], ()), []
        saved: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            for given, save in zip(chain, saves, strict=True):
                _, merge, *parameters = grouped(given)
                streams, normed, rest, maps = boundary(streams, merge, *parameters, past if past.merges else None, save)
                merged = Merged(merge.output, maps, merge.layer_scale, merge.keep)
                past = Past(streams, ()) if save else Past(past.streams, (*past.merges, merged))
                results += [normed, rest]
        results.append(streams)
        gradients = torch.autograd.grad([result.float().sin().sum() for result in results], wanted)
        return [*results, *gradients], sum(saved.values())

    (kept, all_bytes), (replayed, few_bytes) = run([True] * 4), run([False, True, False, False])
    assert all(torch.equal(a, b) for a, b in zip(kept, replayed, strict=True))
    one = BATCH * 9 * 4 * 40 * kept[0].element_size()
    assert all_bytes - few_bytes == 3 * one


def test_registration():
    given = [None if g is None else g.detach() for g in arguments(4, 40, 19, torch.bfloat16, False, True)]
    streams, merge, connection, norm = grouped(given)
    connection = connection._replace(phi=prepare_phi([connection.weight], 4, torch.bfloat16)[0])
    flat = flatten_arguments(streams, merge, connection, norm)
    torch.library.opcheck(boundary_op, flat)
    normed, *made = boundary_op(*flat)
    gradients = [torch.randn_like(made[0]), torch.randn_like(normed), torch.randn_like(made[1][4:])]
    torch.library.opcheck(boundary_backward, (*gradients, made, True, *flat))
    torch.library.opcheck(boundary_backward, (*gradients, made, False, *flat))
    torch.library.opcheck(boundary_replay, (flat[0], 4, merge.output, made[-1], merge.layer_scale, merge.keep))


@pytest.mark.parametrize("num_merges", [None, 0, 2])
def test_arguments_come_back_from_their_flat_form(num_merges):
    merges = [Merged(object(), object(), None, object()) for _ in range(2)]
    given = (
        object(),
        Merge(object(), object(), None, object(), 7),
        Connection(object(), object(), object(), 0.5),
        Norm(object(), object(), 0.25),
    )
    past = None if num_merges is None else Past(object(), tuple(merges[:num_merges]))
    flat = flatten_arguments(*given, past)
    assert unflatten_arguments(flat) == (*given, past)
    assert not any(isinstance(value, tuple) for value in flat)


def test_strided_arguments():
    given = arguments(4, 40, 5, torch.float32, False, True)
    strided = [torch.stack([g, g], -1)[..., 0] for g in given]
    assert not any(g.is_contiguous() for g in strided)
    pairs = zip(boundary(*grouped(strided)), boundary(*grouped(given)), strict=True)
    assert all(torch.equal(actual, expected) for actual, expected in pairs)


def test_floating_point_operations_are_counted():
    given = arguments(4, 40, 19, torch.float32, False, True)
    with FlopCounterMode(display=False) as forward:
        *results, _ = boundary(*grouped(given))
    with FlopCounterMode(display=False) as backward:
        torch.autograd.backward(results, [torch.ones_like(result) for result in results])
    products = BATCH * 19 * 40 * (4 * 5 + 4 * 24 + 4)
    assert forward.get_total_flops() == 2 * products
    assert backward.get_total_flops() == 4 * products


def test_frozen_parameters_cost_no_pass_over_the_streams():
    given = arguments(4, 40, 19, torch.bfloat16, False, True)

    def gradients(of_logits: int) -> list[Tensor]:
        *results, _ = boundary(*grouped(given))
        ones = [torch.ones_like(result) for result in results]
        with FlopCounterMode(display=False) as counter:
            found = torch.autograd.grad(results, [given[i] for i in (0, 1, 2, 8)], ones)
        per_channel = 4 * (4 * 5 + 4) + of_logits * 4 * 24
        assert counter.get_total_flops() == BATCH * 19 * 40 * per_channel
        return list(found)

    learned = gradients(of_logits=4)
    for i in (3, 4, 5, 6, 7):
        given[i].requires_grad_(False)
    assert all(torch.equal(a, b) for a, b in zip(gradients(of_logits=2), learned, strict=True))


def test_there_is_no_form_without_kernels():
    given = [None if g is None else g.to("meta") for g in arguments(4, 64, 7, torch.float32, False, True)]
    with pytest.raises(ValueError, match="streams: got device meta, expected a GPU"):
        boundary(*grouped(given))


def test_no_fp64():
    given = arguments(4, 64, 5, torch.float64, False, False)
    with pytest.raises(ValueError, match=r"streams: got dtype torch\.float64, expected fp16, bf16 or fp32"):
        boundary(*grouped(given))


@pytest.mark.parametrize("eps", [0.0, -1e-6, float("nan")])
def test_bad_eps_is_named(eps):
    streams, merge, connection, norm = grouped(arguments(4, 64, 5, torch.float32, False, False))
    with pytest.raises(ValueError, match=r"connection\.eps: got"):
        boundary(streams, merge, connection._replace(eps=eps), norm)
    with pytest.raises(ValueError, match=r"norm\.eps: got"):
        boundary(streams, merge, connection, norm._replace(eps=eps))


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (2, 3, 5, 4, 64), "streams: got shape"),
        (1, (2, 4, 64), r"output: got shape \(2, 4, 64\)"),
        (2, (20, 9), r"logits: got shape \(20, 9\), expected \(20, 10\)"),
        (3, (23, 256), r"weight: got shape \(23, 256\), expected \(24, 256\)"),
        (0, (2, 5, 5, 64), "streams: got n = 5, expected 1 to 4"),
        (0, (2, 0, 4, 64), r"streams: got shape \(2, 0, 4, 64\)"),
        (0, (2, 5, 4, 60), "C % 8 = 0"),
        (4, (3,), r"scale: got shape \(3,\), expected \(24,\)"),
        (6, (63,), r"norm\.weight: got shape \(63,\), expected \(64,\)"),
        (8, (1,), r"layer_scale: got shape \(1,\), expected \(64,\)"),
        (9, (10,), r"keep: got shape \(10,\), expected \(2,\)"),
    ],
)
def test_bad_shapes_are_named(index, shape, message):
    given = arguments(4, 64, 5, torch.float32, False, False)
    given[index] = torch.ones(shape, device=DEVICE)
    with pytest.raises(ValueError, match=message):
        boundary(*grouped(given))
