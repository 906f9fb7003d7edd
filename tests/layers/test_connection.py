import pytest
import torch
from torch import nn

from mhc_vision.layers import (
    CONNECTIONS,
    DynamicHyperConnection,
    ManifoldHyperConnection,
    StaticHyperConnection,
    create_connection,
    expand_streams,
    reduce_streams,
)

CLASSES = [StaticHyperConnection, DynamicHyperConnection, ManifoldHyperConnection]


def perturbed(connection: nn.Module) -> nn.Module:
    """The connection away from its start, in fp64."""
    connection = connection.double()
    with torch.no_grad():
        for parameter in connection.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return connection


@pytest.mark.parametrize("num_streams", range(1, 9))
@pytest.mark.parametrize("layer_index", [0, 5])
@pytest.mark.parametrize("connection_class", CLASSES)
def test_starts_as_a_plain_residual_connection(connection_class, layer_index, num_streams):
    x, branch = torch.randn(2, 7, 16), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16))
    connection = connection_class(16, num_streams, layer_index)
    streams = connection(expand_streams(x, num_streams), branch)
    torch.testing.assert_close(reduce_streams(streams), x + branch(x), rtol=0, atol=1e-5)
    # and every stream is that sum
    torch.testing.assert_close(streams, expand_streams(x + branch(x), num_streams), rtol=0, atol=1e-5)


