"""What timm's users do with a ViT besides calling it, for each connection and for both of timm's families."""

import copy
import io
import json
import pickle
from typing import Any

import pytest
import timm
import torch
from families import EVA, VIT, Family
from timm.layers import set_exportable
from timm.models import create_feature_extractor, get_graph_node_names, save_for_hf
from timm.models.vision_transformer import ParallelThingsBlock, ResPostBlock
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import mhc_vision
from mhc_vision.layers import CONNECTIONS, connection_parameters, muon_fallback_list

# fp32 rounding of outputs of order one, added up in another order
ROUNDING = {"rtol": 0, "atol": 1e-5}
DYNAMIC_BATCH = ({0: torch.export.Dim("batch", min=1, max=64)},)


# every kind of block, for graphs of one image size
VARIANTS = {
    "ViT": (VIT, {}),
    "ViT-ParallelThingsBlock": (VIT, {"block_fn": ParallelThingsBlock}),
    "ViT-ResPostBlock": (VIT, {"block_fn": ResPostBlock, "init_values": 0.5}),
    "Eva": (EVA, {}),
    "Eva-post-norm": (EVA, {"use_post_norm": True, "swiglu_mlp": True}),
}
# graphs take seconds: other blocks than the families' own have the largest connection
PAIRS = [
    *((family, connection) for family in ("ViT", "Eva") for connection in CONNECTIONS),
    *((name, "mhc") for name in VARIANTS if name not in ("ViT", "Eva")),
]
# every iteration is a part of a graph
FEW_ITERATIONS = {"mhc": {"sinkhorn_iters": 3}}


@pytest.fixture(params=[VIT, EVA], ids=["ViT", "Eva"])
def family(request) -> Family:
    return request.param


@pytest.fixture(params=CONNECTIONS)
def connection(request) -> str:
    return request.param


def images(batch_size: int = 2, height: int = 16, width: int = 16, channels: int = 3) -> Tensor:
    return torch.randn(batch_size, channels, height, width)


def part_of_block(name: str) -> str:
    """`attn` of base_model.model.blocks.0.attn.qkv.weight."""
    return name.partition("blocks.")[2].split(".")[1]


def variant_of(name: str, connection: str, **options: Any) -> nn.Module:
    family, of_blocks = VARIANTS[name]
    options = {**FEW_ITERATIONS.get(connection, {}), **options}
    return family.connected(connection, dynamic_img_size=False, **of_blocks, **options)


# inputs and heads


@pytest.mark.parametrize("size", [{"img_size": (24, 32)}, {"img_size": (16, 24), "patch_size": (8, 8)}], ids=str)
def test_input_size_can_be_set(family, connection, size, trained_like):
    plain = trained_like(family.plain()).eval()
    hyper = mhc_vision.hyperconnect(plain, connection)
    for model in (plain, hyper):
        model.set_input_size(**size)
    x = images(2, *size["img_size"])
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), **ROUNDING)


def test_images_of_any_size(family, connection, trained_like):
    plain = trained_like(family.plain(dynamic_img_size=True)).eval()
    hyper = mhc_vision.hyperconnect(plain, connection)
    for x in (images(2, 24, 20), images(1, 8, 32)):
        with torch.no_grad():
            torch.testing.assert_close(hyper(x), plain(x), **ROUNDING)


def test_one_input_channel(family, connection, trained_like):
    plain = trained_like(family.plain(in_chans=1)).eval()
    hyper = family.connected(connection, in_chans=1).eval()
    assert not hyper.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    x = images(channels=1)
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), **ROUNDING)


def test_new_classifier_keeps_the_rest(family, connection, trained_like):
    model, x = trained_like(family.connected(connection, stream_reduce="gated")).eval(), images()
    kept = {name: parameter for name, parameter in model.named_parameters() if not name.startswith("head.")}
    with torch.no_grad():
        features = model.forward_features(x)
        model.reset_classifier(7)
        assert model(x).shape == (2, 7)
        assert torch.equal(model.forward_features(x), features)
        model.reset_classifier(0, "")
        assert torch.equal(model(x), model.fc_norm(features))
    remaining = dict(model.named_parameters())
    assert remaining.keys() == kept.keys()
    assert all(remaining[name] is parameter for name, parameter in kept.items())


