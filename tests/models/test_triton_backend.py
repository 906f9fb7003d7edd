"""Whole models on the Triton kernels: on a GPU where there is one, else in Triton's interpreter."""

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from families import EVA, VIT, Family
from interpreter import prepared_interpreter
from timm.layers import RmsNorm
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from mhc_vision import collapse, hyperconnect
from mhc_vision.kernels import use_backend
from mhc_vision.layers import CONNECTIONS, maps_at_start
from mhc_vision.layers.blocks import fused_stack
from mhc_vision.layers.blocks.fused_stack import why_not_fused

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# tokens that fit one tile: `test_backends_agree` has several
SMALL = VIT.having(img_size=8)
SMALL_EVA = EVA.having(img_size=8)


@pytest.fixture(autouse=True, scope="module")
def interpreter() -> Iterator[None]:
    with prepared_interpreter():
        yield


@pytest.mark.parametrize(
    ("family", "connection", "options"),
    [(VIT, connection, {}) for connection in CONNECTIONS]
    + [(EVA, "mhc", {}), (VIT, "mhc", {"num_streams": 5, "stream_reduce": "gated"})],
    ids=["ViT-shc", "ViT-dhc", "ViT-mhc", "Eva-mhc", "ViT-mhc-5-gated"],
)
def test_backends_agree(family, connection, options, trained_like):
    model = trained_like(family.connected(connection, depth=1, **options)).to(DEVICE)
    x = torch.randn(2, 3, 16, 16, device=DEVICE)
    results = {}
    for backend in ("torch", "triton"):
        model.zero_grad()
        with use_backend(backend):
            logits = model(x)
            logits.square().sum().backward()
        results[backend] = [logits, *(parameter.grad.clone() for parameter in model.parameters())]
    # sums over tokens and channels in another order
    torch.testing.assert_close(results["triton"], results["torch"], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_maps_are_set_back_where_whole_stacks_run_fused(trained_like):
    model = trained_like(SMALL.connected("mhc", depth=1), std=0.3).to(DEVICE).eval()
    x = torch.randn(2, 3, 8, 8, device=DEVICE)
    with maps_at_start(model):
        expected = model(x)
    with use_backend("triton"):
        assert not why_not_fused(model.blocks, model.blocks[0].norm1(torch.randn(2, 4, model.embed_dim, device=DEVICE)))
        moved = model(x)
        with maps_at_start(model):
            # sums over tokens and channels in another order
            torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
        assert torch.equal(model(x), moved)
    assert not torch.allclose(moved, expected, atol=1e-2)


@pytest.mark.parametrize(
    ("family", "options"),
    [(SMALL, {}), (SMALL_EVA, {"constraint": "identity", "learn_pre": False})],
    ids=["ViT", "Eva"],
)
def test_compiled_and_checkpointed_models_run_the_kernels(family, options, trained_like):
    model = trained_like(family.connected("mhc", depth=1, **options)).to(DEVICE)
    x = torch.randn(2, 3, 8, 8, device=DEVICE)
    with use_backend("triton"):
        expected = model(x)
        expected.square().sum().backward()
        gradient = model.blocks[0].connection1.weight.grad.clone()
        model.zero_grad()
        model.set_grad_checkpointing(True)
        model(x).square().sum().backward()
        # checkpointed blocks run one by one, not fused
        torch.testing.assert_close(model.blocks[0].connection1.weight.grad, gradient, rtol=1e-3, atol=1e-6)
        model.set_grad_checkpointing(False)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (SMALL, {}),
        (SMALL, {"stream_reduce": "sum"}),
        (SMALL, {"stream_reduce": "gated"}),
        (SMALL, {"stream_expand": "scaled"}),
        (SMALL, {"init_values": 0.5, "drop_path_rate": 0.5, "num_streams": 2}),
        (SMALL, {"reg_tokens": 2}),
        (SMALL, {"constraint": "identity", "init_values": 0.5, "drop_path_rate": 0.5}),
        (SMALL, {"norm_layer": "rmsnorm"}),
        (SMALL, {"norm_layer": partial(nn.LayerNorm, bias=False), "learn_post": False}),
        (SMALL, {"learn_pre": False, "pre_init": 0.7}),
        (SMALL, {"learn_res": False, "learn_pre": False, "num_streams": 3}),
        (SMALL_EVA, {"drop_path_rate": 0.5, "num_streams": 2}),
        (SMALL_EVA, {"constraint": "identity", "norm_layer": RmsNorm, "stream_expand": "scaled"}),
        (SMALL_EVA, {"init_values": None, "stream_reduce": "gated", "rope_type": "mixed", "rope_rotate_half": False}),
    ],
    ids=lambda value: value.name if isinstance(value, Family) else str(value),
)
def test_fused_stack_is_the_blocks_one_by_one(family, options, trained_like):
    model = trained_like(family.connected("mhc", depth=2, **options)).to(DEVICE).train()
    x = torch.randn(3, 3, 8, 8, device=DEVICE)
    results = []
    for backend in ("torch", "triton"):
        model.zero_grad()
        torch.manual_seed(1)
        with use_backend(backend):
            assert (why_not_fused(model.blocks, torch.ones(1, 3, 64, device=DEVICE)) == "") == (backend == "triton")
            logits = model(x)
            logits.square().sum().backward()
        results.append([logits, *(parameter.grad.clone() for parameter in model.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (SMALL, {"constraint": "identity", "stream_reduce": "gated"}),
        (SMALL, {"learn_post": False}),
        (SMALL_EVA, {}),
        (SMALL_EVA, {"learn_pre": False}),
    ],
    ids=lambda value: value.name if isinstance(value, Family) else str(value),
)
@torch.no_grad()
def test_same_function_at_the_start(family, options, trained_like):
    plain, x = trained_like(family.plain(depth=1)).to(DEVICE).eval(), torch.randn(2, 3, 8, 8, device=DEVICE)
    hyper = hyperconnect(plain, **options)
    with use_backend("triton"):
        assert not why_not_fused(hyper.blocks, torch.ones(1, 3, 64, device=DEVICE))
        # fp32 rounding of outputs of order one
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-5)


