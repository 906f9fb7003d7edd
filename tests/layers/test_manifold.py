import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from mhc_vision.kernels import stream_coefficients
from mhc_vision.layers import CONSTRAINTS, ManifoldHyperConnection, create_constraint
from mhc_vision.layers.manifold import row_scales

DOUBLY_STOCHASTIC = ["sinkhorn", "permutation", "kronecker", "identity"]


def sizes(constraint: str) -> list[int]:
    """Numbers of streams for which the constraint exists."""
    return {"permutation": [1, 2, 3, 4, 5], "kronecker": [1, 2, 4, 8]}.get(constraint, [1, 2, 3, 4, 8])


CASES = [(constraint, n) for constraint in CONSTRAINTS for n in sizes(constraint)]


@pytest.mark.parametrize(("constraint", "n"), CASES)
def test_start(constraint, n):
    """Rows of res and pre sum to one, post is one; maps favour a stream and the diagonal without saturating."""
    connection = ManifoldHyperConnection(8, n, layer_index=n + 1, constraint=constraint)
    pre, post, res = connection.coefficients(torch.randn(3, n, 8))
    torch.testing.assert_close(pre.sum(-1), torch.ones(3), rtol=0, atol=1e-6 if n > 1 else 1e-4)
    torch.testing.assert_close(post, torch.ones(3, n), rtol=0, atol=1e-6)
    res = res.expand(3, n, n)
    torch.testing.assert_close(res.sum(-1), torch.ones(3, n), rtol=0, atol=1e-5)
    if n > 1:
        assert (pre.argmax(-1) == (n + 1) % n).all()
        # the published logits, 3 and -3
        favoured, other = torch.sigmoid(torch.tensor([3.0, -3.0])).tolist()
        assert pre.max().item() == pytest.approx(favoured / (favoured + (n - 1) * other), abs=1e-6)
        assert (res.diagonal(dim1=-2, dim2=-1) > 0.98).all()
    if n == 4 and constraint in ("sinkhorn", "kronecker", "permutation"):
        assert res[0, 0, 0].item() == pytest.approx(1 / (1 + 3 * torch.tensor(-6.0).exp().item()), abs=1e-6)


@pytest.mark.parametrize(("constraint", "n"), CASES)
def test_family_of_each_constraint(constraint, n):
    module = create_constraint(constraint, n, sinkhorn_iters=100).double()
    matrices = module(0.5 * torch.randn(20, module.num_logits, dtype=torch.float64)).expand(20, n, n)
    ones = torch.ones(20, n, dtype=torch.float64)
    if constraint in DOUBLY_STOCHASTIC:
        assert (matrices >= 0).all()
        torch.testing.assert_close(matrices.sum(-1), ones, rtol=0, atol=1e-12)
        torch.testing.assert_close(matrices.sum(-2), ones, rtol=0, atol=1e-9)
    else:
        identity = torch.eye(n, dtype=torch.float64).expand(20, n, n)
        torch.testing.assert_close(matrices @ matrices.mT, identity, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("constraint", "n"), [case for case in CASES if case[0] != "identity"])
@pytest.mark.parametrize("start", ["random", "near 8 I"])
def test_gradient_of_each_constraint(constraint, n, start):
    module = create_constraint(constraint, n).double()
    logits = torch.randn(2, module.num_logits, dtype=torch.float64)
    if start == "near 8 I":
        eight = torch.zeros(module.num_logits, dtype=torch.float64)
        if constraint == "sinkhorn":
            eight = 8 * torch.eye(n, dtype=torch.float64).flatten()
        elif constraint in ("permutation", "kronecker"):
            # the identity's logit 8 above the others
            eight[:: module.num_logits if constraint == "permutation" else 2] = 8.0
        logits = eight + 0.1 * logits
    assert gradcheck(module, logits.requires_grad_())


def test_permutations_reach_every_permutation_matrix():
    module = create_constraint("permutation", 3)
    corners = module(60.0 * torch.eye(6)).round()
    assert len({tuple(matrix.flatten().tolist()) for matrix in corners}) == 6
    assert torch.equal(corners[0], torch.eye(3))


