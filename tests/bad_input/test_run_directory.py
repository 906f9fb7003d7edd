"""Bad run directories, checkpoints, places to write to and texts: each is refused, or shown as it is, in words."""

import os
import zipfile
from functools import wraps
from pathlib import Path

import pytest
import torch

from mhc_vision.atomic_files import check_writable, check_writable_directory, new_directory, replace_text, replaced_file
from mhc_vision.cli import main
from mhc_vision.data import DigitsDataModule
from mhc_vision.directory_lock import LOCK_FILE, locked_directory
from mhc_vision.report.markdown import code_block, code_span, inline_markdown
from mhc_vision.report.pages import Code, Figure, Heading, Paragraph, Table, to_html, to_markdown
from mhc_vision.training.checkpoint import AtomicCheckpointIO
from mhc_vision.training.resume import resume_path
from mhc_vision.training.run_guard import BeginRun, RunDirectory

CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


def write(run_dir: Path, *names: str) -> Path:
    """Files as a run leaves them; what ends in `/` is a folder, `->` links to what there is not."""
    for name in names:
        path = run_dir / name.removesuffix("->")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        elif name.endswith("->"):
            path.symlink_to(run_dir / "nowhere")
        elif name.endswith(".ckpt"):
            torch.save({"global_step": 3}, path)
        else:
            path.write_text("{}\n")
    return run_dir


@pytest.fixture
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)


WAYS_OUT = (
    "give another --trainer.default_root_dir, go on with --ckpt_path last, or replace the run with --overwrite true"
)
HELD = {
    "last-checkpoint": (["checkpoints/last.ckpt"], "holds a run (checkpoints/last.ckpt), expected a new directory"),
    "any-checkpoint": (["checkpoints/epoch=3.ckpt"], "holds a run (checkpoints/epoch=3.ckpt)"),
    "requeued": (["hpc_ckpt_1.ckpt"], "holds a run (hpc_ckpt_1.ckpt)"),
    "log": (["metrics.jsonl"], "holds a run (metrics.jsonl)"),
    "summary": (["summary.json"], "holds a run (summary.json)"),
    "probe": (["probe.json"], "holds a run (probe.json)"),
    "all": (["checkpoints/best.ckpt", "metrics.jsonl", "summary.json"], "(checkpoints/best.ckpt, metrics.jsonl, summ"),
    "log-and-config": (["config.yaml", "metrics.jsonl"], WAYS_OUT),
}


@pytest.mark.usefixtures("no_scheduler")
@pytest.mark.parametrize("row", HELD)
def test_a_directory_that_holds_a_run_is_refused_unless_it_goes_on_or_is_replaced(tmp_path, row):
    names, words = HELD[row]
    directory = RunDirectory(write(tmp_path, *names))
    with pytest.raises(ValueError, match=r"^trainer\.") as refused:
        directory.check(resumed=False, overwrite=False)
    assert f"trainer.default_root_dir: got {tmp_path}, which " in str(refused.value)
    assert words in str(refused.value)
    directory.check(resumed=True, overwrite=False)
    directory.check(resumed=False, overwrite=True)
    directory.clear()
    directory.check(resumed=False, overwrite=False)


@pytest.mark.usefixtures("no_scheduler")
@pytest.mark.parametrize(
    "names",
    [[], ["config.yaml"], ["cell.json", "train.log"], [".lock"], ["notes.txt", "checkpoints/"], ["figures/other.png"]],
    ids=lambda names: "+".join(names) or "empty",
)
def test_a_directory_without_a_run_is_not_refused_and_what_is_not_ours_stays(tmp_path, names):
    directory = RunDirectory(write(tmp_path, *names))
    directory.check(resumed=False, overwrite=False)
    directory.clear()
    assert all((tmp_path / name).exists() for name in names if name != "config.yaml")


PLACES = {
    "file": (["run"], "run", "run is no directory"),
    "below-a-file": (["run"], "run/deep/er", "run is no directory"),
    "checkpoints-file": (["run/checkpoints"], "run", "checkpoints is no directory"),
    "dead-link": (["run->"], "run", "run is no directory"),
    "below-a-dead-link": (["run->"], "run/deep", "run is no directory"),
    "name-too-long": ([], "n" * 300, "n" * 300 + " cannot be written to: "),
    "no-local-path": ([], "s3://bucket/run", "got 's3://bucket/run', expected a local directory"),
    "none": ([], None, "got None, expected a local directory"),
    "empty": ([], "", "got '', expected a local directory"),
}


