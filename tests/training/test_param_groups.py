import pytest
import timm.optim
import torch
from torch import nn

import mhc_vision  # noqa: F401  registers the models
from mhc_vision.layers import create_connection, initial_coefficients, projection_lr_scales
from mhc_vision.training.param_groups import param_groups


def _model(name: str) -> nn.Module:
    return timm.create_model(name, img_size=32, patch_size=16, depth=2, num_classes=5)


def _group_of(model: nn.Module, groups: list[dict]) -> dict[str, str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group["name"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("name", ["test_vit", "test_vit_shc", "test_vit_dhc", "test_vit_mhc"])
def test_every_trainable_parameter_is_in_exactly_one_group(name):
    model = _model(name)
    model.pos_embed.requires_grad_(False)
    groups = param_groups(model, lr=1.0, weight_decay=0.1)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_a_plain_model_has_timms_groups():
    model = _model("test_vit")
    groups = param_groups(model, lr=1e-3, weight_decay=0.1)
    theirs = timm.optim.param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())
    undecayed = {id(p) for group in theirs if group["weight_decay"] == 0 for p in group["params"]}
    assert [group["name"] for group in groups] == ["backbone", "backbone_no_decay"]
    assert {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]} == undecayed


def test_connections_learn_at_their_own_rate_and_decay_only_their_projections():
    model = _model("test_vit_mhc")
    groups = param_groups(model, lr=1e-3, weight_decay=0.1, connection_lr_scale=30)
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {
        "backbone": (1e-3, 0.1),
        "backbone_no_decay": (1e-3, 0.0),
        "connection_static": (pytest.approx(3e-2), 0.0),
        # of 4 x 64 inputs
        "connection_dynamic.256": (pytest.approx(3e-2 * 384 / 256), 0.1),
    }
    group_of = _group_of(model, groups)
    assert group_of["blocks.0.connection1.weight"] == "connection_dynamic.256"
    assert group_of["blocks.0.connection1.bias"] == "connection_static"
    assert group_of["blocks.0.attn.qkv.weight"] == "backbone"
    assert group_of["pos_embed"] == "backbone_no_decay"


@pytest.mark.parametrize(
    ("connection", "options"),
    [("mhc", {}), ("mhc", {"constraint": "identity"}), ("dhc", {}), ("dhc", {"tanh": False})],
)
@pytest.mark.parametrize(("dim", "num_streams"), [(48, 2), (96, 4), (192, 4), (96, 8)])
def test_a_step_moves_maps_alike_at_all_widths(connection, options, dim, num_streams):
    """One step of signs on the projection, as Adam's first one is, with inputs that all agree with it."""
    layer = create_connection(connection, dim, num_streams, **options)
    (name, scale), *_ = projection_lr_scales(layer).items()
    with torch.no_grad():
        layer.get_parameter(name).add_(1e-3 * scale.factor)
        start = initial_coefficients(layer)
        # of norm sqrt(C) for each stream: what a norm makes of any token
        tokens = torch.ones(1, num_streams, dim)
        if connection == "dhc":
            tokens[..., ::2] = -1
            layer.get_parameter(name)[:, ::2] *= -1
        moved = layer.coefficients(tokens).post - start.post
    reference = {"mhc": 0.5 * 384, "dhc": 96}[connection]  # 2σ has a slope of a half
    assert moved.flatten().tolist() == pytest.approx([1e-3 * 0.01 * reference] * num_streams, rel=0.02)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_connection_rate_that_cannot_learn_is_refused(scale):
    with pytest.raises(ValueError, match=rf"connection_lr_scale: got {scale}, expected a finite number"):
        param_groups(_model("test_vit"), lr=1e-3, weight_decay=0.1, connection_lr_scale=scale)


@pytest.mark.parametrize("name", ["test_vit", "test_vit_mhc"])
def test_layer_decay_slows_the_backbone_towards_the_input_as_timms_and_leaves_connections_out(name):
    model = _model(name)
    groups = param_groups(model, lr=1e-3, weight_decay=0.1, connection_lr_scale=10, layer_decay=0.5)
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    rate_of = {name: rates[parameter] for name, parameter in model.named_parameters()}
    assert rate_of["head.weight"] == groups[0]["lr"] == 1e-3
    # two blocks: the last with the final norm, the first, and the embeddings
    assert rate_of["norm.weight"] == rate_of["blocks.1.mlp.fc1.weight"] == 0.5e-3
    assert rate_of["blocks.0.attn.qkv.weight"] == 0.25e-3
    assert rate_of["patch_embed.proj.weight"] == rate_of["pos_embed"] == 0.125e-3
    plain = _model("test_vit")
    theirs = timm.optim.param_groups_layer_decay(plain, 0.1, plain.no_weight_decay(), layer_decay=0.5)
    scale_of = {parameter: group["lr_scale"] for group in theirs for parameter in group["params"]}
    for key, parameter in plain.named_parameters():
        assert rate_of[key] == pytest.approx(1e-3 * scale_of[parameter])
    for key, rate in rate_of.items():
        if ".connection" in key:
            assert rate == pytest.approx(1e-2 * (384 / 256 if key.endswith(".weight") else 1))


def test_groups_of_layers_are_named_from_the_bottom():
    groups = param_groups(_model("test_vit_mhc"), lr=1.0, weight_decay=0.1, layer_decay=0.5)
    names = [group["name"] for group in groups]
    assert names[:3] == ["backbone.3", "backbone_no_decay.3", "backbone.2"]
    assert names[-4:] == ["backbone.0", "backbone_no_decay.0", "connection_static", "connection_dynamic.256"]
    undecayed = [group["name"] for group in groups if group["weight_decay"] == 0]
    assert undecayed == [name for name in names if "no_decay" in name or "static" in name]


@pytest.mark.parametrize("layer_decay", [0.0, 1.5])
def test_a_layer_decay_out_of_range_is_refused(layer_decay):
    with pytest.raises(ValueError, match=rf"layer_decay: got {layer_decay}, expected a finite number"):
        param_groups(_model("test_vit"), lr=1e-3, weight_decay=0.1, layer_decay=layer_decay)


def test_layer_decay_needs_a_model_with_layers():
    with pytest.raises(ValueError, match=r"layer_decay: got 0\.5, expected 1: Linear has no group_matcher"):
        param_groups(nn.Linear(2, 2), lr=1e-3, weight_decay=0.1, layer_decay=0.5)
