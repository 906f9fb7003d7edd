import copy

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mhc_vision import HyperEva, HyperVisionTransformer, collapse, hyperconnect
from mhc_vision.layers import CONNECTIONS, CONSTRAINTS, HyperConnection, connection_parameters

# one model of each kind of block, norm, position embedding, pooling and prefix that timm's ViT and Eva have
ARCHITECTURES = {
    "vit_tiny_patch16_224": {"img_size": 48},
    "vit_small_patch14_dinov2": {"img_size": 42},
    "vit_small_patch14_reg4_dinov2": {"img_size": 42},
    "vit_base_patch32_clip_quickgelu_224": {"img_size": 96},
    "vit_base_patch16_siglip_224": {"img_size": 48},
    "vit_so150m_patch16_reg4_gap_256": {"img_size": 48},
    "vit_dwee_patch16_reg1_gap_256": {"img_size": 48},
    "vit_base_patch16_rpn_224": {"img_size": 48},
    "vit_small_patch16_18x2_224": {"img_size": 48},
    "deit3_small_patch16_224": {"img_size": 48},
    "deit_tiny_distilled_patch16_224": {"img_size": 48},
    "beit3_base_patch16_224": {"img_size": 48},
    "aimv2_large_patch14_224": {"img_size": 42},
    "flexivit_small": {"img_size": 48},
    "eva02_tiny_patch14_224": {"img_size": 42},
    "eva02_base_patch16_clip_224": {"img_size": 48},
    "eva_giant_patch14_224": {"img_size": 42},
    "vit_small_patch16_dinov3": {"img_size": 48},
    "vit_small_plus_patch16_dinov3_qkvb": {"img_size": 48},
    "vit_small_patch16_rope_mixed_224": {"img_size": 48},
    "vit_pe_core_tiny_patch16_384": {"img_size": 48},
}


@pytest.fixture
def plain(tiny, trained_like) -> VisionTransformer:
    return trained_like(timm.create_model("test_vit", **tiny)).eval()