@pytest.mark.usefixtures("no_scheduler")
@pytest.mark.parametrize("row", PLACES)
def test_where_no_run_can_be_written(tmp_path, monkeypatch, row):
    names, path, words = PLACES[row]
    monkeypatch.chdir(write(tmp_path, *names))
    with pytest.raises(ValueError, match=r"^trainer\.default_root_dir: ") as refused:
        RunDirectory(path).check(resumed=False, overwrite=False)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (28, "No space left on device"),
        (30, "Read-only file system"),
        (122, "Disk quota exceeded"),
        (13, "Permission denied"),
    ],
    ids=["full", "read-only", "quota", "forbidden"],
)
def test_a_disk_that_takes_nothing_is_found_before_the_work(tmp_path, monkeypatch, number, words):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mhc_vision.atomic_files.tempfile.TemporaryFile", refuse)
    for check, path in ((check_writable_directory, tmp_path / "new"), (check_writable, tmp_path / "out.json")):
        with pytest.raises(ValueError, match=f"^out: .* cannot be written to: .*: {words}"):
            check(path, "out")
    assert not list(tmp_path.iterdir())


def torchrun(agent: str, attempt: int) -> dict[str, str]:
    """What an agent of torchrun tells its first process."""
    file = os.path.join(os.sep, "tmp", "torchelastic_1", f"none_{agent}", f"attempt_{attempt}", "0", "error.json")
    return {"TORCHELASTIC_RESTART_COUNT": str(attempt), "TORCHELASTIC_ERROR_FILE": file}


RESTARTS = {
    "torchrun": (torchrun("a", 1), True),
    "torchrun-first": (torchrun("a", 0), False),
    "torchrun-of-another-job": (torchrun("b", 1), False),
    "slurm": ({"SLURM_RESTART_COUNT": "2", "SLURM_JOB_ID": "7"}, True),
    "slurm-first": ({"SLURM_RESTART_COUNT": "", "SLURM_JOB_ID": "7"}, False),
    "slurm-of-another-job": ({"SLURM_RESTART_COUNT": "1", "SLURM_JOB_ID": "8"}, False),
    "torchrun-in-slurm": ({**torchrun("b", 0), "SLURM_RESTART_COUNT": "1", "SLURM_JOB_ID": "7"}, True),
    "none": ({}, False),
}


@pytest.mark.usefixtures("no_scheduler")
@pytest.mark.parametrize("row", RESTARTS)
def test_what_a_scheduler_starts_again_goes_on(tmp_path, monkeypatch, row):
    variables, restarted = RESTARTS[row]
    with monkeypatch.context() as first:
        for name, value in {**torchrun("a", 0), "SLURM_JOB_ID": "7"}.items():
            first.setenv(name, value)
        BeginRun(RunDirectory(tmp_path), overwrite=False).begin()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    directory = RunDirectory(tmp_path)
    assert directory.is_restarted() is restarted
    # a job that has trained nothing here is no job of this run
    directory.clear()
    assert not directory.is_restarted()
    assert not list(tmp_path.iterdir())


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("words.txt", "no tensors")


