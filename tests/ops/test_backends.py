"""Which backends there are, and what a wrong installation says."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fastdiff import _C, ops
from fastdiff._version import __version__
from fastdiff.ops import _backends


def test_automatic_choice():
    assert _backends.automatic("cpu") == "cpu"
    assert _backends.automatic("meta") == _backends.automatic("mps") == "reference"
    assert _backends.choose("f", None, "cpu") == "cpu"
    assert _backends.choose("f", "reference", "cuda") == "reference"
    assert ops.backends("cpu")[0] == "cpu" and ops.backends("cpu")[-1] == "reference"


def test_cuda_tensors_prefer_the_compiled_module(monkeypatch):
    _backends.automatic.cache_clear()
    monkeypatch.setattr(_backends, "_cuda", SimpleNamespace())
    assert _backends.automatic("cuda") == "cuda"
    _backends.automatic.cache_clear()
    monkeypatch.setattr(_backends, "_cuda", None)
    monkeypatch.setattr(_backends, "_triton_installed", lambda: True)
    assert _backends.automatic("cuda") == "triton"
    _backends.automatic.cache_clear()
    monkeypatch.setattr(_backends, "_triton_installed", lambda: False)
    assert _backends.automatic("cuda") == "reference"
    _backends.automatic.cache_clear()


def test_a_module_of_another_version_is_refused():
    assert _C.__version__ == __version__
    old = SimpleNamespace(__name__="fastdiff._C", __version__="0.0.0", bind=lambda t: None)
    with pytest.raises(
        ImportError, match=f"_C was built for fastdiff 0.0.0, the Python files are {__version__}: reinstall"
    ):
        _backends._admit(old)  # type: ignore[arg-type]


def test_a_missing_module_says_what_to_do():
    code = "import sys; sys.modules['fastdiff._C'] = None\nimport torch\nimport fastdiff.ops"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert (
        "ImportError: fastdiff: the compiled module fastdiff._C is missing" in run.stderr
        and "pip install" in run.stderr
    )


def test_every_op_has_its_faces():
    """Registered at the keys that the ways of _library need."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for name in ("linear_step", "linear_step_", "normal", "uniform"):
        for key in ("CompositeExplicitAutograd", "Meta", "FuncTorchBatched"):
            assert has(f"fastdiff::{name}", key)
    for name in ("linear_step", "linear_step_"):
        assert has(f"fastdiff::{name}", "Autograd")
