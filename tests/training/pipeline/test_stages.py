"""Stages one after the other compute what the model does, in all the ways that blocks run."""

from collections.abc import Iterator

import pytest
import torch
from families import EVA, VIT
from interpreter import prepared_interpreter
from torch import Tensor

from mhc_vision.kernels import use_backend
from mhc_vision.kernels.weight_gradients import held_weight_gradients, take_weight_gradients
from mhc_vision.layers.blocks import fused_stack, identity_stack, stack
from mhc_vision.training.pipeline.split_linear import split_linears
from mhc_vision.training.pipeline.stages import Stage

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FUSED = {"num_streams": 2, "sinkhorn_iters": 3}
CASES = {
    "plain": (VIT, None, {}, "torch"),
    "plain Eva": (EVA, None, {}, "torch"),
    "DHC": (VIT, "dhc", {"num_streams": 2}, "torch"),
    "chained": (VIT, "mhc", {"constraint": "identity"}, "torch"),
    "chained Eva": (EVA, "mhc", {"constraint": "identity", "stream_reduce": "gated"}, "torch"),
    "fused": (VIT, "mhc", FUSED, "triton"),
    "fused, stride 2": (VIT, "mhc", {**FUSED, "stream_stride": 2}, "triton"),
    "fused Eva, stride 3": (EVA, "mhc", {**FUSED, "stream_stride": 3, "stream_expand": "scaled"}, "triton"),
}


@pytest.fixture(autouse=True, scope="module")
def interpreter() -> Iterator[None]:
    with prepared_interpreter():
        yield


@pytest.mark.parametrize("case", CASES)
def test_stages_are_the_model_and_split_as_it_does(case, monkeypatch):
    family, connection, options, backend = CASES[case]
    family = family.having(img_size=8, depth=3)
    model = (family.connected(connection, **options) if connection else family.plain()).to(DEVICE).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ways: list[str] = []
    for module, name in ((fused_stack, "run_fused"), (identity_stack, "run_chained")):
        run = getattr(module, name)
        monkeypatch.setattr(stack, name, lambda *args, _run=run, _name=name: ways.append(_name) or _run(*args))
    x = torch.randn(2, 3, 8, 8, device=DEVICE)
    stages = [Stage(model, part) for part in (range(1), range(1, 3))]
    with use_backend(backend):
        whole = model(x)
        whole.sin().sum().backward()
        expected = taken_gradients(model)
        (stages[0].image_size, stages[1].image_size) = ((8, 8), (8, 8))
        split_linears(model)
        for held in (False, True):
            border = stages[0](x)
            received = border.detach().requires_grad_()
            if held:
                with held_weight_gradients():
                    logits = stages[1](received)
            else:
                logits = stages[1](received)
            # at the border the last branch is merged before the next one reads
            torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)
            logits.sin().sum().backward()
            if held:
                assert model.head.weight.grad is None
                assert (model.blocks[2].attn.proj.weight.grad, model.blocks[2].mlp.fc1.bias.grad) == (None, None)
                take_weight_gradients()()
            border.backward(received.grad)
            for (name, gradient), of_model in zip(taken_gradients(model).items(), expected.values(), strict=True):
                torch.testing.assert_close(gradient, of_model, rtol=1e-4, atol=1e-5, msg=name)
    assert len(set(ways)) == (1 if case.startswith(("chained", "fused")) else 0)
    assert len(ways) in (0, 5)
    names = [{name for name, _ in stage.named_parameters()} for stage in stages]
    assert names[0] | names[1] == {name for name, _ in model.named_parameters()}
    assert not names[0] & names[1]


def taken_gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return gradients