def test_kronecker_is_the_kronecker_product():
    module = create_constraint("kronecker", 8).double()
    logits = torch.randn(6, dtype=torch.float64)
    expected = torch.ones(1, 1, dtype=torch.float64)
    for stay, swap in logits.view(3, 2).softmax(-1):
        expected = torch.kron(torch.stack([torch.stack([stay, swap]), torch.stack([swap, stay])]), expected)
    torch.testing.assert_close(module(logits), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_one_pass_equals_coefficients_then_read(constraint):
    """`open` is `coefficients` and a read, in value and in every gradient."""
    connection = ManifoldHyperConnection(6, 4, constraint=constraint).double()
    with torch.no_grad():
        for parameter in connection.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    streams = torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    inputs = [streams, *connection.parameters()]
    tokens, handed_on, res, post = connection.open(streams)
    pre, expected_post, expected_res = connection.coefficients(streams)
    results = [tokens, handed_on, res, post]
    expected = [torch.einsum("btj,btjc->btc", pre, streams), streams, expected_res, expected_post]
    weights = [torch.randn_like(tensor) for tensor in results]

    def weighted(tensors):
        return sum((tensor * weight).sum() for tensor, weight in zip(tensors, weights, strict=True))

    for tensor, expected_tensor in zip(results, expected, strict=True):
        torch.testing.assert_close(tensor, expected_tensor, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(weighted(results), inputs)
    for gradient, expected_gradient in zip(gradients, torch.autograd.grad(weighted(expected), inputs), strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


def test_sinkhorn_coefficients_are_the_public_op():
    connection = ManifoldHyperConnection(6, 4, sinkhorn_iters=7)
    nn.init.normal_(connection.weight)
    streams = torch.randn(2, 5, 4, 6)
    expected = stream_coefficients(streams, connection.weight, connection.scale, connection.bias, num_iters=7)
    for ours, theirs in zip(connection.coefficients(streams), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_parameter_counts(n):
    """mHC: nC(n² + 2n) + n² + 2n + 3; identity has nothing for `res`."""
    count = sum(p.numel() for p in ManifoldHyperConnection(16, n).parameters())
    assert count == n * 16 * (n * n + 2 * n) + n * n + 2 * n + 3
    count = sum(p.numel() for p in ManifoldHyperConnection(16, n, constraint="identity").parameters())
    assert count == n * 16 * 2 * n + 2 * n + 2


@pytest.mark.parametrize("constraint", ["permutation", "orthogonal"])
def test_fixed_matrices_survive_a_meta_start(constraint):
    connection = ManifoldHyperConnection(8, 3, constraint=constraint, device="meta")
    assert connection.constraint.basis.device.type == "meta"
    connection.to_empty(device="cpu")
    connection.constraint.basis.fill_(float("nan"))
    connection.init_weights()
    expected = ManifoldHyperConnection(8, 3, constraint=constraint)
    assert torch.equal(connection.constraint.basis, expected.constraint.basis)
    assert torch.equal(connection.bias, expected.bias)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_autocast_does_not_round_the_maps(constraint):
    connection = ManifoldHyperConnection(32, 4, constraint=constraint)
    nn.init.normal_(connection.weight)
    streams = torch.randn(2, 5, 4, 32)
    expected = connection.coefficients(streams), connection.open(streams)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            (connection.coefficients(streams), connection.open(streams)), expected, rtol=0, atol=0
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constraint": "simplex"}, "constraint: got 'simplex', expected one of sinkhorn, permutation"),
        ({"constraint": "kronecker", "num_streams": 3}, "num_streams: got 3, expected a power of two"),
        ({"constraint": "permutation", "num_streams": 6}, "num_streams: got 6, expected at most 5"),
        ({"sinkhorn_iters": 0}, "sinkhorn_iters: got 0"),
        ({"pre_init": 1.0}, "pre_init: got 1.0"),
        ({"pre_init": "0.7"}, "pre_init: got '0.7'"),
        ({"res_init": float("-inf")}, "res_init: got -inf"),
        ({"res_init": 1.0}, "res_init: got 1.0"),
        ({"constraint": ["sinkhorn"]}, "constraint: got"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ManifoldHyperConnection(8, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_of_a_constant_pre_make_it_in_a_model_that_was_cast(dtype):
    connection = ManifoldHyperConnection(8, 3, learn_pre=False, pre_init=0.7).to(dtype)
    _, _, bias = connection.all_rows(connection.row_scale())
    torch.testing.assert_close(torch.sigmoid(bias[:3]), connection.pre.to(bias.dtype), rtol=1e-6, atol=0)


def test_scales_of_many_connections_at_once():
    options = [{}, {}, {"constraint": "identity"}, {"learn_pre": False}, {}]
    connections = [ManifoldHyperConnection(8, 4, **given).double() for given in options]
    scales = [nn.init.normal_(connection.scale) for connection in connections]
    weights = [torch.randn_like(connection.bias) for connection in connections]
    found = row_scales(connections)
    expected = [connection.row_scale() for connection in connections]
    assert all(torch.equal(actual, right) for actual, right in zip(found, expected, strict=True))
    gradients = [torch.autograd.grad(made, scales, weights) for made in (found, expected)]
    torch.testing.assert_close(*gradients)
