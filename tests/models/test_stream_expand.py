"""Models whose streams start apart, `stream_expand='scaled'`, and where copies are asked for."""

import copy
import json

import pytest
import timm
import torch
from families import EVA, VIT
from timm.models import save_for_hf
from torch import Tensor, nn

import mhc_vision
from mhc_vision.finetuning.start import start_from
from mhc_vision.inference.load_model import load_model
from mhc_vision.layers import ScaledExpansion, connection_parameters, muon_fallback_list
from mhc_vision.models.instruments.costs import count_parameters
from mhc_vision.training.param_groups import param_groups

SCALE = "blocks.0.expansion.scale"
# fp32 rounding of outputs of order one, added up in another order
ROUNDING = {"rtol": 0, "atol": 1e-5}


def images(batch_size: int = 2) -> Tensor:
    return torch.randn(batch_size, 3, 16, 16)


def scaled(connection: str = "mhc", family=VIT, **options) -> nn.Module:
    return family.connected(connection, stream_expand="scaled", **options)


@pytest.mark.parametrize("family", [VIT, EVA], ids=["ViT", "Eva"])
@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
def test_streams_differ_before_the_first_branch_and_the_scales_learn(family, connection):
    model, seen = scaled(connection, family), []
    model.blocks[0].connection1.register_observer(lambda streams, tokens, maps: seen.append(streams))
    model(images()).square().sum().backward()
    tokens = seen[0][..., 0, :] / model.blocks[0].expansion.scale[0]
    torch.testing.assert_close(seen[0], tokens.unsqueeze(-2) * model.blocks[0].expansion.scale, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(seen[0][..., 0, :], seen[0][..., 1, :], atol=1e-2)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert (model.blocks[0].expansion.scale.grad != 0).any(-1).all()


@pytest.mark.parametrize(
    "options", [{}, {"constraint": "identity"}, {"constraint": "identity", "stream_reduce": "gated"}]
)
def test_no_path_takes_the_streams_for_equal(options, trained_like):
    model, x = trained_like(scaled(**options)).eval(), images()
    tokens = model._pos_embed(model.patch_embed(x))
    expected = tokens
    for block in model.blocks:
        expected = block(expected)
    torch.testing.assert_close(model.blocks(tokens), expected, **ROUNDING)


def test_seed_decides_the_scales_and_leaves_the_backbone_as_it_is_with_copies():
    models = []
    for stream_expand in ("scaled", "scaled", "copy"):
        torch.manual_seed(3)
        models.append(VIT.connected("mhc", stream_expand=stream_expand).state_dict())
    first, second, copies = models
    assert torch.equal(first[SCALE], second[SCALE])
    assert first.keys() - copies.keys() == {SCALE}
    assert all(torch.equal(first[name], value) for name, value in copies.items())


def test_meta_start_then_init_weights():
    with torch.device("meta"):
        model = scaled()
    model.to_empty(device="cpu")
    scales = []
    for _ in range(2):
        torch.manual_seed(0)
        model.init_weights()
        scales.append(model.blocks[0].expansion.scale.detach().clone())
    assert torch.equal(*scales)
    assert scales[0].mean().item() == pytest.approx(0.6, abs=0.1)
    assert model(images()).isfinite().all()


def test_scales_are_counted_and_learn_with_the_backbone_without_weight_decay():
    model = scaled()
    assert SCALE in dict(connection_parameters(model))
    assert SCALE in muon_fallback_list(model)
    added = count_parameters(model)["connections"] - count_parameters(VIT.connected("mhc"))["connections"]
    assert added == model.blocks[0].expansion.scale.numel()
    groups = param_groups(model, lr=1e-3, weight_decay=0.1, connection_lr_scale=10.0)
    (group,) = [group for group in groups if any(p is model.blocks[0].expansion.scale for p in group["params"])]
    assert (group["name"], group["lr"], group["weight_decay"]) == ("backbone_no_decay", 1e-3, 0.0)
    groups = param_groups(model, lr=1e-3, weight_decay=0.1, connection_lr_scale=10.0, layer_decay=0.5)
    (group,) = [group for group in groups if any(p is model.blocks[0].expansion.scale for p in group["params"])]
    assert any(p is model.blocks[0].norm1.weight for p in group["params"])


def test_plain_weights_are_refused(tmp_path, tiny):
    plain = timm.create_model("test_vit", **tiny)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    overlay = {"file": str(tmp_path / "plain.pth"), "num_classes": 10}
    with pytest.raises(ValueError, match="stream_expand: got 'scaled' with weights of a plain model, expected 'copy'"):
        timm.create_model(
            "test_vit_mhc", pretrained=True, pretrained_cfg_overlay=overlay, stream_expand="scaled", **tiny
        )
    with pytest.raises(ValueError, match="stream_expand: got 'scaled', expected 'copy', which keeps the function"):
        mhc_vision.hyperconnect(plain, stream_expand="scaled")
    with pytest.raises(ValueError, match="stream_expand: got 'scaled' with weights of a plain model"):
        scaled().load_pretrained(str(tmp_path / "weights.npz"))
    with pytest.raises(ValueError, match="stream_expand: got 'scaled', expected 'copy', which keeps the function"):
        start_from(
            "test_vit",
            num_classes=10,
            connection="mhc",
            weights_file=tmp_path / "plain.pth",
            model_args={"stream_expand": "scaled", **{k: v for k, v in tiny.items() if k in ("patch_size", "depth")}},
            img_size=16,
        )


def test_a_model_of_scaled_streams_does_not_collapse():
    with pytest.raises(ValueError, match="model: got stream_expand='scaled', expected 'copy'; scaled streams have no"):
        mhc_vision.collapse(scaled())


def test_weights_of_the_other_expansion_are_refused():
    with pytest.raises(ValueError, match=r"stream_expand=scaled, .* expected mhc .* stream_expand=copy"):
        VIT.connected("mhc").load_state_dict(scaled().state_dict())
    with pytest.raises(ValueError, match=r"stream_expand=copy, .* expected mhc .* stream_expand=scaled"):
        scaled().load_state_dict(VIT.connected("mhc").state_dict())
    with pytest.raises(ValueError, match="stream_expand: got 'scale', expected one of copy, scaled"):
        VIT.connected("mhc", stream_expand="scale")


def test_a_saved_model_loads_and_can_be_fine_tuned(trained_like, tmp_path):
    model, x = trained_like(scaled()).eval(), images()
    save_for_hf(model, str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["model_args"]["stream_expand"] == "scaled"
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
        assert torch.equal(load_model(str(tmp_path)).model(x), model(x))
    start = start_from(str(tmp_path), num_classes=3, img_size=16)
    assert torch.equal(start.model.blocks[0].expansion.scale, model.blocks[0].expansion.scale)
    assert start.settings["model_args"]["stream_expand"] == "scaled"


@pytest.mark.parametrize("removed", [0, slice(None, 2), slice(2, None)], ids=str)
def test_the_first_block_that_is_left_has_the_scales(removed, trained_like):
    model, x = trained_like(scaled(depth=3)).eval(), images()
    scale, blocks = model.blocks[0].expansion.scale, list(copy.copy(model.blocks))
    del blocks[removed]
    del model.blocks[removed]
    assert [name for name in model.state_dict() if "expansion" in name] == [SCALE]
    assert dict(model.named_parameters())[SCALE] is scale
    assert model(x).isfinite().all()


def test_first_blocks_share_the_scales_and_a_replaced_block_keeps_them(trained_like):
    model, tokens = trained_like(scaled(depth=3)).eval(), torch.randn(2, 17, 64)
    part = model.blocks[:2]
    assert part[0].expansion is model.blocks[0].expansion
    assert part(tokens).shape == tokens.shape
    model.blocks[0] = nn.Identity()
    assert [name for name in model.state_dict() if "expansion" in name] == [SCALE]
    assert isinstance(model.blocks[0].expansion, ScaledExpansion)
    assert model.blocks(tokens).shape == tokens.shape


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
def test_scripts_compiled_models_and_exports_compute_the_same(trained_like):
    model, x = trained_like(scaled(dynamic_img_size=False, depth=1)).eval(), images()
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for other in (torch.jit.script(model), compiled, exported.module()):
            torch.testing.assert_close(other(x), model(x), **ROUNDING)
