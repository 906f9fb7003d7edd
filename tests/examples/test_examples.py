"""The examples run as they stand."""

import json
import re
import runpy
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_notebook_runs(tmp_path, monkeypatch):
    # a kernel of this interpreter, whatever is installed on the machine
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = tmp_path / "jupyter" / "kernels" / "of_this_test" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": argv, "display_name": "of this test", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="of_this_test", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "fine-tuned with mHC: " in said
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    assert (tmp_path / "runs" / "mhc" / "report.md").is_file()


def test_the_parts_train_with_a_plain_trainer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "train_with_lightning.py"))
    assert "test/top1" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["test_vit", "test_vit_mhc"])
def test_a_detector_learns(model, monkeypatch, capsys):
    small = ["--channels", "16", "--size", "64", "--batch-size", "2", "--steps", "8"]
    monkeypatch.setattr(sys, "argv", ["detection.py", "--model", model, *small])
    runpy.run_path(str(EXAMPLES / "detection.py"))
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 8
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