def halve(path: Path) -> None:
    torch.save({"global_step": 1, "weight": torch.zeros(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


CHECKPOINTS = {
    "missing": (lambda path: None, "there is no such file"),
    "folder": (lambda path: path.mkdir(), "it is a directory without meta.pt"),
    "empty": (lambda path: path.touch(), "it is cut short, or no checkpoint"),
    "text": (lambda path: path.write_text("weights"), "it is cut short, or no checkpoint"),
    "half": (halve, "it is cut short, or no checkpoint"),
    "other-archive": (archive, "torch cannot load it"),
    "list": (lambda path: torch.save([1, 2], path), "it is no checkpoint of a training run"),
    "weights-only": (
        lambda path: torch.save({"weight": torch.zeros(2)}, path),
        "it is no checkpoint of a training run",
    ),
    "code": (lambda path: torch.save({"global_step": 1, "path": path}, path), "torch cannot load it"),
    "dead-link": (lambda path: path.symlink_to("nowhere"), "there is no such file"),
}


@pytest.mark.filterwarnings("ignore:.* is left out")
@pytest.mark.parametrize("row", CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_gone_on_from(tmp_path, row):
    make, words = CHECKPOINTS[row]
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    make(path)
    with pytest.raises(ValueError, match=f"^ckpt_path: got {path}, expected a checkpoint: {words}"):
        resume_path(path, tmp_path)
    if row == "missing":
        assert resume_path("last", tmp_path) is None
        return
    # the only one there is: a fresh start over it would lose what may still be mended
    with pytest.raises(ValueError, match=rf"^ckpt_path: got 'last', .*start over with --overwrite true .*{words}"):
        resume_path("last", tmp_path)
    write(tmp_path, "hpc_ckpt_2.ckpt")
    assert resume_path("last", tmp_path).name == "hpc_ckpt_2.ckpt"


@pytest.mark.usefixtures("no_scheduler")
@pytest.mark.parametrize(
    ("names", "words", "message"),
    [
        (["checkpoints/last.ckpt"], [], "which holds a run (checkpoints/last.ckpt)"),
        (["metrics.jsonl"], [], WAYS_OUT),
        ([], ["--ckpt_path", "last", "--overwrite", "true"], "overwrite: got true with a ckpt_path"),
        (["checkpoints"], [], "checkpoints is no directory"),
        ([], ["--trainer.default_root_dir", "s3://run"], "trainer.default_root_dir: got 's3://run'"),
        ([], ["--trainer.default_root_dir", "null"], "trainer.default_root_dir: got None"),
        ([], ["--overwrite", "perhaps"], "overwrite"),
    ],
    ids=["run", "log", "both", "file", "remote", "null", "word"],
)
def test_the_command_line_refuses_before_any_work(tmp_path, capsys, monkeypatch, names, words, message):
    @wraps(DigitsDataModule.__init__)
    def build(*args, **kwargs):
        raise AssertionError("data were read")

    monkeypatch.setattr(DigitsDataModule, "__init__", build)
    run_dir = write(tmp_path / "run", *names)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(run_dir), *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_a_directory_where_another_process_trains_is_refused(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    with directory.locked():
        words = rf"^trainer.default_root_dir: another run is at work in {tmp_path / 'run'} \(process {os.getpid()} on "
        with pytest.raises(ValueError, match=words), directory.locked():
            pass
        assert (tmp_path / "run" / LOCK_FILE).exists()
    # nothing was written
    assert not (tmp_path / "run").exists()
    write(tmp_path / "run", "config.yaml")
    with directory.locked(), locked_directory(tmp_path / "other", "out", "another run is"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


WRITERS = {
    "text": lambda path: replace_text(path, "new"),
    "bad-text": lambda path: replace_text(path, "\ud800"),
    "checkpoint": lambda path: AtomicCheckpointIO().save_checkpoint({"step": 1}, path),
}


@pytest.mark.parametrize(
    ("writer", "error"),
    [("text", OSError), ("checkpoint", OSError)],
)
@pytest.mark.parametrize("place", ["file/out", "folder", "link/out"])
def test_a_bad_place_is_an_error_and_leaves_nothing(tmp_path, place, writer, error):
    write(tmp_path, "file", "folder/kept", "link->")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        WRITERS[writer](tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_while_writing_leaves_what_was_there(tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        WRITERS["bad-text"](tmp_path / "out")
    with pytest.raises(FileNotFoundError), replaced_file(tmp_path / "out"):
        pass
    writing = new_directory(tmp_path / "new")
    (writing.__enter__() / "half").touch()
    # it goes on to whoever waits for it
    assert not writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "old"


TEXTS = {
    "pipe": ("a|b", r"a\|b"),
    "pipe-in-code": ("`a|b`", "`a|b`"),
    "lines": ("a\nb\r\n c\u2028d", "a b c d"),
    "html": ("<script>alert(1)</script>", r"\<script>alert(1)\</script>"),
    "comment": ("<!-- a", r"\<!-- a"),
    "less-than": ("1 < 2", "1 < 2"),
    "entity": ("&lt;b&gt; & c", r"\&lt;b\&gt; & c"),
    "link": ("[a](http://b)", r"[a\](http://b)"),
    "image": ("![a](b.png)", r"![a\](b.png)"),
    "reference": ("[a]: b", r"[a\]: b"),
    "interval": ("+0.5 [-0.1, +1.1]", "+0.5 [-0.1, +1.1]"),
    "emphasis": ("*a* **b** _c_ __d__", r"\*a\* \*\*b\*\* \_c\_ \_\_d\_\_"),
    "snake-case": ("extra_percent", "extra_percent"),
    "strike": ("~~a~~", r"\~\~a\~\~"),
    "code": ("see `x_y_ <b>`", "see `x_y_ <b>`"),
    "open-code": ("a ` b", r"a \` b"),
    "backslash": (r"C:\run\|", "C:" + r"\\run\\\|"),
    "colours": ("\x1b[31mred\x1b[0m\x07", "red"),
    "metric": ("val/top1", "val/top1"),
}


@pytest.mark.parametrize("row", TEXTS)
def test_text_is_never_markup(tmp_path, row):
    text, expected = TEXTS[row]
    assert inline_markdown(text) == expected
    report = to_markdown([Heading(1, text), Paragraph(text), Table([{text: text}])], tmp_path)
    lines = report.splitlines()
    assert lines[0] == f"# {expected}"
    assert lines[2] == expected
    assert len(lines) == 7
    page = to_html([Heading(1, text), Paragraph(text), Table([{text: text}]), Code(text)])
    assert "<script>alert" not in page
    assert "\x1b" not in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", "`a`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("a\nb", "`a b`"), ("<b>|", "`<b>|`")],
)
def test_code_in_a_line_ends_where_it_should(text, expected):
    assert code_span(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# a\n<b>", "    # a\n    <b>"),
        ("a\rb", "    a\n    b"),
        ("```\n\n- a", "    ```\n    \n    - a"),
        ("\x1b[1ma", "    a"),
    ],
)
def test_code_of_several_lines_stays_code(text, expected):
    assert code_block(text) == expected


def test_a_figure_in_a_folder_of_any_name_is_found(tmp_path):
    figure = Figure(tmp_path / "a (1)" / "b c.png", tmp_path / "b.svg", "a](b")
    assert to_markdown([figure], tmp_path) == "![a\\](b](a%20%281%29/b%20c.png)\n"