def images(model: nn.Module, size: int = 16) -> torch.Tensor:
    return torch.randn(2, 3, size, size).to(next(model.parameters()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_function_and_names_and_back(name, trained_like):
    # LayerScale of order one, as in trained models: at its start of 1e-5 the branches would hardly count
    model = trained_like(timm.create_model(name, depth=2, **ARCHITECTURES[name]), std=0.02).eval()
    for block in model.blocks:
        for scale in (getattr(block, key, None) for key in ("ls1", "ls2", "gamma_1", "gamma_2")):
            for parameter in [scale] if isinstance(scale, nn.Parameter) else getattr(scale, "parameters", list)():
                nn.init.uniform_(parameter, 0.5, 1.5)
    names = [key for key, _ in model.named_parameters()]
    x = images(model, ARCHITECTURES[name]["img_size"])
    with torch.no_grad():
        expected, taps = model(x), model.forward_intermediates(x)
        for connection in CONNECTIONS:
            hyper = hyperconnect(model, connection)
            added = dict(connection_parameters(hyper))
            assert [key for key, _ in hyper.named_parameters() if key not in added] == names
            # n equal streams are summed and averaged in fp32 where the plain model adds once
            torch.testing.assert_close(hyper(x), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(hyper.forward_intermediates(x), taps, rtol=0, atol=1e-5)

            back = collapse(hyper)
            assert [type(module) for module in back.modules()] == [type(module) for module in model.modules()]
            assert torch.equal(back(x), expected)


@pytest.mark.parametrize("num_streams", [1, 2, 3, 8])
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_any_number_of_streams(plain, connection, num_streams):
    x = images(plain)
    with torch.no_grad():
        hyper = hyperconnect(plain, connection, num_streams=num_streams)
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)
        assert torch.equal(collapse(hyper)(x), plain(x))


@pytest.mark.parametrize(
    "options",
    [{"constraint": constraint} for constraint in CONSTRAINTS]
    + [{"stream_reduce": "gated"}, {"pre_init": 0.4, "res_init": -1.0, "sinkhorn_iters": 3}],
    ids=str,
)
def test_options_of_the_connection(plain, options):
    x = images(plain)
    with torch.no_grad():
        hyper = hyperconnect(plain, "mhc", **options)
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)
        assert torch.equal(collapse(hyper)(x), plain(x))


def test_result_is_the_registered_model(plain, tiny):
    hyper = hyperconnect(plain, "dhc", num_streams=2)
    registered = timm.create_model("test_vit_dhc", num_streams=2, **tiny)
    assert type(hyper) is type(registered) is HyperVisionTransformer
    assert str(hyper) == str(registered)
    assert hyper.state_dict().keys() == registered.state_dict().keys()
    assert hyper.pretrained_cfg["architecture"] == "test_vit_dhc"
    eva = timm.create_model("vit_small_patch16_dinov3", depth=1, img_size=32)
    assert type(hyperconnect(eva)) is HyperEva


def test_the_given_model_stays_as_it_is(plain):
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    hyper = hyperconnect(plain)
    with torch.no_grad():
        for parameter in hyper.parameters():
            parameter.zero_()
    assert type(plain) is VisionTransformer
    assert plain.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    assert plain.pretrained_cfg["architecture"] == "test_vit"


def test_in_place_keeps_the_very_parameters(plain):
    parameters = dict(plain.named_parameters())
    hyper = hyperconnect(plain, "shc", inplace=True)
    assert hyper is plain
    assert all(dict(hyper.named_parameters())[key] is value for key, value in parameters.items())
    assert collapse(hyper, inplace=True) is plain
    assert type(plain) is VisionTransformer
    assert list(dict(plain.named_parameters())) == list(parameters)


def test_dtype_mode_and_frozen_weights_carry_over(tiny):
    model = timm.create_model("test_vit", **tiny).bfloat16().train().requires_grad_(False)
    hyper = hyperconnect(model, "mhc")
    assert all(module.training for module in hyper.modules())
    added = dict(connection_parameters(hyper))
    assert all(parameter.requires_grad == (name in added) for name, parameter in hyper.named_parameters())
    assert {parameter.dtype for parameter in added.values()} == {torch.float32}
    assert hyper(images(hyper)).dtype == torch.bfloat16
    assert not any(module.training for module in hyperconnect(model.eval()).modules())


def test_meta_model():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch14_reg4_dinov2")
        hyper = hyperconnect(model)
    assert all(parameter.is_meta for parameter in hyper.parameters())


def test_trained_backbone_collapses_and_trained_connections_do_not(plain):
    hyper = hyperconnect(plain)
    nn.init.normal_(hyper.head.weight)
    x = images(plain)
    with torch.no_grad():
        torch.testing.assert_close(collapse(hyper)(x), hyper(x), rtol=0, atol=1e-5)
        hyper.blocks[1].connection2.bias[3] += 1e-6
    before = copy.deepcopy(hyper.state_dict())
    with pytest.raises(ValueError, match=r"got blocks\.1\.connection2\.bias away from its initial value"):
        collapse(hyper, inplace=True)
    assert type(hyper) is HyperVisionTransformer
    assert all(torch.equal(value, before[key]) for key, value in hyper.state_dict().items())


def test_trained_read_out_does_not_collapse(plain):
    hyper = hyperconnect(plain, stream_reduce="gated")
    with torch.no_grad():
        hyper.blocks[-1].reduction.bias[0] += 0.5
    with pytest.raises(ValueError, match=r"blocks\.2\.reduction\.bias away from"):
        collapse(hyper)


def test_hyperconnected_model_trains(plain):
    model = hyperconnect(plain.train(), "mhc")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x, targets = images(model), torch.arange(2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: nn.Linear(2, 2), {}, "model: got Linear, expected one of timm's VisionTransformer"),
        (lambda: timm.create_model("resnet18"), {}, "model: got ResNet"),
        (lambda: timm.create_model("beit_base_patch16_224", depth=1), {}, "model: got Beit"),
        (lambda: timm.create_model("test_vit", features_only=True), {}, "model: got FeatureGetterNet"),
        (lambda: timm.create_model("test_vit", use_naflex=True), {}, "model: got NaFlexVit"),
        (lambda: timm.create_model("test_vit_mhc"), {}, "expected a plain model; collapse it first"),
        (lambda: timm.create_model("vit_pwee_patch16_reg1_gap_256", depth=1), {}, "blocks: got ParallelScalingBlock"),
        (lambda: timm.create_model("test_vit"), {"connection": "hc"}, "connection: got 'hc'"),
        (lambda: timm.create_model("test_vit"), {"num_streams": 9}, "num_streams: got 9"),
        (lambda: timm.create_model("test_vit"), {"sinkhorn": 3}, "options: got sinkhorn"),
        (lambda: timm.create_model("test_vit"), {"connection": "shc", "tanh": True}, "tanh: got True"),
        (lambda: timm.create_model("test_vit"), {"stream_reduce": "max"}, "stream_reduce: got 'max'"),
        (lambda: VisionTransformer(depth=1, embed_dim=64, num_heads=2, final_norm=False), {"stream_reduce": "sum"},
         "stream_reduce: got 'sum'"),
    ],
)  # fmt: skip
def test_what_cannot_be_connected_is_named(make, options, message):
    model = make()
    before = type(model), [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=message):
        hyperconnect(model, inplace=True, **options)
    assert (type(model), [name for name, _ in model.named_modules()]) == before


