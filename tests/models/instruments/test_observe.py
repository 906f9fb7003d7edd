import pytest
import timm
import torch
from torch import nn

import mhc_vision
from mhc_vision.layers import (
    initial_coefficients,
    named_connections,
    observe_connections,
    observe_reduction,
    record_coefficients,
)

OPTIONS = {"depth": 2, "num_classes": 3, "img_size": 32, "patch_size": 16}


def moved_model(connection: str) -> nn.Module:
    model = timm.create_model(f"test_vit_{connection}", num_streams=3, **OPTIONS).eval()
    with torch.no_grad():
        for module in named_connections(model).values():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
def test_records_the_maps_of_every_connection_and_changes_nothing(connection):
    model, images = moved_model(connection), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        with record_coefficients(model) as records:
            recorded = model(images)
        # the op that makes the maps and reads at once sums in another order
        torch.testing.assert_close(recorded, expected, rtol=0, atol=1e-5)
        assert torch.equal(model(images), expected)
    assert list(records) == [f"blocks.{block}.connection{which}" for block in range(2) for which in (1, 2)]
    leading = () if connection == "shc" else (2, 5)
    for maps in records.values():
        assert [tuple(entry.shape) for entry in maps] == [(*leading, 3), (*leading, 3), (*leading, 3, 3)]
        assert not any(entry.requires_grad for entry in maps)


def test_the_first_maps_are_those_made_from_the_embedded_tokens():
    model, images = moved_model("mhc"), torch.randn(1, 3, 32, 32)
    with torch.no_grad(), record_coefficients(model) as records:
        model(images)
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        maps = model.blocks[0].connection1.coefficients(mhc_vision.layers.expand_streams(tokens, 3))
    for recorded, made in zip(records["blocks.0.connection1"], maps, strict=True):
        torch.testing.assert_close(recorded, made)


def test_an_error_in_the_model_ends_the_recording():
    model = moved_model("mhc")
    with pytest.raises(RuntimeError), record_coefficients(model):
        model(torch.randn(1, 5, 32, 32))
    assert not any(connection.is_observed() for connection in named_connections(model).values())


@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
def test_initial_maps_whatever_the_connection_has_become(connection):
    fresh = timm.create_model(f"test_vit_{connection}", num_streams=3, **OPTIONS)
    with torch.no_grad(), record_coefficients(fresh) as records:
        fresh(torch.randn(1, 3, 32, 32))
    for name, moved in named_connections(moved_model(connection)).items():
        for start, recorded in zip(initial_coefficients(moved), records[name], strict=True):
            torch.testing.assert_close(start.expand_as(recorded), recorded)


def test_a_plain_model_has_nothing_to_record():
    model = timm.create_model("test_vit", **OPTIONS)
    with record_coefficients(model) as records:
        model(torch.randn(1, 3, 32, 32))
    assert records == {}


@pytest.mark.parametrize("stream_reduce", ["mean", "sum", "gated"])
def test_observers_see_what_branches_read_and_what_the_model_reads_out(stream_reduce):
    model = timm.create_model("test_vit_mhc", num_streams=3, stream_reduce=stream_reduce, **OPTIONS).eval()
    seen, read_out = [], []
    final = model.norm.register_forward_pre_hook(lambda module, args: read_out.append(args[0]))
    with (
        torch.no_grad(),
        observe_connections(model, lambda name, streams, tokens, maps: seen.append((name, streams, tokens, maps))),
        observe_reduction(model, lambda streams, weights: read_out.append((weights.unsqueeze(-1) * streams).sum(-2))),
    ):
        model(torch.randn(2, 3, 32, 32))
    final.remove()
    assert [name for name, *_ in seen] == list(named_connections(model))
    for _, streams, tokens, maps in seen:
        assert streams.shape == (2, 5, 3, 64)
        torch.testing.assert_close(tokens, (maps.pre.unsqueeze(-1) * streams).sum(-2))
    torch.testing.assert_close(read_out[0], read_out[1])
    seen.clear()
    model(torch.randn(2, 3, 32, 32))
    assert not seen
    assert not model.blocks[-1].reduction._forward_pre_hooks
