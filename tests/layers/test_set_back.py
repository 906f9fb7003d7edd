"""`maps_at_start`: the plain model with the same weights for a while, then every bit as it was."""

import pytest
import timm
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from mhc_vision.layers import CONNECTIONS, CONSTRAINTS, connection_parameters, maps_at_start

KINDS = [(connection, {}) for connection in CONNECTIONS]
KINDS += [("mhc", {"constraint": constraint, "stream_reduce": "gated"}) for constraint in CONSTRAINTS]
KINDS += [("dhc", {"learn_res": False}), ("mhc", {"learn_pre": False, "stream_reduce": "sum"})]
NAMES = [" ".join([connection, *map(str, options.values())]) for connection, options in KINDS]
SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 5}


def connected(connection: str, options: dict) -> nn.Module:
    return timm.create_model(f"vit_tiny_patch16_224_{connection}", **{**SIZE, **options}).eval()


def move(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("connection", "options"), KINDS, ids=NAMES)
@torch.no_grad()
def test_the_model_is_the_plain_one_for_a_while(connection, options):
    model, images = move(connected(connection, options)), torch.randn(2, 3, 16, 16)
    plain = timm.create_model("vit_tiny_patch16_224", **SIZE).eval()
    added = {name for name, _ in connection_parameters(model)}
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name not in added})
    before = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    expected = model(images)
    random_numbers = torch.get_rng_state()

    with maps_at_start(model):
        # invariant 1 of the design: fp32, 1e-5
        torch.testing.assert_close(model(images), plain(images), rtol=0, atol=1e-5)

    assert torch.equal(torch.get_rng_state(), random_numbers)
    assert not torch.allclose(expected, plain(images), atol=1e-3)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(value, before[name]), name
    assert torch.equal(model(images), expected)


def fail_at_the_start_of(model: nn.Module) -> None:
    with maps_at_start(model):
        assert model.blocks[0].connection1.bias.isfinite().all()
        raise RuntimeError("in the block")


def test_weights_that_are_not_finite_come_back_after_an_error():
    model = connected("mhc", {})
    with torch.no_grad():
        model.blocks[0].connection1.bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="in the block"):
        fail_at_the_start_of(model)
    assert model.blocks[0].connection1.bias.isnan().all()


def test_training_goes_on_as_if_nothing_had_been():
    losses = []
    for sets_back in (False, True):
        torch.manual_seed(0)
        model, images = move(connected("mhc", {})).train(), torch.randn(2, 3, 16, 16)
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            if sets_back:
                with maps_at_start(model), torch.inference_mode():
                    model(images)
            optimizer.step()
        losses.append(model(images).sum())
    assert torch.equal(*losses)


def test_a_compiled_model_is_set_back_without_being_compiled_again():
    model, images = move(connected("mhc", {"depth": 1})), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        with maps_at_start(model):
            expected = model(images)
        compilations = CompileCounter()
        model.compile(backend=compilations)
        moved = model(images)
        with maps_at_start(model):
            torch.testing.assert_close(model(images), expected)
        assert torch.equal(model(images), moved)
    assert compilations.frame_count == 1


def test_a_plain_model_stays_as_it_is():
    plain = timm.create_model("vit_tiny_patch16_224", **SIZE)
    with maps_at_start(plain):
        pass


class Scaled(nn.Module):
    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@torch.no_grad()
def test_scaled_streams_become_copies_of_their_mean():
    model, images = move(connected("mhc", {"stream_expand": "scaled"})), torch.randn(2, 3, 16, 16)
    plain = timm.create_model("vit_tiny_patch16_224", **SIZE).eval()
    added = {name for name, _ in connection_parameters(model)}
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name not in added})
    scale = model.blocks[0].expansion.scale
    before = scale.clone()
    plain.norm_pre = Scaled(before.mean(0))
    with maps_at_start(model):
        # fp32, as in the first test
        torch.testing.assert_close(model(images), plain(images), rtol=0, atol=1e-5)
    assert torch.equal(scale, before)