def test_options_of_the_layers_are_not_options_of_the_model(plain):
    for options in ({"eps": 1e-3}, {"layer_index": 3}, {"device": "cpu"}):
        with pytest.raises(ValueError, match=rf"options: got {next(iter(options))}, expected some of learn_pre"):
            hyperconnect(plain, inplace=True, **options)
    assert type(plain) is VisionTransformer


def test_blocks_that_would_not_run_their_connections(plain):
    block = plain.blocks[1]
    block.forward = block.forward
    with pytest.raises(ValueError, match="a forward of its own in block 1"):
        hyperconnect(plain)
    del block.forward
    plain.blocks[2] = block
    with pytest.raises(ValueError, match="got block 2 a second time"):
        hyperconnect(plain, inplace=True)
    assert type(plain) is VisionTransformer


def test_wrapped_blocks_do_not_collapse(plain):
    hyper = hyperconnect(plain)
    hyper.blocks[1] = torch.compile(hyper.blocks[1])
    with pytest.raises(ValueError, match="got OptimizedModule as block 1"):
        collapse(hyper, inplace=True)
    assert hyper.blocks[0].connection1 is not None


@pytest.mark.parametrize("options", [{"final_norm": False}, {"global_pool": "map", "fc_norm": True}], ids=str)
def test_sum_of_streams_needs_a_norm(tiny, options):
    model = timm.create_model("test_vit", **tiny, **options)
    with pytest.raises(ValueError, match="stream_reduce: got 'sum'"):
        hyperconnect(model, stream_reduce="sum")
    with pytest.raises(ValueError, match="stream_reduce: got 'sum'"):
        timm.create_model("test_vit_mhc", stream_reduce="sum", **tiny, **options)


def test_sum_does_not_collapse_without_its_norm(plain):
    hyper = hyperconnect(plain, stream_reduce="sum")
    hyper.prune_intermediate_layers([1], prune_norm=True)
    with pytest.raises(ValueError, match="stream_reduce: got 'sum'"):
        collapse(hyper)


def test_values_of_a_meta_model_are_unknown():
    with torch.device("meta"):
        hyper = timm.create_model("test_vit_mhc")
    with pytest.raises(ValueError, match="on the meta device, expected values"):
        collapse(hyper)


def test_only_hyper_connected_models_collapse(plain):
    with pytest.raises(ValueError, match="model: got VisionTransformer, expected a hyper-connected model"):
        collapse(plain)


def test_connections_of_a_pruned_model_count_on(plain):
    plain.prune_intermediate_layers([1])
    hyper = hyperconnect(plain)
    indices = [module.layer_index for module in hyper.modules() if isinstance(module, HyperConnection)]
    assert indices == [0, 1, 2, 3]
