"""Linear warm-up and cosine decay, per optimiser step."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine_factor(step: int, *, warmup_steps: int, total_steps: int, final_factor: float = 0.0) -> float:
    """Factor on the learning rate for optimiser step `step`, counted from 0.

    Rises in equal parts through the warm-up, is 1 at step `warmup_steps`, and falls on half a cosine to `final_factor`
    at `total_steps`. The very first step already learns: it has the factor 1 / (warmup_steps + 1).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_factor + (1.0 - final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_cosine_sum(*, warmup_steps: int, total_steps: int, final_factor: float = 0.0) -> float:
    """Sum of `warmup_cosine_factor` over all steps of a run."""
    falling = total_steps - warmup_steps
    # (k + 1) / (w + 1) for k < w, then half a cosine, which sums to (m + 1) / 2 over its m steps
    return warmup_steps / 2 + final_factor * falling + (1.0 - final_factor) * (falling + (falling > 0)) / 2


def warmup_cosine(optimizer: Optimizer, *, warmup_steps: int, total_steps: int, final_factor: float = 0.0) -> LambdaLR:
    """Scheduler that follows `warmup_cosine_factor` in every parameter group; step it once per optimiser step.

    Raises:
        ValueError: If the warm-up is longer than the run.
    """
    if warmup_steps > total_steps:
        raise ValueError(
            f"warmup_steps: got {warmup_steps}, expected at most the {total_steps} steps of the run; "
            "set model.warmup_steps or model.warmup_epochs lower, or train longer"
        )
    return LambdaLR(
        optimizer,
        lambda step: warmup_cosine_factor(
            step, warmup_steps=warmup_steps, total_steps=total_steps, final_factor=final_factor
        ),
    )
