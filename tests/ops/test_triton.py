"""The Triton twins without a GPU: interpreted in a process of their own, and compiled ahead of time."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).resolve().parent


def test_interpreted_twins():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--no-header",
        "-p",
        "no:cacheprovider",
        str(HERE / "interpreted.py"),
    ]
    run = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


@pytest.fixture(scope="module")
def tool():
    path = HERE.parents[1] / "tools" / "check_triton.py"
    if not path.exists():
        pytest.skip("tools/ is not here")
    spec = importlib.util.spec_from_file_location("check_triton", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["step fp32 3 -> 2, noise", "step bf16 3 -> 2", "fill normal fp16"])
def test_compiled_twins_have_wide_accesses_and_no_fma(name, tool):
    """tools/check_triton.py looks at every variant; three stand for them here."""
    assert tool.faults(tool.compiled(dict(tool.variants())[name], 90)) == []


def test_the_check_sees_what_it_looks_for(tool):
    """With Triton's default options the noise is contracted; unaligned pointers cost the wide accesses."""
    kernel, signature, constants, _ = tool.step(("fp32",) * 3, "fp32", 2, noise=1)
    ptx = tool.compiled((kernel, signature, constants, []), 90, {"enable_fp_fusion": True})
    assert tool.faults(ptx) == ["fused multiply-add", "no 128-bit load", "no 128-bit store"]
