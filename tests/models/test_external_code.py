"""Code that knows only timm's ViT: all blocks, and the first k of them, map (B, N, C) to (B, N, C)."""

import copy
import pickle
import re

import families
import pytest
import torch
from families import Family
from timm.utils import AttentionExtract
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import mhc_vision
from mhc_vision.layers import CONNECTIONS

# fp32 rounding of activations of order one to ten, added up in another order
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
DEPTH = 4
FIRST = [slice(None, 1), slice(None, 3), slice(0, 2), slice(None, -1), slice(None, 9)]
FIRST_IDS = ["[:1]", "[:3]", "[0:2]", "[:-1]", "[:9]"]


VIT, EVA = (family.having(depth=DEPTH, dynamic_img_size=False) for family in (families.VIT, families.EVA))


@pytest.fixture(params=[VIT, EVA], ids=["ViT", "Eva"])
def family(request) -> Family:
    return request.param


@pytest.fixture(params=CONNECTIONS)
def connection(request) -> str:
    return request.param


def images(batch_size: int = 2) -> Tensor:
    return torch.randn(batch_size, 3, 16, 16)


def run(blocks: nn.Module, tokens: Tensor) -> Tensor:
    """As external code runs any stack of blocks, callable or not."""
    for block in blocks:
        tokens = block(tokens)
    return tokens


# blocks


def test_features_by_hand(family, connection, trained_like):
    model, x = trained_like(family.connected(connection, stream_reduce="gated")).eval(), images()
    with torch.no_grad():
        tokens, rope = model.patch_embed(x), {}
        if family is EVA:
            tokens, rotation = model._pos_embed(tokens)
            rope = {"rope": rotation}
        else:
            tokens = model._pos_embed(tokens)
        tokens = model.norm_pre(tokens)
        for block in model.blocks:
            tokens = block(tokens, **rope)
        assert torch.equal(model.norm(tokens), model.forward_features(x))


def test_blocks_run_as_one_or_one_by_one(connection, trained_like):
    model, tokens = trained_like(VIT.connected(connection, stream_reduce="gated")).eval(), torch.randn(2, 17, 64)
    with torch.no_grad():
        assert torch.equal(model.blocks(tokens), run(model.blocks, tokens))


@pytest.mark.parametrize("index", range(DEPTH))
def test_norm_of_any_block_sees_tokens(family, connection, index, trained_like):
    plain = trained_like(family.plain()).eval()
    hyper, x = mhc_vision.hyperconnect(plain, connection), images()
    seen = []
    for model in (plain, hyper):
        model.blocks[index].norm1.register_forward_hook(lambda module, args, output: seen.append(output))
        with torch.no_grad():
            model(x)
    torch.testing.assert_close(seen[1], seen[0], **ROUNDING)


# the first blocks


@pytest.mark.parametrize("part", FIRST, ids=FIRST_IDS)
def test_slice_is_the_plain_models_slice(family, connection, part, trained_like):
    plain, tokens = trained_like(family.plain()).eval(), torch.randn(2, 17, 64)
    hyper = mhc_vision.hyperconnect(plain, connection, stream_reduce="gated")
    with torch.no_grad():
        expected = run(plain.blocks[part], tokens)
        torch.testing.assert_close(run(hyper.blocks[part], tokens), expected, **ROUNDING)
        if family is VIT:
            torch.testing.assert_close(hyper.blocks[part](tokens), expected, **ROUNDING)


@pytest.mark.parametrize(
    ("part", "written"),
    [
        (slice(1, None), "[1:]"),
        (slice(1, 3), "[1:3]"),
        (slice(-1, None), "[-1:]"),
        (slice(None, None, 2), "[::2]"),
        (slice(None, None, -1), "[::-1]"),
        ([0, 1], "[0, 1]"),
    ],
)
def test_other_blocks_are_refused_with_what_to_do(family, connection, part, written):
    blocks = family.connected(connection).blocks
    with pytest.raises(
        ValueError, match=re.escape(f"blocks: got the slice {written}, expected the first blocks, [:k]")
    ):
        blocks[part]


@pytest.mark.parametrize("stop", range(1, DEPTH + 1))
def test_slice_from_the_start_gives_the_intermediate(connection, stop, trained_like):
    model, x = trained_like(VIT.connected(connection, stream_reduce="gated")).eval(), images()
    arguments = {"indices": [stop - 1], "output_fmt": "NLC", "intermediates_only": True, "return_prefix_tokens": True}
    with torch.no_grad():
        ((patches, prefix),) = model.forward_intermediates(x, **arguments)
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        torch.testing.assert_close(model.blocks[:stop](tokens), torch.cat([prefix, patches], 1), **ROUNDING)


def test_full_slice_is_the_stack(family, connection, trained_like):
    model, tokens = trained_like(family.connected(connection, stream_reduce="gated")).eval(), torch.randn(2, 17, 64)
    everything = model.blocks[:]
    assert type(everything) is type(model.blocks)
    assert all(ours is theirs for ours, theirs in zip(everything, model.blocks, strict=True))
    with torch.no_grad():
        assert torch.equal(run(everything, tokens), run(model.blocks, tokens))


