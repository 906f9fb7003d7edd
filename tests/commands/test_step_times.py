"""The measurement for comparisons at equal time, of real models, and a run of the length that follows from it."""

import json
from pathlib import Path

import pytest

from mhc_vision.commands.step_times import main
from mhc_vision.comparison.plan.equal_time import StepTime, run_length
from mhc_vision.metrics_log import read_metric

CONFIGS = Path(__file__).parents[2] / "configs"


def _words(connection, *words):
    files = ("--config", str(CONFIGS / "digits.yaml"), "--config", str(CONFIGS / "connections" / f"{connection}.yaml"))
    return [*files, "--model.model_args.depth", "1", "--trainer.limit_train_batches", "5", *words]


def test_an_arm_is_measured_beside_the_baseline(tmp_path):
    out = tmp_path / "times.json"
    request = {"command": "train", "baseline": "plain", "seconds": 0.1, "out": str(out)}
    main([json.dumps({**request, "runs": {"plain": _words("baseline"), "mhc": _words("mhc")}})])
    record = json.loads(out.read_text())
    assert (record["device"], list(record["arms"])) == ("cpu", ["mhc"])
    time = StepTime(**record["arms"]["mhc"])
    assert time.ratio > 0 < time.baseline_seconds
    # the recipe's 14 epochs of five steps
    assert (time.baseline_steps, time.baseline_validations) == (70, 14)


def test_fine_tunings_are_measured_and_a_probe_is_refused(timm_directory, tmp_path, capsys):
    files = ("--config", str(CONFIGS / "finetune" / "digits.yaml"))
    words = [*files, "--model.name", str(timm_directory(10, in_chans=1)), "--trainer.limit_train_batches", "5"]
    out = tmp_path / "times.json"
    request = {"command": "finetune", "baseline": "plain", "seconds": 0, "out": str(out)}
    connected = [*words, "--model.connection", "shc"]
    main([json.dumps({**request, "runs": {"plain": words, "shc": connected}})])
    assert json.loads(out.read_text())["arms"]["shc"]["baseline_steps"] == 10
    with pytest.raises(SystemExit) as stopped:
        main([json.dumps({**request, "runs": {"plain": [*words, "--model.method", "knn"]}})])
    assert stopped.value.code == 2
    assert "equal_time: got the arm plain with a probe" in capsys.readouterr().err


def test_a_longer_baseline_validates_its_last_weights_and_learns_to_its_end(train):
    # 3 steps per epoch: the run ends within the sixth
    length = run_length(StepTime(1.42, 0.3, 0.2, 10, 12, 4, 1))
    assert length["trainer.max_steps"] == 16
    words = [f"--{key}={json.dumps(value)}" for key, value in length.items()]
    run_dir = train(*words, "--model.warmup_epochs", "1")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["steps"], summary["validated_at_step"], summary["images_per_step"]) == (16, 16, 8)
    assert read_metric(run_dir / "metrics.jsonl", "val/top1")[0] == [3, 7, 11, 15]
    rates = read_metric(run_dir / "metrics.jsonl", "train/lr")[1]
    # three steps up, and half a cosine down to the end of the longer run: (1 + cos(12 pi / 13)) / 2 at its last step
    assert rates[3] == max(rates) == pytest.approx(2e-3)
    assert rates[-1] == min(rates) == pytest.approx(2e-3 * 0.01453, rel=1e-3)
