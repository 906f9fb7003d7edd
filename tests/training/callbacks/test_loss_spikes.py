import json
import math

import pytest
import torch

from mhc_vision.training.callbacks.loss_spikes import LossSpikes
from mhc_vision.training.module import ClassificationModule


def feed(spikes: LossSpikes, losses: list[float]) -> int:
    for loss in losses:
        spikes.update(torch.tensor(loss))
    return spikes.count


def noisy(level: float, number: int) -> list[float]:
    return (level + 0.1 * torch.randn(number)).tolist()


def test_noise_is_no_spike_and_a_jump_is_one():
    spikes = LossSpikes()
    assert feed(spikes, noisy(2.0, 400)) == 0
    assert feed(spikes, [3.0]) == 1
    assert feed(spikes, noisy(2.0, 200)) == 1


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_spikes_and_do_not_end_the_watch(loss):
    spikes = LossSpikes()
    feed(spikes, noisy(2.0, 200))
    assert feed(spikes, [loss, *noisy(2.0, 50), 4.0]) == 2


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 5])
def test_the_averages_never_hold_what_is_not_finite(loss, place):
    losses = noisy(2.0, 300)
    losses[place] = loss
    assert feed(LossSpikes(), losses) == 1
    assert feed(LossSpikes(), [*losses, 4.0]) == 2


def test_an_outlier_in_the_first_epoch_does_not_blind():
    losses = noisy(2.0, 300)
    losses[40] = 1e6
    assert feed(LossSpikes(), [*losses, 4.0]) == 2


def test_a_falling_loss_is_no_spike():
    assert feed(LossSpikes(), [7.0 * math.exp(-step / 100) + 0.05 * (-1) ** step for step in range(600)]) == 0


def test_a_lasting_rise_becomes_the_level():
    spikes = LossSpikes()
    feed(spikes, noisy(2.0, 300))
    counted = feed(spikes, noisy(4.0, 100))
    assert 1 <= counted < 30
    assert feed(spikes, noisy(4.0, 300)) == counted


def test_nothing_counts_in_the_warm_up():
    assert feed(LossSpikes(warmup=10), [9.0, 1.0, 30.0, 2.0, 1.0]) == 0


def test_goes_on_from_its_state():
    losses = [*noisy(2.0, 150), 5.0, *noisy(2.0, 60), 5.0, *noisy(2.0, 40)]
    whole, first, second = LossSpikes(), LossSpikes(), LossSpikes()
    feed(whole, losses)
    feed(first, losses[:180])
    second.load_state_dict(first.state_dict())
    feed(second, losses[180:])
    assert second.state_dict() == whole.state_dict()
    assert whole.count == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold: got 0.0, expected a finite number above 0"),
        ({"decay": 1.0}, "decay: got 1.0, expected a finite number above 0 and below 1"),
        ({"warmup": 1}, "warmup: got 1, expected a whole number from 2"),
        ({"every_n_steps": 0}, "every_n_steps: got 0, expected a whole number from 1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LossSpikes(**options)


def test_a_run_logs_its_count_and_warns(train, tmp_path, monkeypatch, capsys):

    step = ClassificationModule.training_step

    def spiking(module, batch, batch_idx):
        return step(module, batch, batch_idx) * (100 if module.global_step == 9 else 1)

    monkeypatch.setattr(ClassificationModule, "training_step", spiking)
    words = ["--trainer.callbacks+=LossSpikes", "--trainer.callbacks.warmup", "4"]
    words += ["--trainer.callbacks.every_n_steps", "1"]
    with pytest.warns(UserWarning, match="1 loss spikes in the 1 steps up to 10, 1 in all"):
        run_dir = train(*words, "--trainer.limit_train_batches", "12")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    counts = [line["train/loss_spikes"] for line in lines if "train/loss_spikes" in line]
    assert counts == [0.0] * 9 + [1.0] * 3
