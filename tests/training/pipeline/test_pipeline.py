"""A pipeline trains and evaluates as one process does, with every schedule and stride."""

from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from interpreter import prepared_interpreter
from torch import nn

import mhc_vision  # noqa: F401  (registers the models)
from mhc_vision.kernels import use_backend
from mhc_vision.layers.blocks import stack
from mhc_vision.training.loss import classification_loss
from mhc_vision.training.pipeline.pipeline import SCHEDULES, Pipeline
from mhc_vision.training.pipeline.state import gather_optimizer_state, gather_tensors, own_tensors

STEPS, BATCH, CLASSES = 6, 16, 5
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("test_vit", {}),
    "mhc": ("test_vit_mhc", {"num_streams": 2, "sinkhorn_iters": 3}),
    "ihc": ("test_vit_mhc", {"num_streams": 2, "constraint": "identity", "stream_reduce": "gated"}),
    "rotary": ("vit_small_patch16_dinov3_mhc", {"num_streams": 2, "embed_dim": 64, "num_heads": 2}),
}
# with the Triton kernels, whose stacks have strides; few channels and two tokens for the interpreter
FUSED: dict[str, tuple[str, dict[str, Any]]] = {
    f"fused{stride}": (
        "test_vit_mhc",
        {**MODELS["mhc"][1], "embed_dim": 16, "num_heads": 2, "patch_size": 32, "stream_stride": stride},
    )
    for stride in (1, 2)
}
LOSS = classification_loss("ce", 0.1)


def model(name: str, depth: int) -> nn.Module:
    architecture, options = (MODELS | FUSED)[name]
    torch.manual_seed(0)
    return timm.create_model(architecture, img_size=32, depth=depth, num_classes=CLASSES, **options)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(STEPS, BATCH, 3, 32, 32, generator=generator)
    return list(zip(images, torch.randint(CLASSES, (STEPS, BATCH), generator=generator), strict=True))


def alone(name: str, depth: int) -> dict[str, Any]:
    """Losses, weights, state of the optimiser and logits of one process."""
    whole, losses = model(name, depth), []
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-3)
    for images, targets in batches():
        optimizer.zero_grad()
        loss = LOSS(whole(images), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    with torch.no_grad():
        logits = whole.eval()(batches()[0][0][:7])
    return {"losses": torch.stack(losses), "weights": whole.state_dict(), "logits": logits} | {
        "moments": optimizer.state_dict()["state"]
    }


def together(name: str, depth: int, schedule: str) -> dict[str, Any]:
    """The same of all processes of this group, in the first one."""
    group, device, whole, losses = dist.group.WORLD, torch.device("cpu"), model(name, depth), []
    pipeline = Pipeline(whole, schedule, 2 * dist.get_world_size(), group, device)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-3)
    for images, targets in batches():
        optimizer.zero_grad()
        losses.append(pipeline.train(images, targets, LOSS, 1.0))
        gradients = [parameter.grad for parameter in whole.parameters() if parameter.grad is not None]
        norm = pipeline.total_norm(torch.nn.utils.get_total_norm(gradients))
        torch.nn.utils.clip_grads_with_norm_(whole.parameters(), 1.0, norm)
        optimizer.step()
    whole.eval()
    # neither microbatches nor a number of them
    logits = pipeline(batches()[0][0][:7])
    weights = gather_tensors(own_tensors(whole.state_dict()), group, device)
    return {"losses": torch.stack(losses), "weights": weights, "logits": logits} | {
        "moments": gather_optimizer_state(optimizer, group, device).get("state")
    }


def process(rank: int, size: int, directory: Path, cases: list[tuple[str, int, str]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=size)
    for name, depth, schedule in cases:
        found = together(name, depth, schedule)
        torch.save(found, directory / f"{name}-{schedule}-{rank}.pt")
    dist.destroy_process_group()


def fused_process(rank: int, *given: Any) -> None:
    with (
        prepared_interpreter(),
        use_backend("triton"),
        patch.object(stack, "run_fused", wraps=stack.run_fused) as fused,
    ):
        process(rank, *given)
    # the others would ignore the stride
    assert fused.called


def check(expected: dict[str, Any], directory: Path, name: str, schedule: str, size: int) -> None:
    for rank in range(size):
        found = torch.load(directory / f"{name}-{schedule}-{rank}.pt")
        # all processes know losses and logits
        torch.testing.assert_close(found["losses"], expected["losses"], rtol=0, atol=1e-4)
        torch.testing.assert_close(found["logits"], expected["logits"], rtol=0, atol=1e-3)
        if rank == 0:
            assert found["weights"].keys() == expected["weights"].keys()
            for key, weight in expected["weights"].items():
                # gradients are summed in another order, which AdamW's first steps divide by their own size
                torch.testing.assert_close(found["weights"][key], weight, rtol=0, atol=1e-4, msg=key)
            assert list(found["moments"]) == list(expected["moments"])
            for index, moments in expected["moments"].items():
                torch.testing.assert_close(found["moments"][index]["exp_avg"], moments["exp_avg"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "depth"), [(2, 5), pytest.param(4, 8, marks=pytest.mark.slow)])
def test_weights_losses_and_logits_are_those_of_one_process(size, depth, tmp_path):
    cases = [(name, depth, schedule) for name, schedule in product(MODELS, SCHEDULES)]
    if size == 2:
        cases = [case for case in cases if case[0] == "mhc" or case[2] in ("1F1B", "DualPipeV")]
    multiprocessing.spawn(process, (size, tmp_path, cases), nprocs=size)
    expected = {name: alone(name, depth) for name in MODELS}
    for name, _, schedule in cases:
        check(expected[name], tmp_path, name, schedule, size)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the processes are on the CPU, in the interpreter")
@pytest.mark.parametrize(
    ("size", "depth", "schedules"), [(2, 4, tuple(SCHEDULES)), (4, 4, ("1F1B",)), (4, 8, tuple(SCHEDULES)[1:])]
)
def test_strides_of_fused_stacks(size, depth, schedules, tmp_path):
    cases = [(name, depth, schedule) for name, schedule in product(FUSED, schedules)]
    multiprocessing.spawn(fused_process, (size, tmp_path, cases), nprocs=size)
    with prepared_interpreter(), use_backend("triton"):
        expected = {name: alone(name, depth) for name in FUSED}
    for name, _, schedule in cases:
        check(expected[name], tmp_path, name, schedule, size)
