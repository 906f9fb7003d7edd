import pytest
import timm
import torch
from torch import nn

import mhc_vision  # noqa: F401  registers the models
from mhc_vision.models.lora import LoraOptions, add_adapters, merge_adapters

pytest.importorskip("peft")


@pytest.fixture(params=["test_vit", "test_vit_shc", "test_vit_dhc", "test_vit_mhc"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    return timm.create_model(request.param, img_size=32, num_classes=5).eval()


def test_new_adapters_change_nothing_and_merged_ones_are_part_of_the_weights(model):
    images = torch.randn(2, 3, 32, 32)
    names = list(model.state_dict())
    before = model(images)
    add_adapters(model, LoraOptions(rank=4, targets=("attn.qkv", "mlp.fc1")))
    assert torch.equal(model(images), before)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name in model.state_dict() if ".lora_" in name}
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    adapted = model(images)
    assert (adapted - before).abs().max() > 1e-2
    merge_adapters(model)
    assert list(model.state_dict()) == names
    # the product of the adapters is rounded once in place of twice
    torch.testing.assert_close(model(images), adapted, rtol=1e-4, atol=1e-5)
    assert type(model.blocks[0].attn.qkv) is nn.Linear


def test_every_target_must_be_there(model):
    with pytest.raises(ValueError, match=r"lora_targets: got 'q_proj', which matches no .* attn.proj, attn.qkv"):
        add_adapters(model, LoraOptions(targets=("attn.qkv", "q_proj")))
    assert not any(".lora_" in name for name in model.state_dict())


def test_layers_that_are_not_called_are_refused():
    model = timm.create_model("beit_base_patch16_224", depth=1, embed_dim=32, num_heads=2, img_size=32)
    with pytest.raises(ValueError, match=r"got blocks.0.attn.qkv, whose weight .* reads without calling the layer"):
        add_adapters(model, LoraOptions())
    add_adapters(model, LoraOptions(targets=("attn.proj",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "lora_rank: got 0, expected a whole number from 1"),
        ({"alpha": 0.0}, "lora_alpha: got 0.0, expected a finite number above 0"),
        ({"dropout": 1.0}, "lora_dropout: got 1.0, expected a finite number at least 0 and below 1"),
        ({"targets": ()}, "lora_targets: got none"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LoraOptions(**options)
