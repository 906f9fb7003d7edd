import os
import subprocess
import sys

import pytest
import torch

from mhc_vision.kernels import describe, requested_backend, use_backend
from mhc_vision.kernels.backend import runs_triton


def test_override_ends_with_its_block():
    assert requested_backend() == "auto"
    with use_backend("torch"):
        assert requested_backend() == "torch"
        assert "torch" in describe()
        with use_backend("auto"):
            assert requested_backend() == "auto"
        assert requested_backend() == "torch"
    assert requested_backend() == "auto"


def test_override_ends_with_an_exception():
    with pytest.raises(KeyError), use_backend("torch"):
        raise KeyError
    assert requested_backend() == "auto"


def test_unknown_backends_are_named():
    with pytest.raises(ValueError, match="expected one of 'auto', 'torch', 'triton'"), use_backend("cuda"):
        pass


def test_auto_takes_plain_pytorch_on_a_cpu():
    with use_backend("auto"):
        assert not runs_triton(torch.ones(2, 4, 16))
        assert "'torch'" in describe()


def requested_with_environment(backend: str, code: str = "pass", **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"{code}; import mhc_vision; print(mhc_vision.kernels.describe())"],
        env={**os.environ, "MHC_VISION_BACKEND": backend, "TRITON_INTERPRET": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_environment_variable():
    assert "requested 'torch'" in requested_with_environment("torch").stdout
    misspelt = requested_with_environment("tritn")
    assert misspelt.returncode != 0
    assert "ValueError: MHC_VISION_BACKEND: got 'tritn', expected one of" in misspelt.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_says_why_it_cannot_run():
    without_gpu = requested_with_environment("triton")
    assert (
        "ValueError: MHC_VISION_BACKEND: got 'triton', expected 'torch' or 'auto': there is no GPU"
        in without_gpu.stderr
    )
    hidden = "import sys; sys.modules['triton'] = None; import importlib.util as u; u.find_spec = lambda name: None"
    without_triton = requested_with_environment("triton", hidden)
    assert "expected 'torch' or 'auto': the package triton is not installed" in without_triton.stderr
    interpreted = requested_with_environment("triton", TRITON_INTERPRET="1")
    assert "requested 'triton', running 'triton' on GPUs" in interpreted.stdout


def test_import_needs_no_triton():
    code = "import sys; sys.modules['triton'] = None"
    assert "requested 'auto'" in requested_with_environment("auto", code).stdout