def test_hooks_keep_the_blocks_apart():
    model = VIT.connected("mhc", depth=1).to(DEVICE)
    seen = []
    with use_backend("triton"):
        block = model.blocks[0]
        for module in (block.expansion, block.norm1, block.connection2.constraint, block.reduction, block):
            handle = module.register_forward_hook(lambda module, args, output: seen.append(output.shape))
            model(torch.randn(1, 3, 16, 16, device=DEVICE))
            handle.remove()
        assert len(seen) == 5
        handle = block.connection1.register_observer(lambda streams, tokens, maps: seen.append(streams.shape))
        model(torch.randn(1, 3, 16, 16, device=DEVICE))
        handle.remove()
        assert len(seen) == 6
        assert not why_not_fused(model.blocks, torch.ones(1, 3, 64, device=DEVICE))


@pytest.mark.parametrize(
    ("connection", "options"),
    [
        ("shc", {}),
        ("mhc", {"constraint": "permutation"}),
        ("mhc", {"norm_layer": partial(nn.LayerNorm, elementwise_affine=False)}),
        ("mhc", {"num_streams": 1, "learn_pre": False}),
        ("mhc", {"num_streams": 5}),
    ],
)
def test_other_connections_run_block_by_block(connection, options):
    model = VIT.connected(connection, depth=1, **options).to(DEVICE)
    with use_backend("triton"):
        assert why_not_fused(model.blocks, torch.ones(1, 3, 64, device=DEVICE))


@pytest.mark.parametrize(
    ("family", "options"), [(SMALL, {}), (SMALL_EVA, {"constraint": "identity"})], ids=["ViT", "Eva"]
)
def test_streams_kept_at_every_second_boundary_give_the_same_bits(family, options, trained_like):
    model = trained_like(family.connected("mhc", depth=3, init_values=0.5, drop_path_rate=0.5, **options)).to(DEVICE)
    x = torch.randn(3, 3, 8, 8, device=DEVICE)
    results = []
    for stride in (1, 2, 4):
        model.zero_grad()
        model.set_stream_stride(stride)
        torch.manual_seed(1)
        with use_backend("triton"):
            logits = model(x)
            logits.square().sum().backward()
        results.append([logits, *(parameter.grad.clone() for parameter in model.parameters())])
    for replayed in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], replayed, strict=True))
    model = family.connected("mhc", depth=1, stream_stride=2)
    assert model.blocks.stream_stride == 2
    assert type(collapse(model).blocks) is type(family.plain().blocks)


def test_stream_stride_outlives_changes_of_the_blocks():
    model = VIT.connected("mhc", depth=3, stream_stride=2)
    model.blocks = model.blocks[:2]
    assert model.blocks.stream_stride == 2
    model.blocks = nn.Sequential(*model.blocks)
    assert model.blocks.stream_stride == 2


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (VIT, {"stream_stride": 0}, "stream_stride: got 0, expected a whole number from 1"),
        (VIT, {"stream_stride": 2, "num_streams": 5}, "stream_stride: got 2 for blocks that run one by one"),
    ],
)
def test_bad_strides_are_named(family, options, message):
    with pytest.raises(ValueError, match=message):
        family.connected("mhc", **options)


@pytest.mark.parametrize(
    ("family", "depth", "connection"),
    [(VIT, 1, "shc"), (VIT, 2, "mhc"), (EVA, 1, "mhc")],
    ids=["shc", "mhc", "Eva-mhc"],
)
def test_autocast_rounds_branches_and_nothing_of_the_connections(family, depth, connection, trained_like):
    model = trained_like(family.connected(connection, depth=depth)).to(DEVICE)
    x = torch.randn(2, 3, 16, 16, device=DEVICE)
    results = []
    for backend in ("torch", "triton"):
        model.zero_grad()
        with use_backend(backend), torch.autocast(DEVICE, torch.bfloat16):
            loss = model(x).float().square().sum()
        loss.backward()
        results.append([loss, *(parameter.grad.clone() for parameter in model.parameters())])
        assert all(gradient.dtype == torch.float32 for gradient in results[-1])
    # both round branches to bf16, in another order of sums
    for actual, right in zip(*results, strict=True):
        assert (actual - right).norm() <= 3e-2 * right.norm() + 1e-3


