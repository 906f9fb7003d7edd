"""Stacks with res = I on a CPU: what they compute is what their blocks compute one by one."""

import pytest
import torch
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ParallelThingsBlock, ResPostBlock
from torch import Tensor, nn

from mhc_vision.kernels import use_backend
from mhc_vision.layers import HyperBlock, connect_blocks, named_connections
from mhc_vision.layers.blocks.identity_stack import why_not_chained

DIM = 8
# fp64 rounding, which norms of small branch outputs enlarge
ROUNDING = {"rtol": 1e-9, "atol": 1e-9}


def stack(block_class=Block, depth: int = 3, reduce: str = "mean", connection: str = "mhc", **options) -> nn.Module:
    """Connected blocks with weights away from their start."""
    kwargs = {"init_values": 0.5, "drop_path": 0.3} if block_class in (Block, EvaBlock) else {}
    blocks = nn.Sequential(*(block_class(DIM, 2, **kwargs) for _ in range(depth)))
    if connection == "mhc":
        options = {"constraint": "identity", **options}
    connect_blocks(blocks, DIM, connection, 3, reduce, options)
    with torch.no_grad():
        for parameter in blocks.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return blocks.double()


def tokens(**options) -> Tensor:
    return torch.randn(2, 5, DIM, dtype=torch.float64, **options)


def one_by_one(blocks: nn.Module, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


@pytest.mark.parametrize(
    ("block_class", "options"),
    [
        *((Block, {"reduce": reduce}) for reduce in ("mean", "sum", "gated")),
        *((Block, {"learn_post": False}), (Block, {"learn_pre": False, "reduce": "gated"})),
        *((block_class, {}) for block_class in (ResPostBlock, ParallelThingsBlock, EvaBlock, EvaBlockPostNorm)),
    ],
)
def test_is_the_blocks_one_by_one(block_class, options):
    blocks, x = stack(block_class, **options).train(), tokens(requires_grad=True)
    assert not why_not_chained(blocks, x)
    inputs, weights = [x, *blocks.parameters()], tokens()
    torch.manual_seed(1)
    expected = one_by_one(blocks, x)
    torch.manual_seed(1)
    output = blocks(x)
    torch.testing.assert_close(output, expected, **ROUNDING)
    gradients = torch.autograd.grad(output, inputs, weights)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, weights), **ROUNDING)


def test_two_backward_passes_of_one_graph_give_the_same_gradients():
    blocks = stack(depth=2).eval()
    loss = blocks(tokens()).square().sum()
    first = torch.autograd.grad(loss, list(blocks.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(blocks.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_inference_is_the_same_and_leaves_the_tokens_as_they_are():
    blocks, x = stack().eval(), tokens()
    before, expected = x.clone(), blocks(x)
    with torch.no_grad():
        assert torch.equal(blocks(x), expected)
    with torch.inference_mode():
        assert torch.equal(blocks(x), expected)
    assert torch.equal(x, before)


def test_first_blocks_and_a_stack_that_lost_blocks():
    blocks, x = stack(reduce="gated").eval(), tokens()
    part = blocks[:2]
    assert not why_not_chained(part, x)
    torch.testing.assert_close(part(x), one_by_one(part, x), **ROUNDING)
    del blocks[1]
    assert not why_not_chained(blocks, x)
    torch.testing.assert_close(blocks(x), one_by_one(blocks, x), **ROUNDING)


def test_hooks_and_observers_see_what_they_saw_before():
    blocks, seen = stack(depth=2).eval(), []
    connection, reduction = blocks[1].connection1, blocks[1].reduction
    for module in (blocks[0], blocks[0].attn, blocks[0].expansion, connection.constraint, reduction):
        handle = module.register_forward_hook(lambda module, args, output: seen.append(output.shape))
        blocks(tokens())
        handle.remove()
    streams = torch.Size([2, 5, 3, DIM])
    assert seen == [streams, torch.Size([2, 5, DIM]), streams, torch.Size([3, 3]), torch.Size([2, 5, DIM])]
    handle = connection.register_observer(lambda streams, tokens, maps: seen.append(maps.res.shape))
    blocks(tokens())
    handle.remove()
    assert seen[-1] == torch.Size([3, 3])


def test_others_run_block_by_block():
    x = tokens()
    others = [
        stack(constraint="sinkhorn"),
        stack(connection="shc"),
        stack()[0:0],
    ]
    for blocks in others:
        assert why_not_chained(blocks, x)
    assert not why_not_chained(stack(learn_res=False, constraint="sinkhorn"), x)
    assert why_not_chained(stack(), x[0])
    assert why_not_chained(stack(), x[:0])
    with use_backend("torch"):
        assert not why_not_chained(stack(), x)


def test_a_block_that_does_more_than_its_class_says_runs_by_itself():
    class Doubling(HyperBlock):
        def mlp_branch(self, tokens: Tensor) -> Tensor:
            return 2.0 * super().mlp_branch(tokens)

    class Renamed(HyperBlock):
        pass

    for block_class, chained in ((Doubling, False), (Renamed, True)):
        blocks, x = stack(depth=2).eval(), tokens()
        blocks[1].__class__ = block_class
        assert (why_not_chained(blocks, x) == "") == chained
        torch.testing.assert_close(blocks(x), one_by_one(blocks, x), **ROUNDING)


def test_blocks_that_are_compiled_one_by_one_run_compiled():
    blocks, x, runs = stack(depth=2).eval(), tokens(), []
    expected = blocks(x)

    def backend(graph, _):
        return lambda *inputs: runs.append(1) or graph(*inputs)

    blocks[1].compile(backend=backend)
    torch.testing.assert_close(blocks(x), expected, **ROUNDING)
    assert runs
    assert why_not_chained(blocks, x) == "block 1: it is compiled by itself"


def test_compiles_in_one_graph_with_the_same_gradients():
    blocks, x = stack(depth=2).eval(), tokens()
    compiled = torch.compile(blocks, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), blocks(x), **ROUNDING)
    parameters = list(blocks.parameters())
    gradients = torch.autograd.grad(compiled(x).square().sum(), parameters)
    expected = torch.autograd.grad(blocks(x).square().sum(), parameters)
    torch.testing.assert_close(gradients, expected, **ROUNDING)


def test_macs_without_mixing():
    """Reading and adding are n·C each; the identity has no n²·C."""
    connection = next(iter(named_connections(stack()).values()))
    assert connection.macs() == 3 * DIM + 3 * DIM + 6 * 3 * DIM
