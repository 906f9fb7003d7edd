"""SIGTERM and SIGINT save what was learned and stop, wherever they come, and end the program with their own status."""

import json
import signal
import sys

import pytest
import torch

from mhc_vision.cli import main
from mhc_vision.data import DigitsDataModule
from mhc_vision.termination import Terminated, terminable
from mhc_vision.training.module import ClassificationModule

SIGNALS = [signal.SIGTERM, signal.SIGINT]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test does, what it found is handled as before."""
    inherited = {signum: signal.getsignal(signum) for signum in SIGNALS}
    # a shell's background jobs ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    after = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum, handler in inherited.items():
        signal.signal(signum, handler)
    assert after == before


def raise_in(monkeypatch, where, name, signum, times=1, when=lambda *_: True):
    """Sends a signal in the middle of a method, at its first call for which `when` is true."""
    method = getattr(where, name)
    left = [times]

    def interrupted(*args, **kwargs):
        while left[0] and when(*args):
            left[0] -= 1
            signal.raise_signal(signum)
        return method(*args, **kwargs)

    monkeypatch.setattr(where, name, interrupted)


def stopped(run, *args, **kwargs) -> int:
    with pytest.raises(SystemExit) as stop:
        run(*args, **kwargs)
    return stop.value.code


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_step_is_finished_and_saved(train, monkeypatch, tmp_path, capsys, signum):
    raise_in(
        monkeypatch, ClassificationModule, "training_step", signum, when=lambda module, *_: module.global_step == 1
    )
    words = ["--trainer.log_every_n_steps", "1", "--trainer.max_epochs", "2"]
    assert stopped(train, *words) == 128 + signum
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    word = "terminated" if signum == signal.SIGTERM else "interrupted"
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line == f"mhc-vision: {word} at step 2: resume with --ckpt_path {path}"
    assert torch.load(path, weights_only=True)["global_step"] == 2
    assert not (tmp_path / "run" / "summary.json").exists()
    train(*words, "--ckpt_path", "last")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # the step before the stop was logged
    assert [record["step"] for record in records if "train/loss" in record] == list(range(6))


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_second_signal_stops_at_once(train, monkeypatch, tmp_path, capsys, signum):
    raise_in(monkeypatch, ClassificationModule, "training_step", signum, times=2)
    assert stopped(train) == 128 + signum
    assert "a second signal stops at once" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_a_validation_is_finished_and_what_it_is_of_is_saved(train, monkeypatch, tmp_path):
    raise_in(
        *(monkeypatch, ClassificationModule, "validation_step", signal.SIGTERM),
        when=lambda module, *_: not module.trainer.sanity_checking,
    )
    assert stopped(train, "--trainer.max_epochs", "2") == 143
    run_dir = tmp_path / "run"
    # validated once, and no batch of the next epoch counts as trained on before it is
    assert [("val/top1" in line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()].count(True) == 1
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 3


def test_a_signal_in_the_last_step_lets_the_run_end(train, monkeypatch):
    raise_in(
        *(monkeypatch, ClassificationModule, "training_step", signal.SIGTERM),
        when=lambda module, *_: module.global_step == 2,
    )
    assert json.loads((train() / "summary.json").read_text())["steps"] == 3


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
@pytest.mark.parametrize(
    ("where", "name"),
    [
        (DigitsDataModule, "__init__"),
        (ClassificationModule, "setup"),
        (ClassificationModule, "configure_optimizers"),
        (ClassificationModule, "validation_step"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_before_the_first_step_it_stops_at_once_and_leaves_no_run(train, monkeypatch, tmp_path, where, name, signum):
    raise_in(monkeypatch, where, name, signum)
    assert stopped(train) == 128 + signum
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
@pytest.mark.parametrize("words", [[], ["--trainer.enable_checkpointing", "false"]], ids=["saved", "not-saved"])
def test_lightning_does_not_end_it_with_status_0(train, monkeypatch, signum, words):
    raise_in(monkeypatch, ClassificationModule, "training_step", signum)
    assert stopped(train, *words) == 128 + signum


def test_a_trial_of_the_code_leaves_the_checkpoint_of_a_run_as_it_is(train, monkeypatch):
    last = train() / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    raise_in(monkeypatch, ClassificationModule, "training_step", signal.SIGINT)
    assert stopped(train, "--trainer.fast_dev_run", "5") == 130
    assert last.read_bytes() == before


@pytest.mark.parametrize("subcommand", ["validate", "test"])
def test_an_evaluation_of_a_run_stops_at_once(train, monkeypatch, subcommand):
    name = {"validate": "validation_step", "test": "test_step"}[subcommand]
    raise_in(monkeypatch, ClassificationModule, name, signal.SIGTERM)
    assert stopped(train, subcommand=subcommand) == 143


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
@pytest.mark.parametrize(
    ("words", "function"),
    [
        (["evaluate", "test_vit", "IMAGES", "--json", "OUT"], "inference.evaluate_folder.evaluate_folder"),
        (["predict", "test_vit", "IMAGES", "--out", "OUT"], "inference.predict.predict_files"),
        (["embed", "test_vit", "IMAGES", "--out", "NPZ"], "inference.embed.embed_files"),
        (["analyze", "test_vit", "--out", "OUT"], "analysis.analyze_model.load_model"),
        (["export", "LAST", "OUT"], "inference.export_timm.export_checkpoint"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_other_commands_stop_with_nothing_half_written(monkeypatch, tmp_path, capsys, words, function, signum):
    def interrupted(*args, **kwargs):
        signal.raise_signal(signum)

    monkeypatch.setattr(f"mhc_vision.{function}", interrupted)
    (tmp_path / "images").mkdir()
    (tmp_path / "last.ckpt").touch()
    paths = {"IMAGES": str(tmp_path / "images"), "LAST": str(tmp_path / "last.ckpt"), "OUT": str(tmp_path / "out")}
    paths["NPZ"] = str(tmp_path / "out.npz")
    assert stopped(main, [paths.get(word, word) for word in words]) == 128 + signum
    word = "terminated" if signum == signal.SIGTERM else "interrupted"
    assert capsys.readouterr().err == f"mhc-vision: {word}\n"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["images", "last.ckpt"]


def test_sigterm_cleans_up_like_ctrl_c():
    with pytest.raises(KeyboardInterrupt) as stop, terminable():
        signal.raise_signal(signal.SIGTERM)
    assert isinstance(stop.value, Terminated)


@pytest.fixture
def slurm(monkeypatch):
    """The environment of a job of SLURM."""
    job = {"JOB_NAME": "mhc", "JOB_ID": "7", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


@pytest.mark.usefixtures("slurm")
def test_an_evaluation_of_given_weights_takes_none_of_a_requeued_run(train, monkeypatch):
    run_dir = train()
    (run_dir / "checkpoints" / "last.ckpt").rename(run_dir / "hpc_ckpt_1.ckpt")
    loaded = []
    monkeypatch.setattr(ClassificationModule, "on_load_checkpoint", lambda module, content: loaded.append(content))
    for subcommand in ("validate", "test"):
        train(subcommand=subcommand)
    assert not loaded
    train("--ckpt_path", "last", subcommand="test")
    assert len(loaded) == 1


@pytest.mark.usefixtures("slurm")
def test_slurm_requeues_a_run_that_then_goes_on(train, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.signal_connector.call", lambda words: asked.append(words))
    raise_in(
        *(monkeypatch, ClassificationModule, "training_step", signal.SIGUSR1),
        when=lambda module, *_: module.global_step == 1,
    )
    raise_in(
        *(monkeypatch, ClassificationModule, "training_step", signal.SIGTERM),
        when=lambda module, *_: module.global_step == 2,
    )
    words = ["--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"]
    assert stopped(train, *words) == 143
    assert asked == [["scontrol", "requeue", "7"]]
    run_dir = tmp_path / "run"
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in run_dir.rglob("*.ckpt")}
    assert steps.pop("best.ckpt", 3) == 3
    # what SIGTERM saved is further than what was requeued
    assert steps == {"hpc_ckpt_1.ckpt": 1, "last.ckpt": 3}
    train(*words)
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "train/loss" in record] == list(range(6))