def test_bf16_streams_under_autocast_are_as_exact_fused_as_on_plain_pytorch(trained_like, monkeypatch):
    model = trained_like(SMALL.connected("mhc", depth=2)).to(DEVICE).eval()
    tokens, weights = torch.randn(2, 8, 5, 64, device=DEVICE).unbind()
    exact = output_and_gradient(copy.deepcopy(model.blocks).double(), tokens.double(), weights.double())
    model.set_stream_dtype("auto")
    seen, errors, boundary = [], {}, fused_stack.boundary

    def seeing(streams, merge, *rest):
        results = boundary(streams, merge, *rest)
        seen.extend((streams.dtype, merge.output.dtype, *(result.dtype for result in results[:3])))
        return results

    monkeypatch.setattr(fused_stack, "boundary", seeing)
    for backend in ("torch", "triton"):
        with use_backend(backend), torch.autocast(DEVICE, torch.bfloat16):
            found = output_and_gradient(model.blocks, tokens, weights)
        assert [result.dtype for result in found] == [torch.float32, torch.float32]
        errors[backend] = [
            ((ours - right).norm() / right.norm()).item() for ours, right in zip(found, exact, strict=True)
        ]
    # X, F, X', y and the logits of each of the three boundaries
    assert seen == [*[torch.bfloat16] * 4, torch.float32] * 3
    for fused, plain in zip(errors["triton"], errors["torch"], strict=True):
        assert 0.8 < fused / plain < 1.1, errors


def output_and_gradient(blocks: nn.Module, tokens: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """What the blocks make of the tokens, and the gradient of all of their parameters."""
    output = blocks(tokens)
    gradients = torch.autograd.grad((output.double() * weights).sum(), list(blocks.parameters()))
    return [output.detach(), torch.cat([gradient.flatten() for gradient in gradients])]


@pytest.mark.parametrize("options", [{"stream_dtype": "bfloat16"}, {"stream_dtype": "float32"}], ids=str)
def test_streams_of_another_dtype_than_the_model(options, trained_like):
    dtype = torch.float32 if options["stream_dtype"] == "bfloat16" else torch.bfloat16
    model = trained_like(SMALL.connected("mhc", depth=2, **options)).to(DEVICE, dtype)
    x = torch.randn(2, 3, 8, 8, device=DEVICE, dtype=dtype)
    results = []
    for backend in ("torch", "triton"):
        model.zero_grad()
        with use_backend(backend):
            logits = model(x)
            logits.float().square().sum().backward()
        assert logits.dtype == dtype
        results.append(torch.cat([logits.flatten(), *(parameter.grad.flatten() for parameter in model.parameters())]))
    # bf16 rounding of what branches read, which the kernels write in the dtype of the streams, and of all gradients
    assert (results[1] - results[0]).norm() <= 5e-2 * results[0].norm()


def test_bf16_models_have_bf16_streams(trained_like):
    model = trained_like(VIT.connected("mhc", depth=1)).to(DEVICE, torch.bfloat16)
    x = torch.randn(2, 3, 16, 16, device=DEVICE, dtype=torch.bfloat16)
    with use_backend("triton"):
        logits = model(x)
        logits.float().square().sum().backward()
    with use_backend("torch"):
        expected = model(x)
    torch.testing.assert_close(logits, expected, rtol=0.1, atol=0.1)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def sharded_worker(rank: int, folder: str) -> None:
    """One of two processes: half of a batch, the gradients of the mean loss, written by the first."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for wrapper, wrap in {"ddp": distributed, "fsdp2": sharded}.items():
        model, x = model_and_images()
        wrapped = wrap(model)
        with prepared_interpreter(), use_backend("triton"):
            assert not why_not_fused(model.blocks, torch.ones(1, 3, 64))
            wrapped(x[2 * rank : 2 * rank + 2]).square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        whole = {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in gradients.items()}
        if rank == 0:
            torch.save(whole, f"{folder}/{wrapper}.pt")
    dist.destroy_process_group()


def model_and_images() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return SMALL.connected("mhc", depth=2), torch.randn(4, 3, 8, 8)


def distributed(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model, static_graph=True, gradient_as_bucket_view=True)


def sharded(model: nn.Module) -> nn.Module:
    for branch in (branch for block in model.blocks for branch in (block.attn, block.mlp)):
        fully_shard(branch, mesh=init_device_mesh("cpu", (2,)))
    return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients by wrapper."""
    folder = tmp_path_factory.mktemp("processes")
    spawn(sharded_worker, (str(folder),), nprocs=2)
    return folder


@pytest.mark.skipif(DEVICE != "cpu", reason="two processes in the interpreter")
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_two_processes(wrapper, of_two_processes):
    model, x = model_and_images()
    model(x).square().mean().backward()
    together = torch.load(of_two_processes / f"{wrapper}.pt")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, rtol=1e-4, atol=1e-6)
