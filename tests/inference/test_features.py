"""Features and attention of plain and hyper-connected models against what timm's own functions give."""

import pytest
import timm
import torch
from families import EVA, VIT
from torch import nn

from mhc_vision.inference.features import feature_function, last_attention
from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.layers import CONNECTIONS

MODELS = [(family, connection) for family in (VIT, EVA) for connection in (None, *CONNECTIONS)]
MAPPED = pytest.mark.parametrize(
    ("family", "connection"), MODELS, ids=lambda value: getattr(value, "name", value) or "plain"
)


def loaded(model: nn.Module, img_size: int = 16) -> LoadedModel:
    half = (0.5, 0.5, 0.5)
    return LoadedModel(model.eval(), "this model", 10, 3, {}, img_size, 1.0, "center", "bilinear", half, half)


def made(family, connection, **options) -> nn.Module:
    """A model whose parameters differ, with a head that says something."""
    torch.manual_seed(0)
    model = family.connected(connection, **options) if connection else family.plain(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@MAPPED
@torch.inference_mode()
def test_features_are_what_timm_takes_them_for(family, connection):
    model, x = loaded(made(family, connection)), images()
    found = {name: feature_function(model, name)(x) for name in ("head", "cls", "mean", "patches")}
    (patches, prefix), *_ = model.model.forward_intermediates(
        x, indices=[-1], return_prefix_tokens=True, norm=True, intermediates_only=True
    )
    torch.testing.assert_close(model.model.head(found["head"]), model.model(x))
    torch.testing.assert_close(found["cls"], prefix[:, 0])
    torch.testing.assert_close(found["patches"], patches.permute(0, 2, 3, 1))
    torch.testing.assert_close(found["mean"], patches.mean((2, 3)))


def test_a_model_says_which_features_it_lacks():
    pooled = loaded(VIT.plain(class_token=False, global_pool="avg"))
    with pytest.raises(ValueError, match="got 'cls' for this model, which has no class token, expected head, mean or"):
        feature_function(pooled, "cls")
    assert feature_function(pooled, "patches")(images()).shape == (2, 4, 4, 64)
    network = loaded(timm.create_model("test_resnet", num_classes=10), 32)
    assert feature_function(network, "head")(torch.zeros(1, 3, 32, 32)).ndim == 2
    for name in ("cls", "mean", "patches"):
        with pytest.raises(ValueError, match=f"got '{name}' for this model, expected a ViT, which has patch tokens"):
            feature_function(network, name)
    with pytest.raises(ValueError, match="attention: asked for this model, expected a ViT"):
        last_attention(network, torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="features: got 'class', expected one of head, cls, mean, patches"):
        feature_function(pooled, "class")


@pytest.mark.parametrize(
    ("connection", "options"),
    [(None, {}), ("shc", {}), ("mhc", {}), ("mhc", {"constraint": "identity"}), ("mhc", {"reg_tokens": 2})],
    ids=str,
)
@pytest.mark.parametrize("class_token", [True, False])
@torch.inference_mode()
def test_attention_is_that_of_the_branch(connection, options, class_token):
    pooling = {} if class_token else {"class_token": False, "global_pool": "avg"}
    model = made(VIT, connection, **options, **pooling)
    seen = []
    attention = model.blocks[-1].attn
    with attention.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        found = last_attention(loaded(model), images())
    tokens = seen[0]
    q, k, _ = attention.qkv(tokens).unflatten(2, (3, 2, 32)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / 32**0.5).softmax(-1).mean(1)[..., model.num_prefix_tokens :]
    expected = weights[:, 0] if class_token else weights[:, model.num_prefix_tokens :].mean(1)
    torch.testing.assert_close(found, expected.view(2, 4, 4))


@MAPPED
@torch.inference_mode()
def test_the_model_is_afterwards_as_before(family, connection):
    model = made(family, connection)
    before, parts = model.eval()(images()), list(model.modules())
    found = last_attention(loaded(model), images())
    assert found.shape == (2, 4, 4)
    # of one, some goes to class and register tokens
    assert (found.sum((1, 2)) > 0).all()
    assert (found.sum((1, 2)) < 1).all()
    assert all(one is other for one, other in zip(model.modules(), parts, strict=True))
    assert not any(part._forward_hooks for part in parts)
    assert model.blocks[-1].attn.fused_attn
    assert torch.equal(model(images()), before)
