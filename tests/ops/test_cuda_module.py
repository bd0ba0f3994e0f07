"""fastdiff._cuda loads and refuses what it must without a device; what it computes is in test_gpu.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import fastdiff
from fastdiff.noise import resolve

_cuda = pytest.importorskip("fastdiff._cuda", reason="built without a CUDA compiler")
X, A = torch.ones(4, 8), torch.ones(1, 1)


def test_loads_where_no_device_is():
    code = "import torch, fastdiff, fastdiff._cuda as m; print(m.__version__, m.archs)"
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == fastdiff.__version__ == _cuda.__version__


def test_counts_devices():
    number, why = _cuda.device_count()
    assert (number > 0) == (why == "")
    assert number >= torch.cuda.device_count()


def test_cpu_tensors_are_refused():
    with pytest.raises(ValueError, match=r"linear_step: out\[0\] is on cpu but the call runs on cuda$"):
        _cuda.linear_step_([X], A, None, None, [], [], [X.clone()])
    with pytest.raises(ValueError, match=r"fill: out is on cpu but the call runs on cuda$"):
        _cuda.fill_(X.clone(), resolve(0, 4), 0, 0, "normal")


def test_tensors_without_memory_are_refused():
    y = torch.empty(4, 8, device="meta")
    with pytest.raises(ValueError, match=r"linear_step: out\[0\]"):
        _cuda.linear_step_([y], A, None, None, [], [], [y])
    with pytest.raises(ValueError, match="fill: out is .*int; need a torch.Tensor"):
        _cuda.fill_(3, resolve(0, 4), 0, 0, "normal")


def test_no_cuda_library_is_linked():
    if not sys.platform.startswith("linux"):
        pytest.skip("ldd")
    linked = subprocess.run(["ldd", _cuda.__file__], capture_output=True, text=True).stdout
    assert "libc.so" in linked
    assert "libcuda" not in linked and "torch" not in linked
