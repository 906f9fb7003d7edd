import copy
import pickle

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from torch import nn

import mhc_vision
from mhc_vision.layers import CONNECTIONS, CONSTRAINTS, HyperConnection, connection_parameters
from mhc_vision.models.vision_transformer_mhc import checkpoint_filter_fn

FULL_SIZES = ["small_patch16", "small_patch32", "base_patch16", "base_patch32", "large_patch16"]
# patch 4 on 16 x 16: 17 tokens
TINY = {"img_size": 16, "patch_size": 4, "depth": 3, "num_classes": 10}


def images(batch_size: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, 3, 16, 16)


def trained_like(model: nn.Module) -> nn.Module:
    """Weights, norms and biases away from their start, so that nothing is equal by accident."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_parameters_added_to_vit_base():
    """Per branch nC(n² + 2n) + n² + 2n + 3; 24 branches of ViT-B with C = 768, n = 4."""
    with torch.device("meta"):
        plain, hyper = timm.create_model("vit_base_patch16_224"), timm.create_model("vit_base_patch16_224_mhc")
    assert sum(p.numel() for p in hyper.parameters()) - sum(p.numel() for p in plain.parameters()) == 1_770_120


@pytest.mark.parametrize("num_streams", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_plain_weights_keep_their_function(connection, num_streams):
    plain = trained_like(timm.create_model("test_vit", **TINY)).eval()
    hyper = timm.create_model(f"test_vit_{connection}", num_streams=num_streams, **TINY).eval()
    hyper.load_state_dict(checkpoint_filter_fn(plain.state_dict(), hyper))
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_streams", [2, 4])
@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize(
    "base",
    [
        "vit_tiny_patch16_224",
        *(pytest.param(f"vit_{size}_224", marks=pytest.mark.slow) for size in FULL_SIZES),
    ],
)
def test_plain_weights_keep_their_function_at_full_size(base, connection, num_streams):
    plain = timm.create_model(base).eval()
    hyper = timm.create_model(f"{base}_{connection}", num_streams=num_streams).eval()
    assert not hyper.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"constraint": constraint} for constraint in CONSTRAINTS]
    + [{"stream_reduce": "gated"}, {"sinkhorn_iters": 3}, {"pre_init": 0.9, "res_init": -8.0}]
    + [{"global_pool": "avg", "class_token": False}, {"reg_tokens": 4}, {"init_values": 0.1}, {"pre_norm": True}],
    ids=str,
)
def test_options_keep_the_function_too(options):
    plain_options = {
        key: options[key]
        for key in options.keys() & {"global_pool", "class_token", "reg_tokens", "init_values", "pre_norm"}
    }
    plain = trained_like(timm.create_model("test_vit", **TINY, **plain_options)).eval()
    hyper = timm.create_model("test_vit_mhc", **TINY, **options).eval()
    hyper.load_state_dict(checkpoint_filter_fn(plain.state_dict(), hyper))
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)


def test_summed_streams_are_the_hc_papers_read_out():
    """The sum of n equal streams is n times the token; the final norm takes the factor out, up to its eps."""
    plain = trained_like(timm.create_model("test_vit", **TINY)).eval()
    hyper = timm.create_model("test_vit_dhc", stream_reduce="sum", **TINY).eval()
    hyper.load_state_dict(checkpoint_filter_fn(plain.state_dict(), hyper))
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("num_streams", [2, 4])
@pytest.mark.parametrize(("connection", "options"), [("shc", {}), ("dhc", {}), ("dhc", {"tanh": False})] + [
    ("mhc", {"constraint": constraint}) for constraint in CONSTRAINTS
], ids=str)  # fmt: skip
def test_connections_leave_their_start(connection, options, num_streams):
    """After 20 steps the streams differ and every connection parameter has had a gradient.

    Excepted are those that design gives none: `res` of the first connection (its streams are equal) and of the last one
    under a mean read-out (columns that sum to one), where `res` is doubly stochastic.
    """
    torch.manual_seed(0)
    # in fp64 what is zero by construction stands out from what is small
    model = timm.create_model(f"test_vit_{connection}", num_streams=num_streams, **options, **TINY).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    largest = dict.fromkeys(dict(connection_parameters(model)), 0.0)
    x, targets = images(8).double(), torch.arange(8)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), targets).backward()
        for name, parameter in connection_parameters(model):
            gradient = parameter.grad.abs()
            if "mhc" in connection and name.endswith(("weight", "bias")):
                # rows [pre | post | res]: each part must move, not just one of them
                parts = [part.max() for part in gradient.tensor_split([num_streams, 2 * num_streams]) if len(part)]
            else:
                parts = list(gradient) if name.endswith("scale") else [gradient.max()]
            if _has_no_res_gradient(name, options, len(model.blocks)) and len(parts) == 3:
                parts.pop()
            largest[name] = max(largest[name], min(parts).item())
        optimizer.step()
    assert not {name: value for name, value in largest.items() if value < 1e-13}
    streams = torch.randn(1)

    def keep(module, args, output):
        nonlocal streams
        streams = args[0]

    model.blocks[-1].reduction.register_forward_hook(keep)
    model(x)
    spread = (streams - streams.mean(-2, keepdim=True)).abs().max() / streams.abs().max()
    assert spread > 1e-5


def _has_no_res_gradient(name: str, options: dict, depth: int) -> bool:
    first, last = name.startswith("blocks.0.connection1"), name.startswith(f"blocks.{depth - 1}.connection2")
    doubly_stochastic = options.get("constraint") in ("sinkhorn", "permutation", "kronecker")
    return doubly_stochastic and (first or last)


@pytest.mark.parametrize("options", [{}, {"num_streams": 1}, {"stream_reduce": "gated"}], ids=str)
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_every_parameter_gets_a_gradient_in_every_step(connection, options):
    model = timm.create_model(f"test_vit_{connection}", **options, **TINY)
    model(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_intermediates_are_tokens_of_the_plain_model(connection):
    plain = trained_like(timm.create_model("test_vit", **TINY)).eval()
    hyper = timm.create_model(f"test_vit_{connection}", **TINY).eval()
    hyper.load_state_dict(checkpoint_filter_fn(plain.state_dict(), hyper))
    x = images()
    variants = [
        {},
        {"indices": 2, "norm": True},
        {"indices": [0], "stop_early": True, "output_fmt": "NLC", "return_prefix_tokens": True},
        {"intermediates_only": True, "is_causal": True},
    ]
    for arguments in variants:
        with torch.no_grad():
            torch.testing.assert_close(
                hyper.forward_intermediates(x, **arguments),
                plain.forward_intermediates(x, **arguments),
                rtol=0,
                atol=1e-5,
            )
    with torch.no_grad():
        ours, theirs = (m.forward_intermediates(x, output_dict=True, return_prefix_tokens=True) for m in (hyper, plain))
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="output_fmt: got 'NCL'"):
        hyper.forward_intermediates(x, output_fmt="NCL")


def test_pruned_model_reads_out_at_its_new_last_block():
    model = timm.create_model("test_vit_mhc", **TINY).eval()
    x = images()
    with torch.no_grad():
        expected = model.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
        model.prune_intermediate_layers([1])
        assert len(model.blocks) == 2
        torch.testing.assert_close(model.forward_intermediates(x, indices=[1], intermediates_only=True)[0], expected)


def test_blocks_map_tokens_to_tokens():
    model = timm.create_model("test_vit_mhc", **TINY).eval()
    tokens = torch.randn(2, 17, 64)
    assert model.blocks(tokens).shape == tokens.shape


def test_gradient_checkpointing_changes_nothing():
    model, x = timm.create_model("test_vit_mhc", **TINY), images()
    model(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing(True)
    model(x).square().sum().backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_autocast_close_to_fp32(connection):
    model, x = trained_like(timm.create_model(f"test_vit_{connection}", **TINY)).eval(), images()
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        low = model.bfloat16()(x.bfloat16())
    # bf16 has 8 bits of precision; logits here are of order one
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.1)
    torch.testing.assert_close(low.float(), expected, rtol=0, atol=0.2)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_compiled_in_one_graph(connection):
    model, x = timm.create_model(f"test_vit_{connection}", **{**TINY, "depth": 2}), images()
    model(x).square().sum().backward()
    expected = [model(x), *(parameter.grad.clone() for parameter in model.parameters())]
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x).square().sum().backward()
    actual = [compiled(x), *(parameter.grad for parameter in model.parameters())]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_scripted_traced_and_exported(connection):
    # every block and every iteration is a part of the graph
    options = {**TINY, "depth": 2, "dynamic_img_size": False, **({"sinkhorn_iters": 3} if connection == "mhc" else {})}
    model, x = trained_like(timm.create_model(f"test_vit_{connection}", **options)).eval(), images()
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.jit.script(model)(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.jit.trace(model, x)(x), expected, rtol=0, atol=1e-5)
        batch = torch.export.Dim("batch", min=1, max=64)
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
        torch.testing.assert_close(exported(images(5)).shape, torch.Size([5, 10]))
        torch.testing.assert_close(exported(x), expected, rtol=0, atol=1e-5)


def test_runs_on_the_meta_device():
    with torch.device("meta"):
        model = timm.create_model("vit_huge_patch14_224_mhc", num_classes=1000)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


def test_meta_start_then_init_weights():
    with torch.device("meta"):
        model = timm.create_model("test_vit_mhc", constraint="permutation", stream_reduce="gated", **TINY)
    model.to_empty(device="cpu").init_weights()
    fresh = timm.create_model("test_vit_mhc", constraint="permutation", stream_reduce="gated", **TINY)
    for (name, parameter), (_, expected) in zip(
        connection_parameters(model), connection_parameters(fresh), strict=True
    ):
        assert torch.equal(parameter, expected), name
    assert model(images()).isfinite().all()


def test_no_weight_decay_names_exist_and_cover_the_static_maps():
    for connection in CONNECTIONS:
        model = timm.create_model(f"test_vit_{connection}", stream_reduce="gated", **TINY)
        names = dict(model.named_parameters())
        exempt = model.no_weight_decay() - {"dist_token", "reg_token"}
        assert exempt <= names.keys()
        assert {"pos_embed", "cls_token"} <= exempt
        decaying = {name for name, _ in connection_parameters(model)} - exempt
        assert all(name.endswith(".weight") for name in decaying)


def test_scaled_output_initialisation():
    torch.manual_seed(0)
    model = timm.create_model("test_vit_shc", num_streams=4, **TINY)
    torch.manual_seed(0)
    scaled = timm.create_model("test_vit_shc", num_streams=4, scale_output_init=True, **TINY)
    torch.testing.assert_close(scaled.blocks[1].attn.proj.weight, model.blocks[1].attn.proj.weight / 2)
    torch.testing.assert_close(scaled.blocks[1].mlp.fc2.weight, model.blocks[1].mlp.fc2.weight / 2)
    assert torch.equal(scaled.blocks[1].mlp.fc1.weight, model.blocks[1].mlp.fc1.weight)


def test_copies_pickles_and_saves(tmp_path):
    model, x = trained_like(timm.create_model("test_vit_mhc", **TINY)).eval(), images()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    loaded = timm.create_model("test_vit_mhc", checkpoint_path=tmp_path / "model.pth", **TINY).eval()
    with torch.no_grad():
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
            assert torch.equal(copied(x), model(x))


def test_plain_weights_file_is_a_warm_start(tmp_path):
    plain = trained_like(timm.create_model("test_vit", **TINY)).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    overlay = {"file": str(tmp_path / "plain.pth"), "num_classes": 10}
    hyper = timm.create_model("test_vit_dhc", pretrained=True, pretrained_cfg_overlay=overlay, **TINY).eval()
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_features_only_gives_feature_maps(connection):
    model = timm.create_model(f"test_vit_{connection}", features_only=True, **{**TINY, "num_classes": 0})
    assert [tuple(feature.shape) for feature in model(images())] == [(2, 64, 4, 4)] * 3


def test_batch_size_may_change_after_compiling():
    model = timm.create_model("test_vit_mhc", **{**TINY, "depth": 1}).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for batch_size in (2, 3, 5):
            x = images(batch_size)
            torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-5)


def test_hyper_connected_checkpoint_loads_strictly():
    model = trained_like(timm.create_model("test_vit_mhc", **TINY))
    other = timm.create_model("test_vit_mhc", **TINY)
    other.load_state_dict(checkpoint_filter_fn(model.state_dict(), other))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    incomplete = {key: value for key, value in model.state_dict().items() if key != "blocks.0.connection1.weight"}
    with pytest.raises(ValueError, match="got connections incomplete"):
        other.load_state_dict(checkpoint_filter_fn(incomplete, other))
    incomplete = {key: value for key, value in model.state_dict().items() if key != "blocks.1.connection1.weight"}
    with pytest.raises(ValueError, match=r"lacks blocks\.1\.connection1\.weight"):
        other.load_state_dict(checkpoint_filter_fn(incomplete, other))
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.1\.connection1\.weight"):
        other.load_state_dict(incomplete)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_vit_mhc", {"connection": "hc"}, "connection: got 'hc', expected one of shc, dhc, mhc"),
        ("test_vit_mhc", {"constraint": "simplex"}, "constraint: got 'simplex'"),
        ("test_vit_shc", {"num_streams": 0}, "num_streams: got 0"),
        ("test_vit_dhc", {"num_streams": 9}, "num_streams: got 9"),
        ("test_vit_mhc", {"constraint": "kronecker", "num_streams": 6}, "num_streams: got 6, expected a power of two"),
        ("test_vit_mhc", {"constraint": "permutation", "num_streams": 6}, "num_streams: got 6, expected at most 5"),
        ("test_vit_shc", {"constraint": "sinkhorn"}, "connection 'shc' has no such option"),
        ("test_vit_mhc", {"stream_reduce": "median"}, "stream_reduce: got 'median'"),
        ("test_vit_mhc", {"use_naflex": True}, "use_naflex: got True"),
        ("test_vit_mhc", {"block_fn": ParallelScalingBlock}, "blocks: got ParallelScalingBlock"),
        ("test_vit_mhc", {"depth": 0}, "depth: got 0"),
        ("test_vit_mhc", {"num_streams": "four"}, "num_streams: got 'four'"),
        ("test_vit_mhc", {"scale_output_init": "no"}, "scale_output_init: got 'no'"),
        ("test_vit_mhc", {"scale_output_init": True, "weight_init": "skip"}, "there is nothing to scale"),
        ("test_vit_mhc", {"features_only": True, "feature_cls": "hook"}, "feature_cls: got 'hook'"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, **options)


def test_package_exports():
    assert mhc_vision.HyperVisionTransformer is type(timm.create_model("test_vit_shc", **TINY))
    model = timm.create_model("test_vit_mhc", **TINY)
    assert sum(isinstance(module, HyperConnection) for module in model.modules()) == 2 * len(model.blocks)