def test_first_blocks_of_first_blocks(family, connection, trained_like):
    model, tokens = trained_like(family.connected(connection, stream_reduce="gated")).eval(), torch.randn(2, 17, 64)
    with torch.no_grad():
        for nested, direct in [
            (model.blocks[:3][:2], model.blocks[:2]),
            (model.blocks[:3][:2][:1], model.blocks[:1]),
            (model.blocks[:3][:-1], model.blocks[:2]),
        ]:
            assert torch.equal(run(nested, tokens), run(direct, tokens))


def test_empty_slice_does_nothing(connection):
    model, tokens = VIT.connected(connection), torch.randn(2, 17, 64)
    assert torch.equal(model.blocks[:0](tokens), tokens)


def test_slicing_leaves_the_model_as_it_was(family, connection, trained_like):
    model, x = trained_like(family.connected(connection, stream_reduce="gated")).eval(), images()
    parameters, blocks = dict(model.named_parameters()), list(model.blocks)
    with torch.no_grad():
        before = model(x)
        for part in FIRST:
            run(model.blocks[part], torch.randn(2, 17, 64))
        assert torch.equal(model(x), before)
    assert all(block is same for block, same in zip(model.blocks, blocks, strict=True))
    after = dict(model.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameter for name, parameter in parameters.items())


def test_slice_shares_the_weights_of_the_model(family, connection, trained_like):
    model, tokens = trained_like(family.connected(connection, stream_reduce="gated")).eval(), torch.randn(2, 17, 64)
    part = model.blocks[:2]
    with torch.no_grad():
        before = run(part, tokens)
        trained_like(model)
        assert not torch.allclose(run(part, tokens), before, atol=1e-3)
        assert torch.equal(run(part, tokens), run(model.blocks[:2], tokens))


@pytest.mark.parametrize("stream_reduce", ["mean", "gated"])
def test_freezing_a_slice_freezes_its_blocks_and_no_more(family, connection, stream_reduce):
    model = family.connected(connection, stream_reduce=stream_reduce)
    model.blocks[:2].requires_grad_(False)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(("blocks.0.", "blocks.1."))}
    # the learned read-out belongs to the last block, and to stacks that hold it
    assert not any("reduction" in name for name, _ in model.blocks[:2].named_parameters())
    read_out = [name for name, _ in model.blocks[:].named_parameters() if "reduction" in name]
    assert len(read_out) == (3 if stream_reduce == "gated" else 0)

    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    model(images()).square().sum().backward()
    optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed
    assert not changed & frozen


def test_hooks_on_children_of_a_slice_fire_in_the_model_and_in_the_slice(family, connection, trained_like):
    model = trained_like(family.connected(connection)).eval()
    part, shapes = model.blocks[:2], []
    # the last block of the slice is a copy around the modules of the model's block
    handle = part[-1].mlp.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    num_tokens = 16 + model.num_prefix_tokens
    with torch.no_grad():
        model(images())
        assert shapes == [(2, num_tokens, 64)]
        run(part, torch.randn(3, 17, 64))
        assert shapes == [(2, num_tokens, 64), (3, 17, 64)]
        handle.remove()
        model(images())
    assert len(shapes) == 2


def test_slices_copy_and_pickle(family, connection, trained_like):
    model, tokens = trained_like(family.connected(connection, stream_reduce="gated")).eval(), torch.randn(2, 17, 64)
    with torch.no_grad():
        for part in (model.blocks[:2], model.blocks[:3], model.blocks[:]):
            expected = run(part, tokens)
            for copied in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
                assert torch.equal(run(copied, tokens), expected)
                trained_like(copied)
                assert not torch.equal(run(copied, tokens), expected)
            # what was trained was the copy
            assert torch.equal(run(part, tokens), expected)


def compiled(block: nn.Module) -> nn.Module:
    return torch.compile(block, backend="eager")


@pytest.mark.parametrize("wrap", [compiled, checkpoint_wrapper])
def test_slices_of_wrapped_blocks(wrap, trained_like):
    plain = trained_like(VIT.plain(depth=3)).eval()
    hyper, x = mhc_vision.hyperconnect(plain, "mhc", stream_reduce="gated"), images()
    for i, block in enumerate(hyper.blocks):
        hyper.blocks[i] = wrap(block)
    tokens, arguments = torch.randn(2, 17, 64), {"indices": [1], "stop_early": True, "intermediates_only": True}
    with torch.no_grad():
        for part in (slice(1), slice(2), slice(None)):
            torch.testing.assert_close(hyper.blocks[part](tokens), plain.blocks[part](tokens), **ROUNDING)
        taps, expected = (model.forward_intermediates(x, **arguments) for model in (hyper, plain))
        torch.testing.assert_close(taps, expected, **ROUNDING)
        torch.testing.assert_close(hyper(x), plain(x), **ROUNDING)


# shorter models


