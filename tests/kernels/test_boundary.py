"""The boundary op against its steps in fp64: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mhc_vision.kernels import boundary, reference

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 2


def arguments(n: int, dim: int, tokens: int, dtype: torch.dtype, entry: bool, scaled: bool) -> list[Tensor | None]:
    def random(*shape: int, dtype: torch.dtype = torch.float32, by: float = 1.0, plus: float = 0.0) -> Tensor:
        return (by * torch.randn(*shape, device=DEVICE) + plus).to(dtype).requires_grad_()

    k = 2 * n + n * n
    streams = (BATCH, tokens, dim) if entry else (BATCH, tokens, n, dim)
    given: list[Tensor | None] = [random(*streams, dtype=dtype), random(BATCH, tokens, dim, dtype=dtype)]
    given += [random(n + n * n, BATCH * tokens), random(k, n * dim, by=0.1), random(k), random(k)]
    given += [random(dim, by=0.2, plus=1.0), random(dim)]
    keep = torch.tensor([1.25, 0.0], device=DEVICE)
    return given + ([random(dim, by=0.2, plus=1.0), keep] if scaled else [None, None])


def by_steps(
    streams, output, logits, weight, scale, bias, norm_weight, norm_bias, layer_scale, keep
) -> tuple[Tensor, Tensor, Tensor]:
    dim = streams.shape[-1]
    n = weight.shape[1] // dim
    x = streams.unsqueeze(2).expand(-1, -1, n, -1) if streams.dim() == 3 else streams
    f = output if layer_scale is None else output * layer_scale
    f = f if keep is None else f * keep.view(-1, 1, 1)
    maps = logits.t().unflatten(0, x.shape[:2])
    res = reference.sinkhorn_knopp(maps[..., n:].unflatten(-1, (n, n)))
    merged = reference.merge_streams(x, f, res, 2 * torch.sigmoid(maps[..., :n]))
    made = reference.stream_logits(merged, weight, scale, bias)
    normed = F.layer_norm(
        reference.read_streams(merged, torch.sigmoid(made[..., :n])), [dim], norm_weight, norm_bias, 1e-6
    )
    return merged, normed, made[..., n:].flatten(0, 1).t()


CASES = {
    "fp32": (4, 64, 19, torch.float32, False, True, 2e-6),
    "entry": (4, 40, 19, torch.float32, True, True, 2e-6),
    "bare": (4, 64, 3, torch.float32, False, False, 2e-6),
    "one token": (2, 24, 1, torch.float32, False, False, 2e-6),
    "n=1": (1, 24, 5, torch.float32, False, True, 2e-6),
    "n=3": (3, 24, 19, torch.float32, False, True, 2e-6),
    # the streams that are read again are rounded once, by at most 2^-8
    "bf16": (4, 192, 37, torch.bfloat16, False, True, 1e-2),
    "bf16 entry": (4, 384, 5, torch.bfloat16, True, False, 1e-2),
    "fp16": (4, 64, 37, torch.float16, False, True, 2e-3),
    "ViT-B": (4, 768, 3, torch.bfloat16, False, True, 1e-2),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_results_and_gradients(case):
    n, dim, tokens, dtype, entry, scaled, tolerance = case
    given = arguments(n, dim, tokens, dtype, entry, scaled)
    exact = [None if g is None else g.detach().double().requires_grad_(g.requires_grad) for g in given]
    results, expected = boundary(*given), by_steps(*exact)
    gradients = [torch.randn_like(result) for result in results]
    wanted, leaves = ([g for g in tensors if g is not None and g.requires_grad] for tensors in (given, exact))
    grads = torch.autograd.grad(results, wanted, gradients)
    exact_grads = torch.autograd.grad(expected, leaves, [gradient.double() for gradient in gradients])
    for actual, right in zip([*results, *grads], [*expected, *exact_grads], strict=True):
        assert actual.isfinite().all()
        largest = right.abs().max().clamp(min=1.0)
        torch.testing.assert_close(actual.double() / largest, right / largest, rtol=0, atol=tolerance)


def test_same_bits_every_time_and_in_one_graph():
    given = arguments(4, 64, 19, torch.bfloat16, False, True)
    wanted = [g for g in given if g.requires_grad]

    def gradients(op) -> list[Tensor]:
        results = op(*given)
        return [*results, *torch.autograd.grad([r.float().square().sum() for r in results], wanted)]

    first = gradients(boundary)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(boundary), strict=True))
    compiled = torch.compile(boundary, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(compiled), strict=True))


def test_there_is_no_form_without_kernels(monkeypatch):
    monkeypatch.setattr("mhc_vision.kernels.triton_ops.can_launch", lambda tensor: False)
    with pytest.raises(RuntimeError, match="expected one on a GPU"):
        boundary(*arguments(4, 64, 7, torch.float32, False, True))


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (2, 3, 5, 4, 64), "streams: got shape"),
        (1, (2, 4, 64), r"output: got shape \(2, 4, 64\)"),
        (2, (20, 9), r"logits: got shape \(20, 9\), expected \(20, 10\)"),
        (3, (23, 256), r"weight: got shape \(23, 256\), expected \(24, 256\)"),
    ],
)
def test_bad_shapes_are_named(index, shape, message):
    given = arguments(4, 64, 5, torch.float32, False, False)
    given[index] = torch.ones(shape, device=DEVICE)
    with pytest.raises(ValueError, match=message):
        boundary(*given)
