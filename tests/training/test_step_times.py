"""What is taken from a run to time its steps: its own batch, optimiser and length, and nothing is written."""

import math
from pathlib import Path

import pytest
import torch

from mhc_vision.training.cli import TrainCLI
from mhc_vision.training.step_times import QUIET, OptimiserStep, measure_steps

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def step(tmp_path):
    def build(*words):
        files = [CONFIGS / "digits.yaml", CONFIGS / "connections" / "mhc.yaml"]
        small = ("--model.model_args.depth", "1", "--data.batch_size", "8", "--trainer.limit_train_batches", "6")
        configs = [word for file in files for word in ("--config", str(file))]
        run_dir = tmp_path / "run"
        cli = TrainCLI([*configs, *small, *words, *QUIET, "--trainer.default_root_dir", str(run_dir)], run=False)
        made = OptimiserStep(cli)
        assert not run_dir.exists()
        return cli, made

    return build


@pytest.mark.parametrize(
    ("words", "steps", "validations"),
    [
        (["--trainer.max_epochs", "3"], 18, 3),
        (["--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2"], 24, 2),
        (["--trainer.max_epochs", "3", "--trainer.val_check_interval", "2"], 18, 9),
        (["--trainer.max_epochs", "-1", "--trainer.max_steps", "10"], 10, 1),
        (
            [
                *("--trainer.max_steps", "10", "--trainer.val_check_interval", "5"),
                *("--trainer.check_val_every_n_epoch", "null"),
            ],
            10,
            2,
        ),
        (["--trainer.max_epochs", "3", "--trainer.accumulate_grad_batches", "2"], 9, 3),
    ],
    ids=["epochs", "every-second", "within", "steps", "interval", "accumulated"],
)
def test_the_length_of_a_run_is_known(step, words, steps, validations):
    _, made = step(*words)
    assert (made.steps, made.validations, made.device) == (steps, validations, "cpu")


def test_a_step_is_the_first_one_of_the_training(step, train):
    # `auto` would give runs of other lengths other rates
    rates = ("--model.warmup_epochs", "0", "--model.connection_lr_scale", "1")
    cli, made = step(*rates)
    made()
    run_dir = train("--trainer.limit_train_batches", "6", "--trainer.max_steps", "1", *rates, connection="mhc")
    trained = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, parameter in cli.model.named_parameters():
        # the same operations in the same order
        torch.testing.assert_close(parameter.detach(), trained[name], rtol=0, atol=1e-6)


def test_times_are_taken_in_turns_and_the_other_run_has_the_ratio_one(step):
    made = {"baseline": step()[1], "mhc": step("--model.num_streams", "2")[1]}
    times = measure_steps(made, "baseline", seconds=0)
    assert times["baseline"].ratio == 1.0
    assert times["mhc"].rounds == times["baseline"].rounds >= 10
    assert all(math.isfinite(time.seconds) and time.seconds > 0 for time in times.values())
