"""A run that is killed and resumed ends with the bits of one that was not, and what cannot be resumed is refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mhc_vision.cli import main
from mhc_vision.data import FakeDataModule
from mhc_vision.stored.checkpoint_files import damage, load
from mhc_vision.stored.sharded_checkpoints import gather_shards
from mhc_vision.training.resume import newest_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"
STEPS_AN_EPOCH, EPOCHS = 6, 4
PROGRAM = [sys.executable, "-W", "ignore", str(CONFIGS.parent / "train_imagenet.py")]
# sums have the order of the one thread that the tests have, too
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(
    run_dir: Path,
    *words: str,
    processes: int = 1,
    num_workers: int = 0,
    sharded: bool = False,
    schedule: str = "",
) -> list[str]:
    """A run with DropPath and, where the model is not sharded, an average of the weights."""
    strategy = ["--trainer.strategy", "ddp"] if processes > 1 else []
    if sharded:
        strategy = ["--config", str(CONFIGS / "strategies" / "fsdp2.yaml"), "--trainer.strategy.data_parallel_size"]
        strategy += [str(processes), "--trainer.strategy.process_group_backend", "gloo"]
    if schedule:
        strategy = ["--config", str(CONFIGS / "strategies" / "pipeline.yaml"), "--model.model_args.depth", "4"]
        strategy += ["--trainer.strategy.schedule", schedule, "--trainer.strategy.num_microbatches", "4"]
        strategy += ["--trainer.strategy.process_group_backend", "gloo"]
    average = [] if sharded or schedule else ["--trainer.callbacks+=EMA", "--trainer.callbacks.decay", "0.9"]
    return [
        "fit",
        *("--config", str(CONFIGS / "digits.yaml"), "--config", str(CONFIGS / "connections" / "mhc.yaml")),
        *("--model.model_args.depth", "1", "--model.model_args.drop_path_rate", "0.3"),
        *("--model.connection_lr_scale", "10", "--data.batch_size", "8", "--data.num_workers", str(num_workers)),
        *("--trainer.max_epochs", str(EPOCHS), "--trainer.limit_train_batches", str(STEPS_AN_EPOCH)),
        *("--trainer.limit_val_batches", "2", "--trainer.devices", str(processes), *strategy),
        *average,
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.default_root_dir", str(run_dir), *words),
    ]


def run(run_dir: Path, *words: str, processes: int = 1, **options: Any) -> None:
    """In this process, if one is enough."""
    given = command(run_dir, *words, processes=processes, **options)
    if processes == 1:
        main(given)
    else:
        subprocess.run([*PROGRAM, *given], env=ENVIRONMENT, check=True, capture_output=True)


def num_records(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def kill_after(records: int, run_dir: Path, *words: str, **options: Any) -> None:
    """SIGKILL to the whole process group once so many lines are logged."""
    process = subprocess.Popen(
        [*PROGRAM, *command(run_dir, *words, **options)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and num_records(run_dir) < records:
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def outcome(run_dir: Path) -> tuple[dict, list[dict]]:
    """Everything of the last checkpoint that computes, and the log without its times."""
    path = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = gather_shards(path) if path.is_dir() else torch.load(path, weights_only=True)
    kept = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "averaging_state", "global_step")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {name: checkpoint[name] for name in kept if name in checkpoint}, [
        {key: value for key, value in line.items() if key != "time" and not key.startswith("perf/")} for line in lines
    ]


def assert_same_bits(left: object, right: object) -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same_bits(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same_bits(a, b)
    else:
        assert left == right


def check_killed_run(tmp_path: Path, kill_points: list[int], *words: str, **options: Any) -> None:
    run(tmp_path / "whole", *words, **options)
    expected = outcome(tmp_path / "whole")
    for records in kill_points:
        run_dir = tmp_path / f"killed-{records}"
        kill_after(records, run_dir, *words, **options)
        run(run_dir, "--ckpt_path", "last", *words, **options)
        assert_same_bits(outcome(run_dir), expected)


def test_killed_and_resumed_run_has_the_bits_of_the_whole_one(tmp_path):
    check_killed_run(tmp_path, [STEPS_AN_EPOCH + 3])


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "processes"), [(0, 1), (2, 1), (0, 2), (2, 2)])
def test_any_kill_point_workers_and_processes(tmp_path, num_workers, processes):
    last = EPOCHS * (STEPS_AN_EPOCH + 1) - 1
    points = sorted(random.Random(num_workers + 10 * processes).sample(range(1, last), 10 if processes == 1 else 3))
    check_killed_run(tmp_path, points, num_workers=num_workers, processes=processes)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", ["files", "directories"])
def test_a_sharded_model_in_two_processes(tmp_path, checkpoints):
    words = ["--trainer.strategy.save_distributed_checkpoint", str(checkpoints == "directories").lower()]
    check_killed_run(tmp_path, [3, 17], *words, processes=2, sharded=True)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV"])
def test_a_pipeline_of_two_processes(tmp_path, schedule):
    check_killed_run(tmp_path, [9], processes=2, schedule=schedule)


def save(path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": step, "state_dict": {"weight": torch.arange(1000.0)}}, path)


def test_newest_whole_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    save(tmp_path / "checkpoints" / "best.ckpt", 10)
    save(tmp_path / "checkpoints" / "last.ckpt", 20)
    save(tmp_path / "hpc_ckpt_1.ckpt", 15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest_checkpoint(tmp_path).name == "last.ckpt"
    save(tmp_path / "hpc_ckpt_2.ckpt", 25)
    assert newest_checkpoint(tmp_path).name == "hpc_ckpt_2.ckpt"
    whole = (tmp_path / "hpc_ckpt_2.ckpt").read_bytes()
    (tmp_path / "hpc_ckpt_2.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"hpc_ckpt_2\.ckpt is left out: it is cut short"):
        assert newest_checkpoint(tmp_path).name == "last.ckpt"
    damaged = bytearray((tmp_path / "checkpoints" / "last.ckpt").read_bytes())
    at = damaged.index(torch.arange(1000.0).numpy().tobytes()[400:440])
    damaged[at] ^= 1
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"last\.ckpt is left out: its part .* is damaged"):
        assert newest_checkpoint(tmp_path).name == "hpc_ckpt_1.ckpt"


def test_archives_that_are_no_checkpoints_are_told_apart(tmp_path):
    path = tmp_path / "some.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("words.txt", "no tensors")
    assert damage(path).startswith("torch cannot load it: ")
    # weights_only=True reads no classes
    torch.save({"global_step": 1, "path": tmp_path}, path)
    assert damage(path).startswith("torch cannot load it: ")
    torch.save([1], path)
    assert damage(path) == "it is no checkpoint of a training run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.num_streams", "2"], "model.num_streams: got 2, expected "),
        (["--model.lr", "0.1"], "model.lr: got 0.1, expected "),
        (["--data.batch_size", "4"], "data: batch_size: got 4, expected 8 as in the checkpoint"),
        (["--trainer.accumulate_grad_batches", "2"], "data: accumulate_grad_batches: got 2, expected"),
    ],
)
def test_a_changed_run_is_refused_before_it_starts(train, capsys, words, message):
    run_dir = train(connection="mhc")
    before = (run_dir / "metrics.jsonl").read_text()
    with pytest.raises(SystemExit) as stopped:
        train("--ckpt_path", "last", "--trainer.max_epochs", "2", *words, connection="mhc")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert (run_dir / "metrics.jsonl").read_text() == before


def test_options_of_the_data_are_compared_but_for_those_that_change_nothing(tmp_path):
    first = FakeDataModule(batch_size=4, mixup=0.2, repeats=1)
    state = {**first.state_dict(), "options": {**first.state_dict()["options"], "num_images": 256}}
    FakeDataModule(total_batch_size=4, num_workers=2, mixup=0.2).load_state_dict(state)
    for options, message in (
        ({"mixup": 0.0}, "mixup: got 0.0, expected 0.2"),
        ({"mixup": 0.2, "repeats": 3}, "repeats: got 3, expected 1"),
    ):
        with pytest.raises(ValueError, match=f"data: {message} as in the checkpoint"):
            FakeDataModule(batch_size=4, **options).load_state_dict(state)


def test_the_saved_config_of_a_resumed_run_repeats_it_from_the_beginning(train):
    run_dir = train()
    train("--ckpt_path", "last", "--trainer.max_epochs", "2")
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["ckpt_path"] is None


@pytest.mark.parametrize("subcommand", ["validate", "test"])
def test_evaluation_refuses_what_training_refuses(train, tmp_path, capsys, subcommand):
    run_dir = train(connection="mhc")
    for words, message in (
        (["--ckpt_path", str(tmp_path / "none.ckpt")], "expected a checkpoint: there is no such file"),
        (["--ckpt_path", "last", "--model.num_streams", "2"], "model.num_streams: got 2, expected "),
    ):
        with pytest.raises(SystemExit) as stopped:
            train(*words, connection="mhc", subcommand=subcommand)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    train("--ckpt_path", "last", connection="mhc", subcommand=subcommand)
    # how the data was divided and ordered does not matter then
    train("--ckpt_path", "last", "--data.batch_size", "4", "--data.seed", "1", connection="mhc", subcommand=subcommand)
    checkpoint = load(run_dir / "checkpoints" / "last.ckpt")
    checkpoint["DigitsDataModule"]["class_names"] = list("abcdefghij")
    torch.save(checkpoint, tmp_path / "letters.ckpt")
    with pytest.raises(SystemExit) as stopped:
        train("--ckpt_path", str(tmp_path / "letters.ckpt"), connection="mhc", subcommand=subcommand)
    assert stopped.value.code == 2
    assert "data: got the classes 0, 1, 2, 3, 4 and 5 more, expected" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train("--ckpt_path", "last", subcommand=subcommand, run_dir=run_dir.with_name("empty"))
    assert "expected a checkpoint in" in capsys.readouterr().err


def test_a_run_killed_behind_its_last_step_has_nothing_to_report_on(train, capsys):
    run_dir = train()
    (run_dir / "summary.json").unlink()
    capsys.readouterr()
    train("--ckpt_path", "last")
    said = f"no step was left to take, and {run_dir} has no summary.json; start over with --overwrite true"
    assert said in capsys.readouterr().out


def test_a_missing_or_broken_file_is_refused_and_no_checkpoint_yet_is_not(train, tmp_path, capsys):
    for content in (None, b"no checkpoint"):
        path = tmp_path / "some.ckpt"
        if content:
            path.write_bytes(content)
        with pytest.raises(SystemExit):
            train("--ckpt_path", str(path))
        assert f"ckpt_path: got {path}, expected a checkpoint" in capsys.readouterr().err
    train("--ckpt_path", "last")
    assert "no checkpoint yet: starting from the beginning" in capsys.readouterr().out
