import json

import pytest

from mhc_vision.report.run_report import write_run_report

SUMMARY = {
    "name": "test_vit",
    "connection": "mhc",
    "num_streams": 4,
    "metrics": {"val/top1": 0.5},
    "params": {"total": 371240, "connections": 74052, "extra_percent": 24.9},
    "steps": 2,
    "epochs": 1,
    "wall_time_s": 1.5,
    "versions": {"torch": "2.11.0"},
    "command": ["mhc-vision", "train", "fit", "--data.root", "my images"],
}


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    records = [{"step": step, "train/loss": 2.0 - step} for step in range(2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def test_report_says_what_the_records_say(run_dir):
    text = write_run_report(run_dir).read_text()
    assert text.startswith("# test_vit, mhc with 4 streams")
    assert "| val/top1 |    50.00 % |" in text
    assert "371,240" in text
    assert "--data.root 'my images'" in text
    assert "](figures/loss.png)" in text
    assert (run_dir / "figures" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_too_short_to_log_a_loss_has_a_report_without_figure(run_dir):
    (run_dir / "metrics.jsonl").write_text('{"step": 1, "val/top1": 0.5}\n')
    assert "No figure: no training loss was logged" in write_run_report(run_dir).read_text()
    assert not (run_dir / "figures").exists()


@pytest.mark.parametrize("missing", ["summary.json", "metrics.jsonl"])
def test_missing_records_are_named(run_dir, missing):
    (run_dir / missing).unlink()
    with pytest.raises(ValueError, match=f"without {missing}"):
        write_run_report(run_dir)
    assert not (run_dir / "report.md").exists()


def test_losses_are_in_one_figure_and_accuracies_in_percent_in_another(run_dir):
    records = [{"step": step, "val/loss": 1.0, "val/top1": 0.25 * step, "val/top5": 0.9} for step in (1, 2)]
    with open(run_dir / "metrics.jsonl", "a") as log:
        log.writelines(json.dumps(record) + "\n" for record in records)
    text = write_run_report(run_dir).read_text()
    assert "](figures/accuracy.png)" in text
    loss = (run_dir / "figures" / "loss.svg").read_text()
    assert "training" in loss
    assert "validation" in loss
    assert "accuracy on validation images (%)" in (run_dir / "figures" / "accuracy.svg").read_text()
    # no predictions were kept
    assert "## Classes" not in text
    assert "prefers-color-scheme" in (run_dir / "report.html").read_text()


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0.0934, 0.004, "+0.0934 ± 0.0040 (standard error over images): the maps contribute."),
        (0.0004, 0.0003, "a plain model at a higher price: it loses nothing when its maps are set back."),
        ("nan", "nan", "+nan ± nan (standard error over images): not finite."),
    ],
)
def test_what_the_connections_contribute_is_said_in_words(run_dir, value, error, words):
    summary = json.loads((run_dir / "summary.json").read_text())
    assert "maps set back" not in write_run_report(run_dir).read_text()
    summary["metrics"] |= {"val/contribution": value, "val/contribution_se": error}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    assert words in write_run_report(run_dir).read_text()