@pytest.mark.parametrize(
    "options",
    [{"patch_drop_rate": 0.5}, {"drop_path_rate": 0.5}, {"pos_drop_rate": 0.2, "proj_drop_rate": 0.2}],
    ids=str,
)
def test_training_drops_what_the_plain_model_drops(family, connection, options, trained_like):
    # nothing in a connection draws random numbers, so the same seed drops the same patches, units and branches
    plain = trained_like(family.plain(**options)).train()
    hyper, x = mhc_vision.hyperconnect(plain, connection), images(4)
    outputs = []
    for model in (hyper, plain):
        torch.manual_seed(1)
        outputs.append(model(x))
    torch.testing.assert_close(*outputs, **ROUNDING)
    assert not torch.allclose(outputs[0], hyper.eval()(x), atol=1e-3)


def test_register_tokens_come_back_with_the_intermediates(family, connection, trained_like):
    plain = trained_like(family.plain(**({"reg_tokens": 4} if family is VIT else {}))).eval()
    hyper, x = mhc_vision.hyperconnect(plain, connection), images()
    arguments = {"return_prefix_tokens": True, "output_fmt": "NLC", "intermediates_only": True}
    with torch.no_grad():
        taps, expected = (model.forward_intermediates(x, **arguments) for model in (hyper, plain))
    assert [tuple(prefix.shape) for _, prefix in taps] == [(2, 5, 64)] * 2
    torch.testing.assert_close(taps, expected, **ROUNDING)


def test_detectors_take_their_maps(family, connection):
    options = {"depth": 1, "dynamic_img_size": True, "features_only": True, "out_indices": [-1]}
    body = family.connected(connection, **options)
    assert (body.feature_info.channels(), body.feature_info.reduction()) == ([64], [4])

    class Backbone(nn.Module):
        out_channels = 64

        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)[0]

    anchors, pooling = AnchorGenerator(((8, 16),), ((1.0,),)), MultiScaleRoIAlign(["0"], 2, 2)
    parts = {"rpn_anchor_generator": anchors, "box_roi_pool": pooling, "size_divisible": 4}
    detector = FasterRCNN(Backbone(), 3, min_size=24, max_size=40, **parts)
    # of unequal sizes: padded to whole patches of the largest
    photos = [torch.rand(3, 24, 30), torch.rand(3, 26, 24)]
    targets = [{"boxes": torch.tensor([[2.0, 3.0, 15.0, 20.0]]), "labels": torch.tensor([1])}] * 2
    sum(detector(photos, targets).values()).backward()
    assert all(parameter.grad is not None for parameter in body.parameters())
    found = detector.eval()(photos)
    assert [one["boxes"].shape[1] for one in found] == [4, 4]


def test_causal_mask_is_the_causal_flag_is_the_plain_models(family, connection, trained_like):
    plain = trained_like(family.plain()).eval()
    hyper, x = mhc_vision.hyperconnect(plain, connection), images()
    num_tokens = 16 + plain.num_prefix_tokens
    mask = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
    with torch.no_grad():
        masked = hyper(x, attn_mask=mask)
        torch.testing.assert_close(masked, hyper(x, is_causal=True), **ROUNDING)
        torch.testing.assert_close(masked, plain(x, attn_mask=mask), **ROUNDING)
        assert not torch.allclose(masked, hyper(x), atol=1e-3)


# graphs


def test_eva_compiled_in_one_graph(connection, trained_like):
    model, x = trained_like(EVA.connected(connection, depth=1, **FEW_ITERATIONS.get(connection, {}))), images()
    model(x).square().sum().backward()
    expected = [model(x), *(parameter.grad.clone() for parameter in model.parameters())]
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x).square().sum().backward()
    actual = [compiled(x), *(parameter.grad for parameter in model.parameters())]
    # gradients are sums over a batch of tokens, up to order ten
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_eva_exports_with_a_dynamic_batch(connection, trained_like):
    model = trained_like(variant_of("Eva", connection)).eval()
    exported = torch.export.export(model, (images(2),), dynamic_shapes=DYNAMIC_BATCH).module()
    with torch.no_grad():
        for x in (images(2), images(5)):
            torch.testing.assert_close(exported(x), model(x), **ROUNDING)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize(("variant", "connection"), [pair for pair in PAIRS if pair[0] != "ViT"])
def test_scripts(variant, connection, trained_like):
    model, x = trained_like(variant_of(variant, connection)).eval(), images()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(model)(x), model(x), **ROUNDING)