@pytest.mark.parametrize("removed", [slice(2, None), slice(None, 2), slice(1, 3), 0, -1], ids=str)
def test_blocks_can_be_deleted(family, connection, removed, trained_like):
    plain = trained_like(family.plain()).eval()
    hyper, x = mhc_vision.hyperconnect(plain, connection, stream_reduce="gated"), images()
    for model in (plain, hyper):
        del model.blocks[removed]
    # the learned read-out moves to the block that is now the last
    last = f"blocks.{len(plain.blocks) - 1}.reduction."
    assert {name.rpartition(".")[0] + "." for name in hyper.state_dict() if "reduction" in name} == {last}
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), **ROUNDING)


WRAPPERS = {"block": lambda block: block, "checkpoint": checkpoint_wrapper, "compile": compiled}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_model_of_its_first_blocks(family, connection, trained_like, wrap):
    model = trained_like(family.connected(connection, stream_reduce="gated")).eval()
    x, kind = images(), type(family.plain().blocks)

    def first_by_slice(blocks):
        return blocks[:2]

    def first_by_list(blocks):
        return kind(*list(blocks)[:2]) if kind is nn.Sequential else kind(list(blocks)[:2])

    def first_by_deletion(blocks):
        del blocks[2:]
        return blocks

    with torch.no_grad():
        expected = model.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
        for first in (first_by_slice, first_by_list, first_by_deletion):
            shorter = copy.deepcopy(model)
            for i in range(DEPTH):
                shorter.blocks[i] = wrap(shorter.blocks[i])
            shorter.blocks = first(shorter.blocks)
            assert sum("reduction" in name for name, _ in shorter.named_parameters()) == 3
            tap = shorter.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
            torch.testing.assert_close(tap, expected, **ROUNDING)


def test_block_replaced_by_nothing(connection):
    model = VIT.connected(connection).eval()
    for index in (0, 1, -1):
        model.blocks[index] = nn.Identity()
    assert model(images()).shape == (2, 10)


@pytest.mark.parametrize("stream_reduce", ["mean", "gated"])
def test_model_of_a_slice(family, connection, stream_reduce, trained_like):
    plain = trained_like(family.plain()).eval()
    hyper, x = mhc_vision.hyperconnect(plain, connection, stream_reduce=stream_reduce), images()
    for model in (plain, hyper):
        model.blocks = model.blocks[:2]
    # a learned read-out is the shorter model's own: trained, moved and saved with it
    short = family.connected(connection, stream_reduce=stream_reduce, depth=2)
    assert hyper.state_dict().keys() == short.state_dict().keys()
    assert dict(hyper.named_parameters()).keys() == dict(short.named_parameters()).keys()
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), **ROUNDING)


def test_pruned_model_keeps_a_learned_read_out(family, connection, trained_like):
    model, x = trained_like(family.connected(connection, stream_reduce="gated")).eval(), images()
    arguments = {"indices": [1], "intermediates_only": True}
    with torch.no_grad():
        expected = model.forward_intermediates(x, **arguments)
        assert model.prune_intermediate_layers([1]) == [1]
        torch.testing.assert_close(model.forward_intermediates(x, **arguments), expected, **ROUNDING)
    assert {name for name, _ in model.named_parameters() if "reduction" in name} == {
        f"blocks.1.reduction.{name}" for name in ("weight", "scale", "bias")
    }


# tools


# timm's own Eva cannot be traced with its attention written out
@pytest.mark.parametrize(
    ("family", "method"), [(VIT, "fx"), (VIT, "hook"), (EVA, "hook")], ids=["ViT-fx", "ViT-hook", "Eva-hook"]
)
def test_attention_maps(family, connection, method, trained_like):
    plain = trained_like(family.plain()).eval()
    # fused attention has no maps to extract
    for block in plain.blocks:
        block.attn.fused_attn = False
    hyper, x = mhc_vision.hyperconnect(plain, connection), images()
    with torch.no_grad():
        expected, maps = (AttentionExtract(model, method=method)(x) for model in (plain, hyper))
    assert len(maps) == DEPTH
    assert maps.keys() == expected.keys()
    num_tokens = 16 + plain.num_prefix_tokens
    assert all(attention.shape == (2, 2, num_tokens, num_tokens) for attention in maps.values())
    torch.testing.assert_close(dict(maps), dict(expected), **ROUNDING)


def test_class_activation_maps(family, connection, trained_like):
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    plain = trained_like(family.plain()).eval()
    hyper, x = mhc_vision.hyperconnect(plain, connection), images()

    def image(tokens: Tensor) -> Tensor:
        return tokens[:, plain.num_prefix_tokens :].unflatten(1, (4, 4)).permute(0, 3, 1, 2)

    targets = [grad_cam.utils.model_targets.ClassifierOutputTarget(label) for label in (3, 7)]
    maps = []
    for model in (plain, hyper):
        with grad_cam.GradCAM(model, target_layers=[model.blocks[-1].norm1], reshape_transform=image) as cam:
            maps.append(torch.from_numpy(cam(x, targets)))
    expected, actual = maps
    assert expected.shape == (2, 16, 16)
    # a map is scaled to between 0 and 1 by its own range, and rounding errors with it
    assert expected.amax((1, 2)).gt(0.9).all()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-3)
