"""Process.perturb: x_t = alpha x0 + sigma noise, each sample at its own time, the noise made from (seed, id)
on stream 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.core.process import processes

KEYS = processes.names(kind="gaussian")


def made(key: str) -> Any:
    cls = processes.get(key)
    return cls(fd.processes.DiscreteVP()) if key == "zero-terminal-snr" else cls()


@pytest.mark.parametrize("key", KEYS)
def test_is_the_formula(key: str) -> None:
    process = made(key)
    x0 = torch.randn(5, 3, 2, dtype=torch.float64)
    t = np.linspace(process.t_min, process.t_max, 5)
    t[0] = process.t_zero
    c = torch.randn(5, 3, 2, dtype=torch.float64)
    pull = process.offset if process.const else (lambda t: 0.0)
    x_t, noise = process.perturb(x0, t, seeds=4, consts={process.const: c} if process.const else None)
    a, s, k = (
        torch.as_tensor(np.asarray(f(t), dtype=np.float64) * np.ones(5))[:, None, None]
        for f in (process.alpha, process.sigma, pull)
    )
    torch.testing.assert_close(x_t, a * x0 + k * c + s * noise, rtol=1e-14, atol=1e-14)
    assert torch.equal(noise, fd.noise.normal((5, 3, 2), 4, stream=2, dtype=torch.float64))
    assert torch.equal(x_t[0], a[0] * x0[0]), "no noise at the process's zero"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_alone_in_a_batch_and_on_both_backends(vp: Any, dtype: torch.dtype) -> None:
    x0, t = torch.randn(16, 7, dtype=torch.float64).to(dtype), torch.rand(16, dtype=torch.float64)
    many, noise = vp.perturb(x0, t, seeds=3)
    assert many.dtype == dtype and noise.dtype == dtype
    for i in (0, 9):
        one, xi = vp.perturb(x0[i : i + 1], float(t[i]), seeds=fd.Seeds(3, ids=[i]))
        assert torch.equal(one[0], many[i]) and torch.equal(xi[0], noise[i])
    turned = x0.t().contiguous().t()
    assert torch.equal(vp.perturb(turned, t, seeds=3)[0], many)
    from fastdiff.runtime.perturb import perturb

    assert torch.equal(perturb(vp, x0, t, seeds=3, backend="reference")[0], many)
    assert not torch.equal(perturb(vp, x0, t, seeds=3, draw=1)[1], noise)


def test_times_in_any_dress(vp: Any) -> None:
    x0 = torch.randn(3, 2)
    want = vp.perturb(x0, [0.5, 0.5, 0.5], seeds=0)[0]
    for t in (
        0.5,
        np.float32(0.5),
        torch.tensor(0.5),
        torch.full((3,), 0.5),
        np.full(3, 0.5),
        (0.5, 0.5, 0.5),
    ):
        assert torch.equal(vp.perturb(x0, t, seeds=0)[0], want)


def test_gradients_reach_x0(vp: Any) -> None:
    x0, t = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.rand(4, dtype=torch.float64)
    (g,) = torch.autograd.grad(vp.perturb(x0, t, seeds=0)[0].sum(), [x0])
    torch.testing.assert_close(
        g, torch.as_tensor(vp.alpha(t.numpy()))[:, None].expand(4, 3), rtol=1e-14, atol=0
    )
    assert torch.autograd.gradcheck(lambda x: vp.perturb(x, t, seeds=0)[0], (x0,))
    grads = torch.func.vmap(torch.func.grad(lambda x: vp.perturb(x, t, seeds=0)[0].pow(2).sum()))(
        x0.detach()[None]
    )
    assert grads.shape == (1, 4, 3)


def test_without_seeds_torchs_generator_decides(vp: Any) -> None:
    x0 = torch.zeros(2, 3)
    torch.manual_seed(1)
    a, b = vp.perturb(x0, 0.5)[1], vp.perturb(x0, 0.5)[1]
    torch.manual_seed(1)
    assert torch.equal(vp.perturb(x0, 0.5)[1], a) and not torch.equal(a, b)


@pytest.mark.parametrize("shape", [(0, 3), (2,), (1, 1), (2, 0)])
def test_odd_shapes(vp: Any, shape: tuple[int, ...]) -> None:
    x_t, noise = vp.perturb(torch.zeros(shape), 0.5, seeds=0)
    assert x_t.shape == noise.shape == shape


X0 = torch.zeros(2, 3)
WRONG: dict[str, tuple[Any, Any, dict[str, Any], type[Exception], str]] = {
    "ints": (X0.long(), 0.5, {}, TypeError, "x0"),
    "a list": ([1.0], 0.5, {}, TypeError, "x0"),
    "no axes": (X0[0, 0], 0.5, {}, TypeError, "x0"),
    "sparse": (X0.to_sparse(), 0.5, {}, TypeError, "x0"),
    "meta": (X0.to("meta"), 0.5, {}, ValueError, "x0"),
    "float8": (X0.to(torch.float8_e5m2), 0.5, {}, TypeError, "x0"),
    "too many times": (X0, [0.1, 0.2, 0.3], {}, ValueError, "t has shape"),
    "a column of times": (X0, [[0.1], [0.2]], {}, ValueError, "t has shape"),
    "above": (X0, 1.5, {}, ValueError, "t must lie"),
    "below": (X0, -0.1, {}, ValueError, "t must lie"),
    "NaN": (X0, float("nan"), {}, ValueError, "t must lie"),
    "a string": (X0, "abc", {}, TypeError, "t must be"),
    "complex": (X0, 1j, {}, TypeError, "t must be"),
    "None": (X0, None, {}, TypeError, "t must be"),
    "too few seeds": (X0, 0.5, {"seeds": [1]}, ValueError, "seeds"),
    "a float seed": (X0, 0.5, {"seeds": 0.5}, TypeError, "seeds"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_are_refused_by_name(vp: Any, name: str) -> None:
    x0, t, more, error, match = WRONG[name]
    with pytest.raises(error, match=match):
        vp.perturb(x0, t, **more)


def test_the_callers_tensors_are_left_alone(vp: Any) -> None:
    x0: Tensor = torch.randn(2, 3)
    kept = x0.clone()
    vp.perturb(x0, 0.5, seeds=0)
    assert torch.equal(x0, kept)
