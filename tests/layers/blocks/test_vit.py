import pytest
import torch
from timm.models.vision_transformer import Block

from mhc_vision.layers import HyperBlock, connection_no_weight_decay, connection_parameters, expand_streams


@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
@pytest.mark.parametrize("init_values", [None, 0.1], ids=["plain", "LayerScale"])
def test_block_is_timms_block_at_the_start(connection, init_values):
    plain = Block(32, 4, qkv_bias=True, init_values=init_values).eval()
    hyper = HyperBlock(32, 4, qkv_bias=True, init_values=init_values, connection=connection, depth=3).eval()
    result = hyper.load_state_dict(plain.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert {key.split(".")[0] for key in result.missing_keys} == {"connection1", "connection2"}
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(hyper(expand_streams(x, 4)), expand_streams(plain(x), 4), rtol=0, atol=1e-5)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    causal = hyper(expand_streams(x, 4), is_causal=True)
    torch.testing.assert_close(causal, expand_streams(plain(x, is_causal=True), 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(causal, hyper(expand_streams(x, 4), attn_mask=mask), rtol=0, atol=1e-5)


def test_drop_path_drops_the_branch_and_nothing_else():
    block = HyperBlock(32, 4, drop_path=0.999999, connection="mhc").train()
    streams = torch.randn(2, 9, 4, 32)
    _, _, res1, _ = block.connection1.open(streams)
    mixed = res1 @ streams
    _, _, res2, _ = block.connection2.open(mixed)
    torch.testing.assert_close(block(streams), res2 @ mixed, rtol=0, atol=1e-5)


def test_connections_count_branches():
    block = HyperBlock(32, 4, depth=5)
    assert (block.connection1.layer_index, block.connection2.layer_index) == (10, 11)


@pytest.mark.parametrize(("connection", "decaying"), [("shc", set()), ("dhc", {"weight"}), ("mhc", {"weight"})])
def test_only_dynamic_projections_decay(connection, decaying):
    block = HyperBlock(32, 4, connection=connection)
    names = {name for name, _ in connection_parameters(block)}
    assert names == {name for name, _ in block.named_parameters() if name.startswith("connection")}
    assert {name.split(".")[1] for name in names - connection_no_weight_decay(block)} == decaying
