"""Coefficients of one step by independent code: section 12b of the solver specification, 12 digits.

VP (beta 0.1 .. 20), nodes t = .9, .8, .65 -> .5; order of the columns: x, newest prediction, older one,
noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastdiff.core.math import adams_weights, exponential_integral, phi
from fastdiff.core.plan import plan
from fastdiff.core.process import processes
from fastdiff.core.solver import solvers
from fastdiff.testing.solvers import network_rows

VP = processes.get("vp")()
NODES = [0.9, 0.8, 0.65, 0.5]
H = VP.lam(0.5) - VP.lam(0.65)


def test_nodes() -> None:
    assert [VP.alpha(t) for t in NODES] == pytest.approx(
        [0.0169964632617, 0.0397955572423, 0.118311121669, 0.281182880797], rel=1e-11
    )
    assert [VP.sigma(t) for t in NODES] == pytest.approx(
        [0.999855549685, 0.999207843056, 0.992976574995, 0.959654202068], rel=1e-11
    )
    assert [VP.lam(t) for t in NODES] == pytest.approx(
        [-4.07460553925, -3.22320752913, -2.12738929465, -1.22756773441], rel=1e-11
    )
    assert pytest.approx(0.899821560238, rel=1e-11) == H


@pytest.mark.parametrize(
    "z, known",
    [
        (-0.3, [0.740818220682, 0.863939264394, 0.453535785352, 0.154880715492, 0.0392865039158]),
        (-2.0, [0.135335283237, 0.432332358382, 0.283833820809, 0.108083089595, 0.0292917885356]),
    ],
)
def test_phi(z: float, known: list[float]) -> None:
    assert [phi(k, z) for k in range(5)] == pytest.approx(known, rel=1e-10)


@pytest.mark.parametrize(
    "a, integrals, two, three",
    [
        (
            1,
            [0.593357785593, 0.306463774645, 0.0983756454896, 0.0230521007343],
            [0.873024399089, -0.279666613496],
            [1.12261719814, -0.850505571379, 0.321246158837],
        ),
        (
            2,
            [0.417321054731, 0.241250252754, 0.0817945836906, 0.0198165812666],
            [0.637476410028, -0.220155355297],
            [0.838037185511, -0.678854101839, 0.25813797106],
        ),
        (
            -1,
            [1.45916425932, 0.559342699081, 0.154503278946, 0.0330755327224],
            [1.96959808993, -0.510433830611],
            [2.40166605231, -1.49860827443, 0.55610648144],
        ),
    ],
)
def test_weights(a: int, integrals: list[float], two: list[float], three: list[float]) -> None:
    assert [exponential_integral(k, a, H) for k in range(4)] == pytest.approx(integrals, rel=1e-10)
    u = [VP.lam(t) - VP.lam(0.65) for t in (0.65, 0.8, 0.9)]
    assert adams_weights(a, H, u[:2]) == pytest.approx(two, rel=1e-10)
    assert adams_weights(a, H, u) == pytest.approx(three, rel=1e-10)
    assert sum(adams_weights(a, H, u)) == pytest.approx(exponential_integral(0, a, H), rel=1e-13)


@pytest.mark.parametrize(
    "key, options, known",
    [
        ("ddim", {}, [0.966441934516, 0.166842051496]),
        ("ddpm", {}, [0.392996088347, 0.234687072773, 0.876728077715]),
    ],
)
def test_one_step(key: str, options: dict[str, Any], known: list[float]) -> None:
    p = plan(key, VP, [0.65, 0.5], predicts="data", **options)
    assert p.coeffs[-1].tolist() == [pytest.approx(known, rel=1e-10)]


@pytest.mark.parametrize(
    "weight, known",
    [
        ("midpoint", [0.966441934516, 0.235342497267, -0.0685004457703]),
        ("heun", [0.966441934516, 0.245479515542, -0.0786374640454]),
    ],
)
def test_dpmpp_2m(weight: str, known: list[float]) -> None:
    """The result as a row over what the network gave: x_T's share is that of all steps, the last two columns
    are the step's own."""
    solver = solvers.make("dpmpp-2m", weight=weight, lower_order_final="never")
    rows = network_rows(
        solver, VP, NODES[1:], "data"
    )  # x_1 = A x_0 + b m_0;  x_2 = known_0 x_1 + known_1 m_1 + known_2 m_0
    (x1, x2) = rows[1], rows[2]
    got = [float(x2[0] / x1[0]), float(x2[2]), float(x2[1] - x2[0] / x1[0] * x1[1])]
    assert got == pytest.approx(known, rel=1e-10)


def test_tables_are_rounded_once() -> None:
    """float64 coefficients are the 60-digit ones to half a unit in the last place."""
    p = plan("unipc", VP, np.linspace(0.9, 0.01, 8), order=3)
    for s in p.stages:
        for row, exact in zip(s.coeffs, s.exact, strict=True):
            assert all(abs(float(e) - c) == 0 for c, e in zip(row, exact, strict=True))
