import importlib.util
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mhc_vision import kernels
from mhc_vision.kernels import backend, describe, requested_backend, use_backend
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_interpreter_that_does_not_fit_numpy_is_named(described, monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    monkeypatch.setattr("numpy.__version__", "2.4.6")
    with pytest.raises(ValueError, match=r"the interpreter of Triton 3\.6\.0 needs numpy below 2\.4, here is 2\.4\.6"):
        described("triton", TRITON_INTERPRET="1")
    monkeypatch.setattr("numpy.__version__", "2.3.5")
    described("triton", TRITON_INTERPRET="1")


def test_import_needs_no_triton():
    code = "import sys; sys.modules['triton'] = None; import mhc_vision; print(mhc_vision.kernels.describe())"
    environment = {**os.environ, "MHC_VISION_BACKEND": "auto", "TRITON_INTERPRET": "0"}
    assert "requested 'auto'" in subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)


@pytest.fixture
def gpu(monkeypatch) -> Callable[..., Tensor]:
    """A tensor on a GPU of this architecture, which need not be there."""

    def make(architecture: str) -> Tensor:
        number = architecture.removeprefix("sm_")
        properties = SimpleNamespace(major=number[:-1], minor=number[-1:], gcnArchName=f"{architecture}:sramecc+")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.version, "hip", "7.0" if architecture.startswith("gfx") else None)
        backend._warn_once.cache_clear()
        with FakeTensorMode():
            return torch.empty(2, 4, 16, device="cuda:0")

    return make


@pytest.mark.parametrize("architecture", backend.ARCHITECTURES)
def test_auto_runs_the_kernels_on_gpus_that_they_compile_for(architecture, gpu):
    assert runs_triton(gpu(architecture), dim=16)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_130", "gfx90a", "gfx1100"])
def test_auto_says_once_that_a_gpu_is_not_on_the_list(architecture, gpu, monkeypatch):
    tensor = gpu(architecture)
    with pytest.warns(UserWarning, match=rf"got a GPU of architecture {architecture}, expected one of sm_80, .*plain"):
        assert not runs_triton(tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not runs_triton(tensor)
    refused = f"streams: got a GPU of architecture {architecture}, expected one of .* for the backend 'triton'"
    monkeypatch.setattr(backend, "_requested", "triton")
    with pytest.raises(ValueError, match=refused):
        runs_triton(tensor)


def test_the_list_is_a_constant_of_a_compiled_graph(gpu):
    gpu("sm_75")

    def choose(x: Tensor) -> Tensor:
        return x + 1 if backend._runs_on_gpu(0) else x - 1

    with pytest.warns(UserWarning, match="plain PyTorch"):
        assert torch.compile(choose, backend="eager", fullgraph=True)(torch.ones(2)).tolist() == [0.0, 0.0]
