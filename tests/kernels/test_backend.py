import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from mhc_vision import kernels
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


@pytest.fixture
def described(monkeypatch) -> Callable[..., str]:
    """What the file that chooses says when it is imported in this environment."""

    def run(backend: str, **environment: str) -> str:
        for name, value in {"MHC_VISION_BACKEND": backend, "TRITON_INTERPRET": "0", **environment}.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(kernels.backend.__file__)["describe"]()

    return run


def test_environment_variable(described):
    assert "requested 'torch'" in described("torch")
    with pytest.raises(ValueError, match="MHC_VISION_BACKEND: got 'tritn', expected one of"):
        described("tritn")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_says_why_it_cannot_run(described, monkeypatch):
    refused = "MHC_VISION_BACKEND: got 'triton', expected 'torch' or 'auto': "
    with pytest.raises(ValueError, match=f"{refused}there is no GPU"):
        described("triton")
    assert "requested 'triton', running 'triton' on GPUs" in described("triton", TRITON_INTERPRET="1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"{refused}the package triton is not installed"):
        described("triton")


def test_import_needs_no_triton():
    code = "import sys; sys.modules['triton'] = None; import mhc_vision; print(mhc_vision.kernels.describe())"
    environment = {**os.environ, "MHC_VISION_BACKEND": "auto", "TRITON_INTERPRET": "0"}
    assert "requested 'auto'" in subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
