"""Weights of plain and hyper-connected models in files, in every form that timm reads, into hyper-connected models."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from mhc_vision.layers import CONNECTIONS

VIT = {"img_size": 32, "patch_size": 8, "depth": 2}
NAMES = {
    "vit_tiny_patch16_224": VIT,
    "vit_small_patch16_224": VIT,
    "vit_base_patch16_224": VIT,
    "vit_large_patch16_224": VIT,
    "vit_small_patch14_dinov2": {"img_size": 28, "depth": 2},
    "vit_small_patch14_reg4_dinov2": {"img_size": 28, "depth": 2},
    "vit_small_patch16_dinov3": {"img_size": 32, "depth": 2},
    "vit_small_plus_patch16_dinov3_qkvb": {"img_size": 32, "depth": 2},
}


def save(state_dict: dict, path) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state_dict, path)
    else:
        torch.save(state_dict, path)
    return str(path)


def save_jax(model: nn.Module, path) -> str:
    """Weights in the layout of Google's ViT checkpoints, which timm's `load_pretrained` reads."""
    heads = model.blocks[0].attn.num_heads
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}

    def linear(name: str, target: str) -> dict:
        return {f"{target}/kernel": weights[f"{name}.weight"].T, f"{target}/bias": weights[f"{name}.bias"]}

    def norm(name: str, target: str) -> dict:
        return {f"{target}/scale": weights[f"{name}.weight"], f"{target}/bias": weights[f"{name}.bias"]}

    arrays = {
        "embedding/kernel": weights["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": weights["patch_embed.proj.bias"],
        "cls": weights["cls_token"],
        "Transformer/posembed_input/pos_embedding": weights["pos_embed"],
        **norm("norm", "Transformer/encoder_norm"),
        **linear("head", "head"),
    }
    for i in range(len(model.blocks)):
        block, target = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        attention = f"{target}/MultiHeadDotProductAttention_1"
        arrays |= norm(f"{block}.norm1", f"{target}/LayerNorm_0") | norm(f"{block}.norm2", f"{target}/LayerNorm_2")
        arrays |= linear(f"{block}.mlp.fc1", f"{target}/MlpBlock_3/Dense_0")
        arrays |= linear(f"{block}.mlp.fc2", f"{target}/MlpBlock_3/Dense_1")
        kernels = np.split(weights[f"{block}.attn.qkv.weight"], 3)
        biases = np.split(weights[f"{block}.attn.qkv.bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            arrays[f"{attention}/{part}/kernel"] = kernel.T.reshape(len(bias), heads, -1)
            arrays[f"{attention}/{part}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}/out/kernel"] = weights[f"{block}.attn.proj.weight"].T.reshape(heads, -1, len(biases[0]))
        arrays[f"{attention}/out/bias"] = weights[f"{block}.attn.proj.bias"]
    np.savez(path, **arrays)
    return str(path)


def warm_start(name: str, overlay: dict, **options) -> nn.Module:
    # timm before 1.0.31 takes any file for JAX weights where its default weights are
    overlay = {"custom_load": False, **overlay}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options).eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", NAMES)
def test_pretrained_starts_from_the_plain_weights(name, suffix, trained_like, tmp_path):
    plain = trained_like(timm.create_model(name, **NAMES[name])).eval()
    overlay = {"file": save(plain.state_dict(), tmp_path / f"plain{suffix}")}
    x = torch.randn(2, 3, NAMES[name]["img_size"], NAMES[name]["img_size"])
    with torch.no_grad():
        for connection in CONNECTIONS:
            hyper = warm_start(f"{name}_{connection}", overlay, **NAMES[name])
            torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)


def test_jax_weights(trained_like, tmp_path, tiny):
    plain = trained_like(timm.create_model("test_vit", **tiny)).eval()
    overlay = {"file": save_jax(plain, tmp_path / "plain.npz"), "custom_load": True, "num_classes": 10}
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        # the file is what timm itself reads
        torch.testing.assert_close(warm_start("test_vit", overlay, **tiny)(x), plain(x), rtol=0, atol=1e-6)
        for connection in CONNECTIONS:
            hyper = warm_start(f"test_vit_{connection}", overlay, **tiny)
            torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"checkpoint_path: got .*plain\.npz with 3 blocks, expected 2"):
        warm_start("test_vit_mhc", overlay, **{**tiny, "depth": 2})


def test_metas_dinov2_layout_with_registers(trained_like, tmp_path):
    """As published: a mask token, registers by another name and a position embedding for the class token."""
    name, options = "vit_small_patch14_reg4_dinov2", NAMES["vit_small_patch14_reg4_dinov2"]
    plain = trained_like(timm.create_model(name, **options)).eval()
    state = plain.state_dict()
    published = {
        **{key: value for key, value in state.items() if key not in ("reg_token", "pos_embed")},
        "register_tokens": state["reg_token"],
        "pos_embed": torch.cat([torch.zeros(1, 1, plain.embed_dim), state["pos_embed"]], 1),
        "mask_token": torch.zeros(1, plain.embed_dim),
    }
    overlay = {"file": save(published, tmp_path / "published.pth")}
    x = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        hyper = warm_start(f"{name}_mhc", overlay, **options)
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)


def test_new_head_new_size_and_one_channel_as_in_timm(trained_like, tmp_path):
    plain = trained_like(timm.create_model("vit_tiny_patch16_224", **VIT))
    # the size of the source tells timm the grid that the position embeddings are resampled from
    overlay = {"file": save(plain.state_dict(), tmp_path / "plain.pth"), "input_size": (3, 32, 32)}
    changed = {**VIT, "img_size": 48, "num_classes": 7, "in_chans": 1}
    torch.manual_seed(0)
    expected = warm_start("vit_tiny_patch16_224", overlay, **changed)
    torch.manual_seed(0)
    hyper = warm_start("vit_tiny_patch16_224_dhc", overlay, **changed)
    x = torch.randn(2, 1, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), expected(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_hyper_connected_file_keeps_its_connections(trained_like, tmp_path, tiny, suffix):
    options = {"num_streams": 3, "stream_reduce": "gated", **tiny}
    model = trained_like(timm.create_model("test_vit_mhc", **options)).eval()
    path = save(model.state_dict(), tmp_path / f"model{suffix}")
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        loaded = warm_start("test_vit_mhc", {"file": path, "num_classes": 10}, **options)
        assert torch.equal(loaded(x), model(x))
        assert torch.equal(timm.create_model("test_vit_mhc", checkpoint_path=path, **options).eval()(x), model(x))


CONNECTED = [
    ("mhc", {}, "mhc", {"num_streams": 2}, "mhc with num_streams=4 .*, expected mhc with num_streams=2"),
    ("shc", {}, "shc", {"num_streams": 3}, "shc with num_streams=4, .* expected shc with num_streams=3"),
    ("dhc", {}, "mhc", {}, "got connections dhc with num_streams=4"),
    ("shc", {}, "dhc", {}, "got connections shc .*, expected dhc"),
    ("mhc", {}, "mhc", {"constraint": "permutation"}, "24 logits of 3 maps.* and 32 logits of 3 maps"),
    ("mhc", {}, "mhc", {"stream_reduce": "gated"}, "stream_reduce=mean or sum.*stream_reduce=gated"),
    ("mhc", {"stream_reduce": "gated"}, "mhc", {}, "stream_reduce=gated, expected mhc"),
]
# with another number of classes timm itself loads what fits and goes on
PLAIN = [
    ({}, {"reg_tokens": 2}, "timm cannot convert for this model .* create the model with the options"),
    ({"reg_tokens": 2}, {}, "lacks nothing and has unknown reg_token"),
    ({}, {"init_values": 0.1}, r"lacks blocks\.0\.ls1\.gamma, .* 3 more and has unknown nothing"),
    ({}, {"depth": 4, "num_classes": 5}, r"lacks blocks\.3\..* more and has unknown nothing"),
    ({}, {"depth": 2, "num_classes": 5}, r"lacks nothing and has unknown blocks\.2\."),
    ({}, {"global_pool": "avg", "num_classes": 5}, r"lacks fc_norm\.bias.*pretrained_strict"),
    (
        {},
        {"mlp_ratio": 2, "num_classes": 5},
        r"got blocks\.0\.mlp\.fc1\.weight of shape \(192, 64\), expected \(128",
    ),
]
REFUSED = [(f"test_vit_{source}", saved, f"test_vit_{target}", *rest) for source, saved, target, *rest in CONNECTED]
REFUSED += [("test_vit", saved, "test_vit_mhc", options, message) for saved, options, message in PLAIN]


@pytest.mark.parametrize(("source", "saved", "target", "options", "message"), REFUSED)
def test_files_that_do_not_fit_are_refused(source, saved, target, options, message, tmp_path, tiny):
    model = timm.create_model(source, **{**tiny, **saved})
    path = save(model.state_dict(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        warm_start(target, {"file": path, "num_classes": 10}, **{**tiny, **options})


def test_pretrained_strict_off_loads_what_fits(trained_like, tmp_path, tiny):
    plain = trained_like(timm.create_model("test_vit", **tiny))
    path = save(plain.state_dict(), tmp_path / "model.pth")
    overlay = {"file": path, "num_classes": 10}
    hyper = warm_start("test_vit_mhc", overlay, pretrained_strict=False, **{**tiny, "global_pool": "avg"})
    assert torch.equal(hyper.blocks[1].attn.qkv.weight, plain.blocks[1].attn.qkv.weight)
    assert isinstance(hyper.norm, nn.Identity)


def test_state_dicts_that_do_not_fit_are_refused_before_anything_is_loaded(tiny):
    model, plain = timm.create_model("test_vit_mhc", **tiny), timm.create_model("test_vit", **tiny)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"got one without connections.*mhc_vision\.hyperconnect"):
        model.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="got connections shc with num_streams=4"):
        model.load_state_dict(timm.create_model("test_vit_shc", **tiny).state_dict())
    other = timm.create_model("test_vit_mhc", num_streams=2, **tiny).state_dict()
    for strict in (True, False):
        with pytest.raises(ValueError, match="mhc with num_streams=2"):
            model.load_state_dict(other, strict=strict)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_other_misfits_are_left_to_pytorchs_message(tiny):
    model = timm.create_model("test_vit_mhc", **tiny)
    prefixed = {f"module.{name}": value for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*Unexpected key"):
        model.load_state_dict(prefixed)
    narrow = timm.create_model("test_vit_mhc", **{**tiny, "embed_dim": 32}).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for patch_embed\.proj\.weight"):
        model.load_state_dict(narrow)
    shallow = timm.create_model("test_vit_mhc", **{**tiny, "depth": 2}).state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.2\."):
        model.load_state_dict(shallow)


def test_files_that_are_no_jax_weights_are_named_by_timm(tmp_path, tiny):
    path = save(timm.create_model("test_vit", **tiny).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"expected an original JAX/Flax NumPy \.npz checkpoint"):
        warm_start("test_vit_mhc", {"file": path, "custom_load": True}, **tiny)


def test_plain_weights_file_by_checkpoint_path_says_what_to_do(tmp_path, tiny):
    path = save(timm.create_model("test_vit", **tiny).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(ValueError, match="to start from plain weights, use"):
        timm.create_model("test_vit_mhc", checkpoint_path=path, **tiny)


def test_use_naflex_is_refused():
    for name in ("test_vit_mhc", "vit_small_patch16_dinov3_mhc"):
        with pytest.raises(ValueError, match="use_naflex: got True"):
            timm.create_model(name, use_naflex=True)
