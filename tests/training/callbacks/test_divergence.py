"""Runs whose numbers stop being numbers: no best checkpoint, no summary, no result of any command."""

import json
import math

import pytest
import torch

from mhc_vision.training.callbacks.divergence import StopWhenDiverged

KEEP_GOING = ("--trainer.callbacks+=StopWhenDiverged", "--trainer.callbacks.patience=null")
NO_RATE = ("--model.lr", "1e30", "--model.warmup_epochs", "0")


def _fails(train, capsys, *words: str, **options) -> str:
    with pytest.raises(SystemExit) as stop:
        train(*words, **options)
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_a_run_that_diverges_ends_with_status_1_and_without_a_summary(train, tmp_path, capsys):
    error = _fails(train, capsys, *NO_RATE)
    assert "error: the training loss is not finite from step 2 to step 3, where the run ends" in error
    run_dir = tmp_path / "run"
    assert not (run_dir / "summary.json").exists()
    assert not (run_dir / "report.md").exists()
    assert not (run_dir / "checkpoints" / "best.ckpt").exists()


def test_it_stops_after_so_many_steps_in_a_row(train, tmp_path, capsys):
    words = ("--trainer.callbacks+=StopWhenDiverged", "--trainer.callbacks.patience=4")
    error = _fails(train, capsys, *NO_RATE, *words, "--trainer.limit_train_batches", "20")
    # it looks every fourth step: the loss of the first one is of the weights before any step
    assert "from step 2 to step 8, where the run ends" in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_option_keeps_it_going_and_the_figures_are_honest(train):
    run_dir = train(*NO_RATE, *KEEP_GOING)
    metrics = json.loads((run_dir / "summary.json").read_text())["metrics"]
    assert metrics["val/top1"] == metrics["val/top5"] == 0
    assert metrics["val/not_finite"] == 16
    assert metrics["val/loss"] == "nan"
    assert not (run_dir / "checkpoints" / "best.ckpt").exists()


def test_best_stays_what_it_was_before_the_weights_were_lost(train, tmp_path, capsys):
    run_dir = train("--trainer.max_epochs", "2")
    best, last = (run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    before = best.read_bytes()
    content = torch.load(last, weights_only=True)
    content["state_dict"]["model.head.bias"][1] = math.nan
    torch.save(content, last)
    more = ("--trainer.max_epochs", "3", "--ckpt_path", str(last))
    for sanity in ((), ("--trainer.num_sanity_val_steps", "0")):
        error = _fails(train, capsys, *more, *sanity)
        assert "error: weights: got NaN or infinity in the weight model.head.bias" in error
    train(*more, *KEEP_GOING)
    assert best.read_bytes() == before
    for subcommand, count in (("validate", 16), ("test", 360)):
        error = _fails(train, capsys, "--ckpt_path", str(last), subcommand=subcommand)
        assert f"error: the logits of {count} images are not finite" in error


def test_the_average_of_lost_weights_is_not_the_best_either(train):
    run_dir = train("--trainer.callbacks+=EMA", *KEEP_GOING, *NO_RATE)
    assert not (run_dir / "checkpoints" / "best.ckpt").exists()
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["state_dict"]["model.head.weight"].isnan().any()


def test_single_losses_that_are_not_finite_end_nothing():
    callback = StopWhenDiverged(patience=2)
    for loss in (1.0, math.nan, 1.0, math.inf, 1.0):
        callback.update(torch.tensor(loss), stepped=True)
    assert callback.state_dict() == {"streak": 0}


def test_accumulated_batches_are_one_step():
    callback = StopWhenDiverged()
    for loss, stepped in ((math.nan, False), (1.0, True), (1.0, False), (math.nan, True), (math.nan, False)):
        callback.update(torch.tensor(loss), stepped=stepped)
    assert callback.state_dict() == {"streak": 2}
    callback.load_state_dict({"streak": 5})
    callback.update(torch.tensor(math.nan), stepped=True)
    assert callback.state_dict() == {"streak": 6}
