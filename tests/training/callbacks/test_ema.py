import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from mhc_vision.training.callbacks.ema import EMA


def test_average_follows_from_the_first_step_and_slows_down():
    callback = EMA(decay=0.5)
    model = torch.nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(model, multi_avg_fn=callback._kwargs["multi_avg_fn"])
    expected = None
    for step, value in enumerate([1.0, 5.0, 2.0, 8.0, 3.0, 7.0, 0.0, 4.0, 6.0, 9.0]):
        with torch.no_grad():
            model.weight.fill_(value)
        averaged.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        torch.testing.assert_close(averaged.module.weight.item(), expected)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_bad_decays_are_named(decay):
    with pytest.raises(ValueError, match=r"decay: got .*, expected a finite number at least 0 and below 1"):
        EMA(decay)


def test_checkpoints_hold_the_average_and_the_weights(train):
    run_dir = train("--trainer.callbacks+=EMA", "--trainer.callbacks.decay", "0.9")
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    average, weights = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert average.keys() == weights.keys()
    assert not torch.equal(average["model.head.weight"], weights["model.head.weight"])