@pytest.mark.parametrize(("variant", "connection"), PAIRS)
def test_fx_graph_computes_the_same_bits(variant, connection, trained_like):
    model, x = trained_like(variant_of(variant, connection, stream_reduce="gated")).eval(), images()
    _, nodes = get_graph_node_names(model)
    graph = create_feature_extractor(model, {"norm": "features", nodes[-1]: "logits"})
    with torch.no_grad():
        assert torch.equal(graph(x)["features"], model.forward_features(x))
        assert torch.equal(graph(x)["logits"], model(x))


# exports take seconds: Eva has one
@pytest.mark.parametrize(
    ("variant", "connection"), [*(("ViT", connection) for connection in CONNECTIONS), ("Eva", "mhc")], ids=str
)
def test_onnx_export(variant, connection, trained_like, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    # every block is a part of the graph
    model = trained_like(variant_of(variant, connection, depth=1)).eval()
    torch.onnx.export(
        model, (images(),), tmp_path / "model.onnx", dynamo=True, dynamic_shapes=DYNAMIC_BATCH, verbose=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for x in (images(2), images(5)):
        (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            # another runtime's softmax and GELU
            torch.testing.assert_close(torch.from_numpy(output), model(x), rtol=0, atol=1e-4)


# of timm's own branches on is_causal and attn_mask
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("variant", "connection"), PAIRS)
def test_legacy_onnx_export(variant, connection, trained_like):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    # timm's own Eva exports so only with attention written out
    with set_exportable(True):
        model = trained_like(variant_of(variant, connection, stream_reduce="gated", depth=1)).eval()
    file = io.BytesIO()
    torch.onnx.export(
        model, (images(),), file, dynamo=False, input_names=["images"], dynamic_axes={"images": {0: "batch"}}
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    for x in (images(2), images(5)):
        (output,) = session.run(None, {"images": x.numpy()})
        with torch.no_grad():
            # another runtime's softmax and GELU
            torch.testing.assert_close(torch.from_numpy(output), model(x), rtol=0, atol=1e-4)


# training


def test_moving_average_of_all_weights(family, connection, trained_like):
    model, x = family.connected(connection, stream_reduce="gated"), images()
    average = ModelEmaV3(model, decay=0.9)
    expected = copy.deepcopy(model.state_dict())
    for _ in range(2):
        trained_like(model)
        average.update(model)
        expected = {name: 0.9 * value + 0.1 * model.state_dict()[name] for name, value in expected.items()}
    torch.testing.assert_close(dict(average.module.state_dict()), expected, rtol=1e-6, atol=1e-6)
    by_hand = family.connected(connection, stream_reduce="gated").eval()
    by_hand.load_state_dict(expected)
    with torch.no_grad():
        torch.testing.assert_close(average(x), by_hand(x), **ROUNDING)


def test_layer_decay_puts_connections_in_the_layer_of_their_block(family, connection):
    model = mhc_vision.hyperconnect(family.plain(depth=3), connection, stream_reduce="gated")
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    group_of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    assert group_of.keys() == set(model.parameters())
    parameters, undecayed = dict(model.named_parameters()), model.no_weight_decay()
    scales = {}
    for name, parameter in connection_parameters(model):
        block = ".".join(name.split(".")[:2])
        scales[block] = group_of[parameters[f"{block}.mlp.fc1.weight"]]["lr_scale"]
        assert group_of[parameter]["lr_scale"] == scales[block], name
        assert group_of[parameter]["weight_decay"] == (0 if name in undecayed else 0.05), name
    # the final norm shares the layer of the last block, the head is the layer above
    assert scales == {"blocks.0": 0.75**3, "blocks.1": 0.75**2, "blocks.2": 0.75}


def test_muon_leaves_the_connections_to_adamw(family, connection):
    model = family.connected(connection, stream_reduce="gated")
    fallback = muon_fallback_list(model)
    optimizer = create_optimizer_v2(model, opt="muon", lr=1e-2, weight_decay=0.05, fallback_list=fallback)
    before = {name: parameter.clone() for name, parameter in connection_parameters(model)}
    nn.functional.cross_entropy(model(images(4)), torch.arange(4)).backward()
    optimizer.step()
    assert "momentum_buffer" in optimizer.state[model.blocks[0].mlp.fc1.weight]
    for name, parameter in connection_parameters(model):
        assert "exp_avg" in optimizer.state[parameter], name
        assert "momentum_buffer" not in optimizer.state[parameter], name
    assert any(not torch.equal(parameter, before[name]) for name, parameter in connection_parameters(model))


@pytest.mark.parametrize("also_trained", [[], ["connection1", "connection2"]], ids=["LoRA", "LoRA-and-connections"])
def test_lora_trains_merges_and_unloads(family, connection, also_trained, trained_like):
    peft = pytest.importorskip("peft")
    model, x = trained_like(family.connected(connection)).eval(), images(4)
    # of the blocks only: the patch embedding has a `proj` too
    targets = r"blocks\.\d+\.(attn|mlp)\.(qkv|proj|fc1|fc2)"
    config = peft.LoraConfig(r=4, target_modules=targets, modules_to_save=also_trained or None)
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    # frozen as the adapted one is: torch.matmul multiplies maps that do not learn in another order
    frozen = copy.deepcopy(model)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(any(f".{part}." in name for part in also_trained))
    assert torch.equal(adapted(x), frozen(x))
    torch.testing.assert_close(adapted(x), model(x), **ROUNDING)
    trainable = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    # two matrices for each of four layers of two blocks
    assert sum(".lora_" in name for name in trainable) == 2 * 4 * 2
    assert {part_of_block(name) for name in trainable if ".lora_" not in name} == set(also_trained)

    before = {name: parameter.clone() for name, parameter in adapted.named_parameters()}
    optimizer = torch.optim.SGD(trainable.values(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(adapted(x), torch.arange(4)).backward()
        optimizer.step()
    changed = {name for name, parameter in adapted.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed <= trainable.keys()
    assert {part_of_block(name) for name in changed} == {"attn", "mlp", *also_trained}
    with torch.no_grad():
        output = adapted(x)
        assert not torch.allclose(output, model(x), atol=1e-4)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(x), output, **ROUNDING)
    assert merged.state_dict().keys() == model.state_dict().keys()


def test_dynamic_quantisation_of_linear_layers(family, connection, trained_like):
    # timm's Eva with a bias for q and v reads the weights of that layer itself, which quantisation takes away
    options = {"qkv_bias": False} if family is EVA else {}
    model, x = trained_like(family.connected(connection, **options)).eval(), images(8)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    with torch.no_grad():
        output, expected = quantised(x), model(x)
    # int8 steps are 1/127 of the largest weight or activation of a layer
    assert (output - expected).norm() < 0.05 * expected.norm()
    assert not torch.equal(output, expected)


def test_bf16_weights_train(family, connection, trained_like):
    model = trained_like(family.connected(connection, stream_reduce="gated")).bfloat16()
    output = model(images().bfloat16())
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()
    output.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.bfloat16, name
        assert parameter.grad.isfinite().all(), name


def test_eva_gradient_checkpointing_changes_nothing(connection, trained_like):
    model, x = trained_like(EVA.connected(connection)), images()
    model(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing(True)
    model(x).square().sum().backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))


# copies and files


def test_hyperconnected_models_copy_and_pickle(family, connection, trained_like):
    model, x = mhc_vision.hyperconnect(family.plain(), connection, stream_reduce="gated"), images()
    model = trained_like(model).eval()
    with torch.no_grad():
        expected = model(x)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copied(x), expected)
            trained_like(copied)
            assert not torch.equal(copied(x), expected)
        # what was trained was the copy
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pth"])
def test_saved_for_the_hub_and_loaded_with_changed_options(family, connection, safe, trained_like, tmp_path):
    model = family.connected(connection, num_streams=2, stream_reduce="gated")
    model.reset_classifier(7)
    model.set_input_size((24, 32))
    model, x = trained_like(model).eval(), images(2, 24, 32)
    save_for_hf(model, tmp_path, safe_serialization=safe)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert (loaded.num_streams, loaded.num_classes) == (2, 7)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pth"])
def test_hyperconnected_model_saved_for_the_hub(family, connection, safe, trained_like, tmp_path):
    model = mhc_vision.hyperconnect(family.plain(), connection, num_streams=3, stream_reduce="gated")
    model, x = trained_like(model).eval(), images()
    save_for_hf(model, tmp_path, safe_serialization=safe)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(loaded) is type(model)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_collapsed_model_saved_for_the_hub(family, connection, trained_like, tmp_path):
    plain, x = trained_like(family.plain()).eval(), images()
    collapsed = mhc_vision.collapse(mhc_vision.hyperconnect(plain, connection, num_streams=3))
    save_for_hf(collapsed, tmp_path, safe_serialization=True)
    # a plain model's file: nothing of this package is needed to load it
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == family.name
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(loaded) is type(plain)
    with torch.no_grad():
        assert torch.equal(loaded(x), plain(x))
