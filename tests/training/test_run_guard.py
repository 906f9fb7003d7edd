"""A run directory holds one run, of one process at a time, and nothing that a killed process has left half written."""

import errno
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest
import torch

from mhc_vision.atomic_files import new_directory, replace_text, replaced_file
from mhc_vision.directory_lock import locked_directory
from mhc_vision.training.run_guard import RunDirectory


def steps(run_dir) -> list[int]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if "train/loss" in record]


def start_attempt(monkeypatch, number: int) -> None:
    """Sets what torchrun tells a process of an attempt."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(number))
    file = os.path.join(os.sep, "tmp", "torchelastic_1", "none_2", f"attempt_{number}", "0", "error.json")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", file)


def test_a_second_run_is_refused_and_may_replace_the_first(train, capsys):
    run_dir = train("--model.lr", "0.001")
    (run_dir / "notes.txt").write_text("mine")
    saved = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        train()
    assert stopped.value.code == 2
    words = capsys.readouterr().err.strip().splitlines()[-1]
    assert words.startswith(
        f"mhc-vision: error: trainer.default_root_dir: got {run_dir}, which holds a run (checkpoints/"
    )
    assert all(way in words for way in ("--trainer.default_root_dir", "--ckpt_path last", "--overwrite true"))
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == saved
    (run_dir / "checkpoints" / "epoch=3.ckpt").touch()
    # as a sharded model has it
    (run_dir / "checkpoints" / "epoch=4.ckpt" / "shards").mkdir(parents=True)
    train("--overwrite", "true", "--trainer.limit_train_batches", "2")
    assert steps(run_dir) == [0, 1]
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert not list((run_dir / "checkpoints").glob("epoch=*"))
    assert (run_dir / "notes.txt").read_text() == "mine"
    assert "overwrite" not in (run_dir / "config.yaml").read_text()


def test_a_run_that_goes_on_has_not_ended(train, monkeypatch):
    run_dir = train()

    def broken(module, batch, batch_idx):
        raise RuntimeError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr("mhc_vision.training.module.ClassificationModule.training_step", broken)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            train("--ckpt_path", "last", "--trainer.max_epochs", "2")
    assert not (run_dir / "summary.json").exists()
    train("--ckpt_path", "last", "--trainer.max_epochs", "2")
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == 6


@pytest.mark.parametrize("more", [[], ["--overwrite", "true"]], ids=["plain", "overwrite"])
def test_a_run_that_a_scheduler_starts_again_goes_on(train, monkeypatch, capsys, more):
    start_attempt(monkeypatch, 0)
    run_dir = train()
    start_attempt(monkeypatch, 1)
    train("--trainer.max_epochs", "2", *more)
    assert f"resuming from {run_dir / 'checkpoints' / 'last.ckpt'}" in capsys.readouterr().out
    assert steps(run_dir) == list(range(6))


def test_a_restart_of_a_refused_attempt_is_refused_alike(train, monkeypatch):
    run_dir = train()
    saved = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    for attempt in (0, 1):
        start_attempt(monkeypatch, attempt)
        with pytest.raises(SystemExit) as stopped:
            train("--trainer.max_epochs", "2")
        assert stopped.value.code == 2
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == saved
    # nor does one go on that was to take the old run's place, and died before its first step
    train("--overwrite", "true", "--trainer.limit_train_batches", "2")
    assert steps(run_dir) == [0, 1]


def test_an_evaluation_is_no_part_of_the_log(train):
    run_dir = train()
    saved = (run_dir / "metrics.jsonl").read_bytes()
    for subcommand in ("validate", "test"):
        train("--ckpt_path", "last", subcommand=subcommand)
    assert (run_dir / "metrics.jsonl").read_bytes() == saved


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_two_processes_cannot_train_in_one_directory(train, tmp_path, capsys):
    code = (
        "import sys, time; from pathlib import Path; from mhc_vision.directory_lock import locked_directory\n"
        "with locked_directory(Path(sys.argv[1]), 'out', 'a run is'): print('locked', flush=True); time.sleep(60)"
    )
    run_dir = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", code, str(run_dir)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(SystemExit) as stopped:
            train()
    finally:
        other.kill()
        other.wait()
    assert stopped.value.code == 2
    assert f"another run is at work in {run_dir} (process {other.pid} on " in capsys.readouterr().err
    # what a killed process held is free
    assert train() == run_dir


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_a_lock_that_cannot_be_opened_is_a_message(tmp_path):
    (tmp_path / ".lock").mkdir()
    words = r"^out: .*\.lock cannot be opened: Is a directory; remove it"
    with pytest.raises(ValueError, match=words), locked_directory(tmp_path, "out", "a run is"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_a_lock_file_that_nfs_says_is_gone_is_made_again(tmp_path, monkeypatch):
    import fcntl

    flock, asked = fcntl.flock, []

    def stale_once(handle, operation):
        asked.append(handle)
        if len(asked) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        flock(handle, operation)

    monkeypatch.setattr("fcntl.flock", stale_once)
    with locked_directory(tmp_path, "out", "a run is"):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(ValueError, match="a run is at work"), locked_directory(tmp_path, "out", "a run is"):
            pass


def test_a_run_that_begins_as_another_one_ends_keeps_their_folder(tmp_path, monkeypatch):
    rmdir = type(tmp_path).rmdir

    def late(folder):
        if folder.name == "runs":
            (folder / "other").mkdir()
        rmdir(folder)

    monkeypatch.setattr(type(tmp_path), "rmdir", late)
    with RunDirectory(tmp_path / "runs" / "one").locked():
        pass
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["other"]


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_data_workers_do_not_keep_the_lock(tmp_path):
    with locked_directory(tmp_path, "out", "a run is"):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        with locked_directory(tmp_path, "out", "a run is"):
            pass
    finally:
        worker.kill()
        worker.join()


def test_what_killed_processes_left_goes_and_what_is_being_written_stays(tmp_path):
    host = socket.gethostname().partition(".")[0]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder = tmp_path / "checkpoints"
    dead = [
        f".last.ckpt.{host}-{gone.pid}-abcdefgh.tmp",
        ".best.ckpt.another-machine-7-abcdefgh.tmp",
        ".last.ckpt.abcd1234",
    ]
    for name in dead:
        (folder / name).mkdir(parents=True)
        (folder / name / "last.ckpt").touch()
    (tmp_path / ".config.yaml.abcd1234").touch()
    alive = folder / f".last.ckpt.{host}-{os.getpid()}-abcdefgh.tmp"
    alive.mkdir()
    (folder / ".mine.tmpl").touch()
    with RunDirectory(tmp_path).locked():
        assert sorted(path.name for path in folder.iterdir()) == sorted([alive.name, ".mine.tmpl"])
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoints"]


def test_a_write_removes_what_a_killed_one_has_left_of_the_same_file(tmp_path):
    host = socket.gethostname().partition(".")[0]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".out.json.{host}-{gone.pid}-abcdefgh.tmp").mkdir()
    (tmp_path / f".other.{host}-{gone.pid}-abcdefgh.tmp").mkdir()
    replace_text(tmp_path / "out.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".other.{host}-{gone.pid}-abcdefgh.tmp", "out.json"]


def test_on_windows_no_process_is_sent_what_would_be_ctrl_c_there(tmp_path, monkeypatch):
    host = socket.gethostname().partition(".")[0]
    other = tmp_path / f".out.json.{host}-7-abcdefgh.tmp"
    other.mkdir()
    sent = []
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    monkeypatch.setattr(sys, "platform", "win32")
    replace_text(tmp_path / "out.json", "{}")
    assert not sent
    assert other.exists()


def test_content_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    done: list[tuple[str, str]] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename
    names = {}
    opened = os.open

    def open_noted(path, *args, **kwargs):
        handle = opened(path, *args, **kwargs)
        names[handle] = os.path.basename(path)
        return handle

    monkeypatch.setattr(os, "open", open_noted)
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(("sync", names[handle])), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append(("name", paths[1].name)), replace(*paths)))
    monkeypatch.setattr(os, "rename", lambda *paths: (done.append(("name", paths[1].name)), rename(*paths)))
    with replaced_file(tmp_path / "file") as temporary:
        temporary.write_text("content")
    assert done == [("sync", "file"), ("name", "file"), ("sync", tmp_path.name)]
    done.clear()
    with new_directory(tmp_path / "folder") as temporary:
        (temporary / "inner").write_text("content")
    assert [done[0], *done[2:]] == [("sync", "inner"), ("name", "folder"), ("sync", tmp_path.name)]
