import copy

import pytest
import timm
import torch
from torch import Tensor, nn

import mhc_vision
from mhc_vision.models.create import create_classifier
from mhc_vision.models.segmenter import DECODERS, Segmenter

pytest.importorskip("segmentation_models_pytorch")

PLAIN = ("test_vit", {"img_size": 32, "patch_size": 8, "depth": 4, "num_classes": 3})
DINOV3 = ("vit_small_patch16_dinov3", {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3})
PARALLEL_FREE = (
    "vit_tiny_patch16_224",
    {"img_size": 64, "depth": 5, "embed_dim": 24, "class_token": False, "global_pool": "avg"},
)


def vit(named: tuple[str, dict[str, object]] = PLAIN, connection: str | None = None) -> nn.Module:
    torch.manual_seed(3)
    model = timm.create_model(named[0], **named[1])
    return model if connection is None else mhc_vision.hyperconnect(model, connection, num_streams=4)


def create_design(name: str) -> nn.Module:
    sizes = {"in_chans": 3, "img_size": 32, "num_classes": 3, "num_streams": 2}
    options = {"patch_size": 8, "depth": 4}
    return create_classifier(name="test_vit", connection=name, pretrained=False, model_args=options, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("connection", [None, "shc", "mhc"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("named", [PLAIN, DINOV3, PARALLEL_FREE], ids=lambda named: named[0])
def test_each_pixel_gets_logits_and_each_parameter_a_gradient(
    named: tuple[str, dict[str, object]], decoder: str, connection: str | None
) -> None:
    model = Segmenter(vit(named, connection), 5, decoder, 8)
    side = named[1]["img_size"]
    logits = model(torch.randn(2, 3, side, side))
    assert logits.shape == (2, 5, side, side)
    logits.square().sum().backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []


@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_plain_and_connected_models_start_as_one_function(decoder: str, connection: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    # whatever random numbers were drawn before, the decoder comes from the seed
    torch.manual_seed(7)
    plain = vit()
    torch.manual_seed(7)
    connected = vit(connection=connection)
    torch.manual_seed(5)
    first = Segmenter(plain, 4, decoder, 8).eval()
    torch.manual_seed(5)
    torch.randn(17)
    second = Segmenter(connected, 4, decoder, 8).eval()
    torch.testing.assert_close(second(images), first(images), rtol=0, atol=1e-5)
    assert first(images).abs().max() > 0


@pytest.mark.parametrize("design", ["post_norm", "parallel"])
def test_designs_of_one_stream_have_features(design: str) -> None:
    model = Segmenter(create_design(design), 4, "linear").eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 4, 32, 32)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_window_that_fits_is_the_image(decoder: str) -> None:
    model = Segmenter(vit(), 4, decoder, 8).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.predict(images), model(images))


def test_windows_cover_an_image_and_their_logits_are_averaged() -> None:
    model = Segmenter(vit(), 4, "linear", window_stride=20).eval()
    images = torch.randn(2, 3, 70, 41)
    total, count = torch.zeros(2, 4, 70, 41), torch.zeros(70, 41)
    for top in (0, 20, 38):
        for left in (0, 9):
            rows, columns = slice(top, top + 32), slice(left, left + 32)
            total[..., rows, columns] += model(images[..., rows, columns])
            count[rows, columns] += 1
    assert count.min() > 0
    torch.testing.assert_close(model.predict(images), total / count, rtol=1e-5, atol=1e-5)


def test_a_small_image_is_filled_up() -> None:
    model = Segmenter(vit(), 4, "linear").eval()
    images = torch.randn(1, 3, 20, 33)
    filled = torch.zeros(1, 3, 32, 33)
    filled[..., :20, :] = images
    assert torch.equal(model.predict(images), model.predict(filled)[..., :20, :])
    assert model.predict(images).shape == (1, 4, 20, 33)


def test_a_constant_answer_stays_constant_whatever_the_windows() -> None:
    class Constant(Segmenter):
        def forward(self, images: Tensor) -> Tensor:
            return torch.arange(4.0).view(1, 4, 1, 1).expand(len(images), 4, *images.shape[-2:])

    model = Constant(vit(), 4, "linear", window_stride=1)
    logits = model.predict(torch.randn(1, 3, 35, 36))
    torch.testing.assert_close(logits, torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 35, 36))


def test_layers_are_those_of_the_vit_below_the_decoder() -> None:
    from mhc_vision.training.param_groups import param_groups

    model = Segmenter(vit(connection="mhc"), 4, "dpt", 8)
    groups = param_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decoder = {rates[id(parameter)] for parameter in model.decoder.parameters()}
    blocks = [rates[id(block.attn.qkv.weight)] for block in model.encoder.vit.blocks]  # type: ignore[union-attr]
    assert decoder == {1.0}
    assert blocks == sorted(blocks)
    assert blocks[-1] < 1
    assert rates[id(model.encoder.vit.patch_embed.proj.weight)] < blocks[0]  # type: ignore[union-attr]
    undecayed = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    assert id(model.encoder.vit.pos_embed) in undecayed


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (vit(), {"decoder": "unet"}, "decoder: got 'unet'"),
        (vit(), {"decoder_channels": 0}, "decoder_channels: got 0"),
        (vit(), {"window_stride": 33}, "window_stride: got 33"),
        (timm.create_model("test_vit", depth=2), {}, "got a model of 2 blocks"),
        (timm.create_model("test_vit", depth=4, img_size=40, patch_size=8), {}, "got 5 x 5 patches"),
        (timm.create_model("test_resnet"), {}, "got a ResNet, expected a ViT"),
        (create_design("alt_up"), {}, "connection: "),
        (timm.create_model("hiera_tiny_224"), {}, "got a Hiera, expected a ViT"),
        (timm.create_model("xcit_nano_12_p16_224"), {}, "got a Xcit, expected a ViT"),
    ],
)
def test_bad_options_are_refused(model: nn.Module, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segmenter(copy.deepcopy(model), 4, **options)  # type: ignore[arg-type]
