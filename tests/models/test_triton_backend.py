"""Whole models on the Triton kernels: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from families import EVA, VIT

from mhc_vision.kernels import use_backend
from mhc_vision.layers import CONNECTIONS
from mhc_vision.layers.fused import can_fuse

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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


def test_compiled_and_checkpointed_models_run_the_kernels(trained_like):
    model = trained_like(VIT.connected("mhc", depth=1)).to(DEVICE)
    x = torch.randn(2, 3, 16, 16, device=DEVICE)
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
    "options",
    [{}, {"stream_reduce": "sum"}, {"init_values": 0.5, "drop_path_rate": 0.5, "num_streams": 2}, {"reg_tokens": 2}],
    ids=str,
)
def test_fused_stack_is_the_blocks_one_by_one(options, trained_like):
    model = trained_like(VIT.connected("mhc", depth=2, **options)).to(DEVICE).train()
    x = torch.randn(3, 3, 16, 16, device=DEVICE)
    results = []
    for backend in ("torch", "triton"):
        model.zero_grad()
        torch.manual_seed(1)
        with use_backend(backend):
            assert can_fuse(model.blocks, torch.ones(1, 3, 64, device=DEVICE)) == (backend == "triton")
            logits = model(x)
            logits.square().sum().backward()
        results.append([logits, *(parameter.grad.clone() for parameter in model.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)


def test_hooks_keep_the_blocks_apart():
    model = VIT.connected("mhc", depth=1).to(DEVICE)
    seen = []
    with use_backend("triton"):
        for module in (model.blocks[0].norm1, model.blocks[0].connection2.constraint, model.blocks[0]):
            handle = module.register_forward_hook(lambda module, args, output: seen.append(output.shape))
            model(torch.randn(1, 3, 16, 16, device=DEVICE))
            handle.remove()
        assert len(seen) == 3
        assert can_fuse(model.blocks, torch.ones(1, 3, 64, device=DEVICE))


@pytest.mark.parametrize(
    ("connection", "options"),
    [
        ("shc", {}),
        ("mhc", {"constraint": "permutation"}),
        ("mhc", {"num_streams": 5}),
        ("mhc", {"stream_reduce": "gated"}),
    ],
)
def test_other_connections_run_block_by_block(connection, options):
    model = VIT.connected(connection, depth=1, **options).to(DEVICE)
    with use_backend("triton"):
        assert not can_fuse(model.blocks, torch.ones(1, 3, 64, device=DEVICE))
