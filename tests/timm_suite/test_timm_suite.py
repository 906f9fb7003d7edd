"""timm's own test-suite on the registered models, taken from the source distribution of the installed timm."""

import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm

from mhc_vision.layers import CONNECTIONS
from mhc_vision.models.architectures import EVAS, VISION_TRANSFORMERS

ALL = (*VISION_TRANSFORMERS, *EVAS)
# the smallest with each connection, every other small one with one; the slow test has all pairs
SMALL = [
    *(f"test_vit_{connection}" for connection in CONNECTIONS),
    "vit_tiny_patch16_224_mhc",
    "vit_small_patch32_224_shc",
    "vit_wee_patch16_reg1_gap_256_dhc",
    "vit_small_patch14_reg4_dinov2_mhc",
    "vit_tiny_patch16_dinov3_qkvb_mhc",
]


@pytest.fixture(scope="session")
def suite(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("timm")
    command = ["download", "--quiet", "--no-deps", "--no-binary", "timm", f"timm=={timm.__version__}"]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    if pip.returncode:
        reason = (pip.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"timm's source distribution cannot be downloaded: {reason}")
    with tarfile.open(next(folder.glob("timm-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"timm-{timm.__version__}"


def run(suite: Path, names: list[str], results: Path) -> Counter:
    """Outcomes of timm's tests of these models; those of each model are printed with the reasons of skips."""
    command = [sys.executable, "-m", "pytest", "-p", "registered_models_plugin", "-p", "no:cacheprovider", "-q"]
    command += ["-c", str(suite / "pyproject.toml"), "--rootdir", str(suite), str(suite / "tests" / "test_models.py")]
    command += ["--registered-models", ",".join(names), f"--junitxml={results}", "-W", "ignore"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert results.exists(), process.stdout + process.stderr
    outcomes: Counter = Counter()
    for case in ElementTree.parse(results).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None:
            outcomes[f"skipped: {skipped.get('message')}"] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            outcomes["failed"] += 1
        else:
            outcomes["passed"] += 1
    print(f"{', '.join(names)}: {dict(outcomes)}")
    assert outcomes["failed"] == 0, process.stdout
    return outcomes


def test_small_models_pass_timms_suite(suite, tmp_path):
    outcomes = run(suite, SMALL, tmp_path / "results.xml")
    # forward, backward, default_cfgs, intermediates (two tests), prune, fx (three tests), torchscript; without the
    # model whose input is too large
    assert outcomes["passed"] >= 10 * (len(SMALL) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_all_models_pass_timms_suite(suite, name, tmp_path):
    outcomes = run(suite, [f"{name}_{connection}" for connection in CONNECTIONS], tmp_path / "results.xml")
    # timm skips what is too large for a test, and leaves out the 7B model
    assert outcomes.total() or "_7b_" in name
