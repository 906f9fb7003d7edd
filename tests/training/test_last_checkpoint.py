"""`last.ckpt` is what a run ended with, and a run that is extended goes on from there, however it ended."""

import json

import pytest
import torch

from mhc_vision.training.module import ClassificationModule

ENDINGS = {
    "validation-in-the-epoch": ["--trainer.limit_train_batches", "5", "--trainer.val_check_interval", "0.5"],
    "validation-every-other-epoch": ["--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "3"],
    "max-steps-in-the-epoch": ["--trainer.max_epochs", "-1", "--trainer.max_steps", "5"],
    "max-steps-and-validation": [*("--trainer.max_steps", "5", "--trainer.val_check_interval", "2")],
    "no-validation": ["--trainer.limit_val_batches", "0"],
    "max-time": ["--trainer.max_epochs", "500", "--trainer.max_time", "00:00:00:01"],
    "average": ["--trainer.max_steps", "5", "--trainer.callbacks+=EMA"],
}


@pytest.fixture
def seen(monkeypatch):
    """Of each batch that is trained on: what its images are, and from which seed its step draws."""
    batches: list[tuple[float, int]] = []
    step = ClassificationModule.training_step

    def recorded(module, batch, batch_idx):
        batches.append((batch[0].double().sum().item(), torch.initial_seed()))
        return step(module, batch, batch_idx)

    monkeypatch.setattr(ClassificationModule, "training_step", recorded)
    return batches


def steps_logged(run_dir) -> list[int]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if "train/loss" in record]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_last_checkpoint_is_the_state_at_the_end(train, monkeypatch, ending):
    ended_with = {}
    end = ClassificationModule.on_train_end

    def note(module):
        ended_with.update({name: value.clone() for name, value in module.model.state_dict().items()})
        end(module)

    monkeypatch.setattr(ClassificationModule, "on_train_end", note)
    run_dir = train("--trainer.max_epochs", "2", *ENDINGS[ending])
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert checkpoint["global_step"] == summary["steps"] > 0
    for name, value in ended_with.items():
        assert torch.equal(checkpoint["state_dict"][f"model.{name}"], value), name
    if ending == "average":
        # the weights themselves are kept for a run that goes on
        assert any(
            not torch.equal(value, checkpoint["state_dict"][name])
            for name, value in checkpoint["current_model_state"].items()
        )
    # what the figures of validation are of is said where it is not the end
    validated = {"validation-in-the-epoch": 9, "validation-every-other-epoch": 6, "max-steps-in-the-epoch": 3}
    validated |= {"average": 3, "no-validation": None}
    assert summary["validated_at_step"] == validated.get(ending, summary["steps"])


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize(
    "first", [["--trainer.max_steps", "3"], ["--trainer.max_epochs", "1"], ["--trainer.max_steps", "7"]], ids=str
)
@pytest.mark.parametrize(
    "then", [["--trainer.max_epochs", "4"], ["--trainer.max_steps", "8", "--trainer.max_epochs", "-1"]], ids=str
)
def test_an_extended_run_sees_the_batches_of_the_whole_one(train, tmp_path, seen, accumulated, first, then):
    words = ["--trainer.limit_train_batches", "6", "--trainer.accumulate_grad_batches", str(accumulated)]
    words += ["--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1", "--model.warmup_epochs", "0"]
    whole = train(*words, *then, run_dir=tmp_path / "whole")
    expected = seen.copy()
    seen.clear()
    run_dir = train(*words, "--trainer.max_epochs", "2", *first, run_dir=tmp_path / "extended")
    train(*words, *then, "--ckpt_path", "last", run_dir=run_dir)
    assert seen == expected
    assert steps_logged(run_dir) == steps_logged(whole) == list(range(len(expected) // accumulated))
    summaries = [json.loads((directory / "summary.json").read_text()) for directory in (whole, run_dir)]
    assert summaries[0]["steps"] == summaries[1]["steps"]
    assert summaries[0]["epochs"] == summaries[1]["epochs"]


def test_a_checkpoint_between_the_batches_of_a_step_goes_on_with_the_whole_step(train, tmp_path, seen):
    words = ["--trainer.limit_train_batches", "6", "--trainer.accumulate_grad_batches", "2"]
    # after the third batch of six: the gradient of one batch is in no checkpoint
    words += ["--trainer.val_check_interval", "3", "--trainer.max_epochs", "1"]
    train(*words, run_dir=tmp_path / "whole")
    expected = seen.copy()
    seen.clear()

    def stop(module):
        raise KeyboardInterrupt

    run_dir = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationModule, "on_validation_model_train", stop, raising=False)
        with pytest.raises(SystemExit):
            train(*words, "--trainer.num_sanity_val_steps", "0", run_dir=run_dir)
    assert len(seen) == 3
    train(*words, "--ckpt_path", "last", run_dir=run_dir)
    assert seen == [*expected[:3], *expected[2:]]


def test_accumulated_batches_have_the_weights_of_whole_ones(train, tmp_path):
    """1,437 digits make two steps of 480 in halves of 240, and a fifth half that is left out."""
    words = ["--trainer.limit_train_batches", "1.0", "--data.total_batch_size", "480", "--trainer.max_epochs", "2"]
    words += ["--model.warmup_epochs", "0", "--trainer.gradient_clip_val", "1"]
    whole = train(*words, run_dir=tmp_path / "whole")
    halves = train(*words, "--trainer.accumulate_grad_batches", "2", run_dir=tmp_path / "halves")
    one, two = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, halves))
    assert one["global_step"] == two["global_step"] == 4
    for name, weight in one["state_dict"].items():
        # gradients are summed in another order, which AdamW's first steps divide by their own size
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=0, atol=1e-4, msg=name)


def test_an_epoch_that_ends_within_a_step_is_refused(train, capsys):
    with pytest.raises(SystemExit) as stopped:
        train("--trainer.accumulate_grad_batches", "2")
    assert stopped.value.code == 2
    assert (
        "trainer.limit_train_batches: got 3, which is 3 batches per epoch, expected a multiple"
        in capsys.readouterr().err
    )
