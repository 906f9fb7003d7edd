"""Switches of single maps: what does not learn is constant and has no parameters, the rest is what it was."""

import itertools

import pytest
import torch
from torch import Tensor

from mhc_vision.layers import CONNECTIONS, HyperConnection, create_connection, initial_coefficients

MAPS = ("pre", "post", "res")
SWITCHES = [switches for switches in itertools.product([True, False], repeat=3) if 0 < sum(switches) < 3]


@pytest.fixture(params=SWITCHES, ids=lambda switches: "+".join(itertools.compress(MAPS, switches)))
def learned(request) -> dict[str, bool]:
    """Which maps learn."""
    return dict(zip(MAPS, request.param, strict=True))


@pytest.fixture(params=CONNECTIONS)
def connection(request) -> str:
    return request.param


def create(connection: str, learned: dict[str, bool], **options) -> HyperConnection:
    return create_connection(
        connection, 8, layer_index=5, **{f"learn_{name}": learns for name, learns in learned.items()}, **options
    )


def moved(connection: HyperConnection) -> HyperConnection:
    with torch.no_grad():
        for parameter in connection.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return connection


def constants(connection: str, n: int = 4) -> dict[str, Tensor]:
    """What the maps are where they do not learn: the start of the HC paper, or the constants of mHC's ablation."""
    pre = torch.full((n,), 1 / n) if connection == "mhc" else torch.eye(n)[5 % n]
    return {"pre": pre, "post": torch.ones(n), "res": torch.eye(n)}


def test_a_map_that_does_not_learn_is_constant_and_the_others_depend_on_parameters(connection, learned):
    module, streams = moved(create(connection, learned)), torch.randn(2, 3, 4, 8)
    maps = module.coefficients(streams)._asdict()
    for name, learns in learned.items():
        if learns:
            assert maps[name].requires_grad
            assert not torch.allclose(maps[name], constants(connection)[name].expand_as(maps[name]), atol=1e-2)
        else:
            assert not maps[name].requires_grad
            assert torch.equal(maps[name], constants(connection)[name])


def test_every_parameter_gets_a_gradient_and_belongs_to_a_map_that_learns(connection, learned):
    module, n, dim = moved(create(connection, learned)), 4, 8
    streams, output = torch.randn(2, 3, n, dim), torch.randn(2, 3, dim)
    tokens, handed_on, res, post = module.open(streams)
    pre = module.coefficients(streams).pre.expand(2, 3, n)
    torch.testing.assert_close(tokens, torch.einsum("btj,btjc->btc", pre, streams), rtol=0, atol=1e-5)
    (module.merge(handed_on, output, res, post).square().sum() + tokens.square().sum()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    pre, post, res = learned.values()
    static = n * pre + n * post + n * n * res
    projected = {
        "shc": 0,
        "dhc": 2 * dim + dim * (pre + post + n * res) + (pre or res) + post,
        "mhc": n * dim * static + pre + post + res,
    }
    assert sum(parameter.numel() for parameter in module.parameters()) == static + projected[connection]
    assert module.state_dict().keys() == dict(module.named_parameters()).keys()


def test_dynamic_maps_are_those_of_the_full_connection(learned):
    """The rows of the projection that are left make the same maps as beside the others."""
    full, part, n = moved(create("dhc", {})).double(), create("dhc", learned).double(), 4
    rows = {"pre": [0], "post": [1], "res": [*range(2, 2 + n)]}
    with torch.no_grad():
        part.weight.copy_(full.weight[[row for name in MAPS if learned[name] for row in rows[name]]])
        part.scale.copy_(full.scale[[0] * (learned["pre"] or learned["res"]) + [1] * learned["post"]])
        for name in ("norm_weight", "norm_bias", *(name for name in MAPS if learned[name])):
            getattr(part, name).copy_(getattr(full, name))
    streams = torch.randn(2, 3, n, 8, dtype=torch.float64)
    expected, maps = full.coefficients(streams)._asdict(), part.coefficients(streams)._asdict()
    for name in itertools.compress(MAPS, learned.values()):
        torch.testing.assert_close(maps[name], expected[name], rtol=0, atol=1e-12)


def test_manifold_maps_are_those_of_the_full_connection(learned):
    full, part, n = moved(create("mhc", {})).double(), create("mhc", learned).double(), 4
    rows = {"pre": [*range(n)], "post": [*range(n, 2 * n)], "res": [*range(2 * n, 2 * n + n * n)]}
    kept = [row for name in MAPS if learned[name] for row in rows[name]]
    with torch.no_grad():
        part.weight.copy_(full.weight[kept])
        part.bias.copy_(full.bias[kept])
        part.scale.copy_(full.scale[[MAPS.index(name) for name in MAPS if learned[name]]])
    streams = torch.randn(2, 3, n, 8, dtype=torch.float64)
    expected, maps = full.coefficients(streams)._asdict(), part.coefficients(streams)._asdict()
    for name in itertools.compress(MAPS, learned.values()):
        torch.testing.assert_close(maps[name], expected[name], rtol=0, atol=1e-12)


def test_the_paper_s_pre_or_one_that_favours_a_stream():
    pre = create("mhc", {"pre": False}, pre_init=0.7).pre
    torch.testing.assert_close(pre, torch.tensor([0.1, 0.7, 0.1, 0.1]), rtol=0, atol=1e-7)
    assert torch.equal(create("mhc", {"pre": False}, num_streams=1).pre, torch.ones(1))


def test_constants_survive_a_meta_start(connection, learned):
    module = create(connection, learned, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            tensor.fill_(float("nan"))
    module.init_weights()
    expected = create(connection, learned)
    streams = torch.randn(3, 4, 8)
    for ours, theirs in zip(module.coefficients(streams), expected.coefficients(streams), strict=True):
        assert torch.equal(ours, theirs)


def test_the_start_is_known_whatever_the_connection_has_become(connection, learned):
    fresh = create(connection, learned).coefficients(torch.randn(4, 8))
    for start, expected in zip(initial_coefficients(moved(create(connection, learned))), fresh, strict=True):
        torch.testing.assert_close(start.expand_as(expected), expected)


def test_switches_are_shown(connection):
    assert "learn" not in repr(create(connection, {}))
    assert "learn_pre=False, learn_res=False" in repr(create(connection, {"pre": False, "res": False}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn_pre": 0}, "learn_pre: got 0, expected true or false"),
        (
            {"learn_pre": False, "learn_post": False, "learn_res": False},
            "got no map that learns, expected one; or take the plain model",
        ),
    ],
)
def test_bad_switches_are_named(connection, options, message):
    with pytest.raises(ValueError, match=message):
        create_connection(connection, 8, **options)


def test_identity_leaves_nothing_to_learn_without_pre_and_post():
    with pytest.raises(ValueError, match="got no map that learns"):
        create_connection("mhc", 8, learn_pre=False, learn_post=False, constraint="identity")
