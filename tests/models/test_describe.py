"""`describe` says what the stacks do, for the reasons by which they choose."""

import pytest
import torch
from families import EVA, VIT
from interpreter import prepared_interpreter
from timm.layers import SimpleNorm
from timm.models.vision_transformer import ResPostBlock

import mhc_vision
from mhc_vision.kernels import use_backend
from mhc_vision.layers.blocks.fused_stack import why_not_fused
from mhc_vision.layers.constraints import IdentityConstraint

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("family", [VIT, EVA], ids=["ViT", "Eva"])
def test_paths_are_named_in_the_order_in_which_they_are_tried(family):
    sinkhorn, identity = family.connected("mhc"), family.connected("mhc", constraint="identity")
    assert mhc_vision.describe(identity).splitlines()[1] == "blocks (2 blocks): chained, from branch to branch"
    text = mhc_vision.describe(sinkhorn)
    assert text.splitlines()[0] == mhc_vision.kernels.describe()
    assert "blocks (2 blocks): block by block" in text
    assert "; where the kernels run: fused" in text
    assert "not chained: block 0: the operations are for constraint='identity', not for SinkhornConstraint" in text
    identity.set_grad_checkpointing()
    assert (
        mhc_vision.describe(identity).splitlines()[1].endswith("block by block, as gradient checkpointing takes them")
    )
    assert mhc_vision.describe(family.plain()).endswith("has no stack of hyper-connected blocks")


@pytest.mark.parametrize(
    ("connection", "options", "reason"),
    [
        ("shc", {}, "the kernels make the maps of mHC, not those of StaticHyperConnection"),
        ("dhc", {}, "the kernels make the maps of mHC, not those of DynamicHyperConnection"),
        (
            "mhc",
            {"constraint": "kronecker"},
            "the kernels make res by Sinkhorn-Knopp or the identity; here is KroneckerConstraint",
        ),
        ("mhc", {"num_streams": 5}, "the kernels take up to 4 streams, not 5"),
        ("mhc", {"norm_layer": SimpleNorm}, "not as SimpleNorm() does"),
        ("mhc", {"block_fn": ResPostBlock}, "the kernels norm what a branch reads"),
    ],
)
def test_why_not_fused(connection, options, reason):
    pytest.importorskip("triton")
    model = VIT.connected(connection, **options).to(DEVICE)
    with prepared_interpreter(), use_backend("triton"):
        text = mhc_vision.describe(model)
        assert "not fused: block 0: " in text
        assert reason in text
        assert why_not_fused(model.blocks, torch.ones(1, 3, 64, device=DEVICE))


def test_the_block_that_is_in_the_way_is_named():
    pytest.importorskip("triton")
    model = VIT.connected("mhc").to(DEVICE)
    with prepared_interpreter(), use_backend("triton"):
        assert "blocks (2 blocks): fused, boundary by boundary in Triton kernels" in mhc_vision.describe(model)
        handle = model.blocks[1].norm2.register_forward_hook(lambda *_: None)
        assert "not fused: block 1: hooks wait at the norm, LayerScale or DropPath" in mhc_vision.describe(model)
        handle.remove()
        handle = model.blocks[1].connection1.register_observer(lambda *_: None)
        assert "not fused: block 1: its connections are observed" in mhc_vision.describe(model)
        handle.remove()
        constraint, model.blocks[1].connection2.constraint = (
            model.blocks[1].connection2.constraint,
            IdentityConstraint(4),
        )
        assert "block 1: its connections are of another kind than those before" in mhc_vision.describe(model)
        model.blocks[1].connection2.constraint = constraint
        model.blocks[1].ls1 = torch.nn.Tanh()
        assert "block 1: the kernels do not do what Tanh does after a branch" in mhc_vision.describe(model)


def test_compiled_models_are_not_chained():
    model = VIT.connected("mhc", constraint="identity")
    for compiled in (torch.compile(model), model):
        model.compile()
        assert "not chained: torch.compile fuses the operations of each block" in mhc_vision.describe(compiled)


def test_compiled_parts_of_blocks_are_chained():
    model = VIT.connected("mhc", constraint="identity")
    model.blocks[0].attn.compile()
    assert "blocks (2 blocks): chained" in mhc_vision.describe(model)


def test_a_stack_that_lost_its_blocks():
    model = VIT.connected("mhc")
    del model.blocks[:]
    assert mhc_vision.describe(model).endswith("has no stack of hyper-connected blocks")
