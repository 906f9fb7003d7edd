"""Whole models on the Triton kernels: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from families import EVA, VIT

from mhc_vision.kernels import use_backend
from mhc_vision.layers import CONNECTIONS

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
        assert torch.equal(model.blocks[0].connection1.weight.grad, gradient)
        model.set_grad_checkpointing(False)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)
