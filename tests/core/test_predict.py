"""Every prediction from every other, against x0 and eps put together by hand."""
import itertools

import numpy as np
import pytest

from fastdiff.core.math import sqrt
from fastdiff.core.number import Real, precision
from fastdiff.core.predict import PREDICTIONS, check_prediction, convert, input_scale
from fastdiff.core.process import processes

KINDS = (*PREDICTIONS, "edm", "slope")
X0, EPS = 0.7371, -1.2893


def by_hand(kind, process, t, x0=X0, eps=EPS):
    """The prediction a perfect network would give at t, from its definition."""
    a, s = process.alpha(t), process.sigma(t)
    if kind == "edm":  # D(x / alpha; rho) = c_skip x / alpha + c_out F, with rho = sigma / alpha
        sd, rho = getattr(process, "sigma_data", 0.5), s / a
        c_skip, c_out = sd * sd / (rho * rho + sd * sd), rho * sd / sqrt(rho * rho + sd * sd)
        return (x0 - c_skip * (x0 + rho * eps)) / c_out
    return {"noise": lambda: eps, "data": lambda: x0, "velocity": lambda: a * eps - s * x0,
            "flow": lambda: process.dalpha(t) * x0 + process.dsigma(t) * eps, "score": lambda: -eps / s,
            "slope": lambda: eps - x0 if process.straight == "sum" else eps}[kind]()


def times(process):
    return [process.t_min + u * (process.t_max - process.t_min) for u in (0.02, 0.4, 0.97)]


@pytest.mark.parametrize("key", processes.names(kind="gaussian"))
def test_every_pair(key):
    process = processes.make(key)
    for t, raw, wanted in itertools.product(times(process), [k for k in KINDS if k != "slope"], KINDS):
        x = process.alpha(t) * X0 + process.sigma(t) * EPS
        p, q = convert(raw, wanted, process.node(t))
        r = by_hand(raw, process, t)
        want = by_hand(wanted, process, t)
        size = max(abs(p * x), abs(q * r), abs(want))  # conversions of little noise cancel; that is no error
        assert p * x + q * r == pytest.approx(want, rel=1e-12, abs=1e-14 * size), (t, raw, wanted)


@pytest.mark.parametrize("key", processes.names(kind="gaussian"))
def test_every_pair_in_sixty_digits(key):
    process = processes.make(key)
    with precision():
        t = Real(times(process)[1])
        node, x0, eps = process.node(t), Real(X0), Real(EPS)
        x = process.alpha(t) * x0 + process.sigma(t) * eps
        for raw, wanted in itertools.product([k for k in KINDS if k != "slope"], KINDS):
            p, q = convert(raw, wanted, node)
            r, want = by_hand(raw, process, t, x0, eps), by_hand(wanted, process, t, x0, eps)
            assert abs(p * x + q * r - want) < abs(want) * Real("1e-48"), (raw, wanted)


@pytest.mark.parametrize("key", ["vp", "flow-matching", "edm"])
def test_per_sample_times(key):
    process = processes.make(key)
    t = np.array(times(process))
    x = process.alpha(t) * X0 + process.sigma(t) * EPS
    for raw, wanted in itertools.product(("noise", "velocity", "flow", "edm"), ("data", "noise", "velocity")):
        p, q = convert(raw, wanted, process.node(t))
        assert np.allclose(p * x + q * by_hand(raw, process, t), by_hand(wanted, process, t), rtol=1e-9)


@pytest.mark.parametrize("key", ["flow-matching", "trig", "linear-vp", "zero-terminal-snr"])
def test_pure_noise_is_legal_for_all_but_noise_and_score(key):
    """At alpha = 0 a noise prediction says nothing of the data; the others do, without a division by alpha.
    """
    process = processes.make(key)
    node = process.node(process.t_max)
    x, s = process.sigma(process.t_max) * EPS, process.sigma(process.t_max)
    assert node.pure
    raws = {"data": X0, "velocity": -s * X0, "edm": X0 / 0.5,
            "flow": process.dalpha(process.t_max) * X0 + process.dsigma(process.t_max) * EPS}
    for raw, r in raws.items():
        p, q = convert(raw, "data", node)
        assert p * x + q * r == pytest.approx(X0, rel=1e-12), raw
        p, q = convert(raw, "noise", node)
        assert p * x + q * r == pytest.approx(EPS, rel=1e-12), raw
    for raw in ("noise", "score"):
        with pytest.raises(ValueError, match=f"a {raw} prediction cannot be turned into data"):
            convert(raw, "data", node)
    with pytest.raises(ValueError, match="cannot be turned"):  # also when it is one sample of a batch
        convert("noise", "data", process.node(np.array([0.5, process.t_max])))


def test_input_scale_is_karras_c_in():
    process = processes.make("edm")
    for t in (0.01, 1.0, 50.0):
        assert input_scale("edm", process.node(t)) == pytest.approx(1 / np.sqrt(t * t + 0.25), rel=1e-14)
        assert input_scale("noise", process.node(t)) == 1
    vp = processes.make("vp")
    n = vp.node(0.3)
    assert input_scale("edm", n) == pytest.approx(1 / np.sqrt(n.rho**2 + 0.25) / n.alpha, rel=1e-14)


@pytest.mark.parametrize("key", processes.names(kind="gaussian"))
def test_slope_is_what_euler_integrates(key):
    """d(x / c) / d(sigma / c) along the path of one data point: x / c is straight in sigma / c."""
    process = processes.make(key)
    s, t = (process.node(u) for u in times(process)[1:])
    path = [(n.alpha * X0 + n.sigma * EPS) / n.scale for n in (s, t)]
    assert (path[1] - path[0]) / (t.tau - s.tau) == pytest.approx(by_hand("slope", process, s.t), rel=1e-11)


def test_unknown_kinds_name_the_near_ones():
    assert check_prediction("velocity") == "velocity" and check_prediction("edm") == "edm"
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        check_prediction("noize")
    with pytest.raises(ValueError, match="unknown prediction 'slope'"):
        check_prediction("slope")
