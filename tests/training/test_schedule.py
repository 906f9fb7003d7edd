import itertools

import pytest
import torch

from mhc_vision.training.schedule import warmup_cosine, warmup_cosine_factor


def test_rises_linearly_peaks_after_the_warmup_and_falls_to_the_final_factor():
    factors = [warmup_cosine_factor(step, warmup_steps=4, total_steps=24, final_factor=0.1) for step in range(25)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[14] == pytest.approx(0.55)  # halfway down
    assert factors[24] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[4:]))


def test_every_group_keeps_its_share_of_the_learning_rate():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-3, 1e-2)]
    optimizer = torch.optim.AdamW(groups)
    scheduler = warmup_cosine(optimizer, warmup_steps=2, total_steps=10)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        base, connection = (group["lr"] for group in optimizer.param_groups)
        assert connection == pytest.approx(10 * base)


def test_a_warmup_longer_than_the_run_is_refused_with_both_figures():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="warmup_steps: got 11, expected at most the 10 steps of the run"):
        warmup_cosine(optimizer, warmup_steps=11, total_steps=10)