@pytest.mark.parametrize("connection_class", CLASSES)
def test_formula_with_maps_away_from_the_start(connection_class):
    """u = pre · X and X' = res · X + postᵀ · F(u), token by token, with the maps that `coefficients` tells."""
    connection = perturbed(connection_class(6, 3))
    streams, branch = torch.randn(2, 5, 3, 6, dtype=torch.float64), nn.Linear(6, 6).double()
    pre, post, res = connection.coefficients(streams)
    pre, post, res = pre.expand(2, 5, 3), post.expand(2, 5, 3), res.expand(2, 5, 3, 3)
    merged = connection(streams, branch)
    for b in range(2):
        for t in range(5):
            u = pre[b, t] @ streams[b, t]
            expected = res[b, t] @ streams[b, t] + torch.outer(post[b, t], branch(u))
            torch.testing.assert_close(merged[b, t], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("connection_class", CLASSES)
def test_observers_see_streams_tokens_and_maps_until_they_are_removed(connection_class):
    connection, streams = perturbed(connection_class(6, 3)), torch.randn(2, 5, 3, 6, dtype=torch.float64)
    first, second, branch = [], [], nn.Identity()
    expected = connection(streams, branch)
    handles = [
        connection.register_observer(lambda *arguments, seen=seen: seen.append(arguments)) for seen in (first, second)
    ]
    observed = connection(streams, branch)
    handles[0].remove()
    connection(streams, branch)
    handles[1].remove()
    assert torch.equal(connection(streams, branch), expected)
    # maps made by themselves, not in the op that reads with them
    torch.testing.assert_close(observed, expected, rtol=0, atol=1e-12)
    assert observed.requires_grad
    assert (len(first), len(second)) == (1, 2)
    (seen_streams, tokens, maps), opened = first[0], connection.open(streams)
    assert torch.equal(seen_streams, streams)
    torch.testing.assert_close(tokens, opened.tokens, rtol=0, atol=1e-12)
    torch.testing.assert_close(tuple(maps), tuple(connection.coefficients(streams)), rtol=0, atol=1e-12)
    torch.testing.assert_close((maps.post, maps.res), (opened.post, opened.res), rtol=0, atol=1e-12)
    assert not any(tensor.requires_grad for tensor in (seen_streams, tokens, *maps))


@pytest.mark.parametrize("connection_class", CLASSES)
def test_wraps_branches_of_any_rank(connection_class):
    """A recurrent-style (B, C) branch and an image (B, H, W, C) branch: leading dimensions are free."""
    connection = connection_class(8, 2)
    branch = nn.Linear(8, 8)
    for leading in [(3,), (2, 4, 4)]:
        streams = torch.randn(*leading, 2, 8)
        assert connection(streams, branch).shape == streams.shape


@pytest.mark.parametrize("connection_class", CLASSES)
def test_branches_and_callers_may_work_in_place(connection_class):
    connection = connection_class(8, 2)
    streams = torch.randn(3, 2, 8, requires_grad=True)
    expected = connection(streams, nn.ReLU())
    merged = connection(streams, nn.ReLU(inplace=True))
    torch.testing.assert_close(merged, expected, rtol=0, atol=0)
    merged.mul_(2.0).sum().backward()
    assert streams.grad.isfinite().all()


@pytest.mark.parametrize("connection_class", CLASSES)
def test_frozen_parts_get_no_gradient_and_the_others_theirs(connection_class):
    connection, branch = connection_class(8, 2), nn.Linear(8, 8)
    streams = torch.randn(3, 2, 8)
    connection(streams, branch).sum().backward()
    expected = branch.weight.grad.clone()
    branch.zero_grad()
    connection.requires_grad_(False)
    connection(streams, branch).sum().backward()
    torch.testing.assert_close(branch.weight.grad, expected)
    with torch.inference_mode():
        assert not connection(streams, branch).requires_grad


def test_second_derivatives_say_that_they_are_missing():
    connection = ManifoldHyperConnection(8, 2)
    streams = torch.randn(3, 2, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(connection(streams, nn.Tanh()).square().sum(), streams, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("connection_class", CLASSES)
def test_parameters_are_fp32_in_narrow_models(connection_class):
    connection = connection_class(8, 2, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in connection.parameters()} == {torch.float32}
    streams = torch.randn(3, 2, 8, dtype=torch.bfloat16)
    assert connection(streams, nn.Linear(8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    # cast as a whole, as by model.bfloat16(), it still runs
    assert connection.bfloat16()(streams, nn.Linear(8, 8, dtype=torch.bfloat16)).isfinite().all()


@pytest.mark.parametrize("connection_class", CLASSES)
def test_meta_start(connection_class):
    connection = connection_class(8, 4, 1, device="meta")
    connection.to_empty(device="cpu").init_weights()
    for parameter, fresh in zip(connection.parameters(), connection_class(8, 4, 1).parameters(), strict=True):
        assert torch.equal(parameter, fresh)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim: got 0"),
        ({"dim": 8, "num_streams": 0}, "num_streams: got 0, expected a whole number from 1 to 8"),
        ({"dim": 8, "num_streams": 9}, "num_streams: got 9"),
        ({"dim": 8, "num_streams": 2.0}, "num_streams: got 2.0"),
        ({"dim": 8, "layer_index": -1}, "layer_index: got -1"),
    ],
)
@pytest.mark.parametrize("connection_class", CLASSES)
def test_bad_arguments_are_named(connection_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        connection_class(**arguments)


@pytest.mark.parametrize("connection_class", [DynamicHyperConnection, ManifoldHyperConnection])
def test_streams_that_do_not_fit_are_named(connection_class):
    with pytest.raises(ValueError, match="got shape"):
        connection_class(8, 4)(torch.zeros(3, 4, 9), nn.Identity())


def test_create_connection():
    for name in CONNECTIONS:
        assert create_connection(name, 8, 2, tanh=None, constraint=None).num_streams == 2
    for unknown in ("hc", ["mhc"], None):
        with pytest.raises(ValueError, match=r"connection: got .*, expected one of shc, dhc, mhc"):
            create_connection(unknown, 8)
    with pytest.raises(ValueError, match="tanh: got 'no', expected true or false"):
        create_connection("dhc", 8, tanh="no")
    with pytest.raises(ValueError, match="constraint: got 'identity', but connection 'shc' has no such option"):
        create_connection("shc", 8, constraint="identity")
