"""Every process on disk against its paper's formula in 60 digits; a new process file needs one line in
REFERENCES."""

import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
import torch

import fastdiff.processes as P
from fastdiff.core.grid import grids
from fastdiff.core.number import Real, precision
from fastdiff.core.process import processes
from fastdiff.testing.kdiffusion import kdiffusion

mpmath = pytest.importorskip("mpmath")
mp = mpmath.mp.clone()
mp.dps = 90
KEYS = processes.names(kind="gaussian")


# (alpha, sigma) as the papers write them: the many digits make up for every cancellation


def vp(t, b0=0.1, b1=20.0):
    alpha = mp.exp(-(t * t * (mp.mpf(b1 - b0)) / 4 + t * mp.mpf(b0) / 2))
    return alpha, mp.sqrt(1 - alpha**2)


def sub_vp(t, b0=0.1, b1=20.0):
    alpha = vp(t, b0, b1)[0]
    return alpha, 1 - alpha**2


def vp_cosine(t, s=0.008):
    s = mp.mpf(s)
    alpha = mp.cos((t + s) / (1 + s) * mp.pi / 2) / mp.cos(s / (1 + s) * mp.pi / 2)
    return alpha, mp.sqrt(1 - alpha**2)


def vp_sigmoid(t, start=-3.0, end=3.0, tau=1.0, floor=1e-9):
    def S(x):
        return 1 / (1 + mp.exp(-x))

    lo, hi, floor = mp.mpf(start) / mp.mpf(tau), mp.mpf(end) / mp.mpf(tau), mp.mpf(floor)
    abar = (S(hi) - S(lo + t * (hi - lo))) / (S(hi) - S(lo))
    abar = floor + (1 - floor) * abar
    return mp.sqrt(abar), mp.sqrt(1 - abar)


def ve(t, low=0.01, high=50.0):
    return mp.mpf(1), mp.mpf(low) * (mp.mpf(high) / mp.mpf(low)) ** t


def ve_from_zero(t, low=0.01, high=50.0):
    return mp.mpf(1), mp.sqrt(ve(t, low, high)[1] ** 2 - mp.mpf(low) ** 2)


def sb_ve(t):
    """c (k^{2t} - 1) / (2 log k) of the parameters as they were rounded: k is a quotient of two floats."""
    low = P.DiffusionBridge.sb_ve().base.sigma_min
    return ve_from_zero(t, low, P.DiffusionBridge.sb_ve().base.sigma_max)


def linear_vp(t):
    return 1 - t, mp.sqrt(1 - (1 - t) ** 2)


def trig(t):
    return mp.cos(mp.pi * t / 2), mp.sin(mp.pi * t / 2)


def ddpm_table():
    return [float(a) for a in np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))]


def discrete(t, abar=None, log_rho=False):
    """Linear in log alpha (or log rho) between the knots (n + 1) / N; from t = 0 always in log alpha."""
    abar = abar or P.DiscreteVP().alphas_cumprod
    N = len(abar)
    j = max(int(mp.ceil(t * N)) - 1, 0)
    w = t * N - j

    def log_alpha(n):
        return mp.log(mp.mpf(abar[n])) / 2 if n >= 0 else mp.mpf(0)

    if log_rho and j:
        rho = [mp.log(1 / mp.mpf(abar[n]) - 1) / 2 for n in (j - 1, j)]
        alpha = 1 / mp.sqrt(1 + mp.exp(2 * ((1 - w) * rho[0] + w * rho[1])))
    else:
        alpha = mp.exp((1 - w) * log_alpha(j - 1) + w * log_alpha(j))
    return alpha, mp.sqrt(1 - alpha**2)


def zero_snr(base, end):
    def formula(t):
        last = base(mp.mpf(end))[0]
        alpha = (base(t)[0] - last) / (1 - last)
        return alpha, mp.sqrt(1 - alpha**2)

    return formula


def mean_reverting(t, Theta, s_inf=1.0, eps=0.005):
    alpha = mp.exp(mp.log(mp.mpf(eps)) * Theta(t) / Theta(mp.mpf(1)))
    return alpha, mp.mpf(s_inf) * mp.sqrt(1 - alpha**2)


def cosine_theta(t):
    """int_0^t 1 - cos^2 u / cos^2 u_0."""
    rate = mp.pi / 2 / (1 + mp.mpf(0.008))
    u, first = (t + mp.mpf(0.008)) * rate, mp.mpf(0.008) * rate
    return t - (t / 2 + (mp.sin(2 * u) - mp.sin(2 * first)) / (4 * rate)) / mp.cos(first) ** 2


def linear_theta(t):
    return mp.mpf(1e-4) * t + (mp.mpf(0.02) - mp.mpf(1e-4)) * t * t / 2


def irsde(t, steps=100, s_inf=50 / 255, eps=0.005):
    """Sums of theta_1 .. theta_i, and straight lines between."""
    c = [
        mp.cos((j / mp.mpf(steps + 2) + mp.mpf(0.008)) / (1 + mp.mpf(0.008)) * mp.pi / 2) ** 2
        for j in range(steps + 2)
    ]
    theta = [1 - v / c[0] for v in c[2:]]
    n = int(mp.ceil(t * steps))
    grown = sum(theta[: n - 1], mp.mpf(0)) + (t * steps - (n - 1)) * theta[n - 1]
    alpha = mp.exp(mp.log(mp.mpf(eps)) * grown / sum(theta))
    return alpha, mp.mpf(s_inf) * mp.sqrt(1 - alpha**2)


def still(formula):
    """The mean stays at the data."""
    return lambda t: (mp.mpf(1), formula(t)[1])


def ouve(t, theta=1.5, low=0.05, high=0.5):
    theta, low, growth = mp.mpf(theta), mp.mpf(low), mp.log(mp.mpf(high) / mp.mpf(low))
    grown = mp.exp(2 * growth * t) - mp.exp(-2 * theta * t)
    return mp.exp(-theta * t), mp.sqrt(low**2 * growth * grown / (theta + growth))


def bridge(base, end):
    """The law of x_t given x_0 and x_T: x_t and x_T of the base are jointly normal, of covariance
    alpha_T / alpha_t sigma_t^2."""

    def formula(t):
        (a, s), (aT, sT) = base(t), base(mp.mpf(end))
        gain = aT / a * s**2 / sT**2
        return a - gain * aT, mp.sqrt(s**2 - gain**2 * sT**2)

    return formula


REFERENCES = [
    (P.VP(), vp),
    (P.VP(0.2, 11.0), lambda t: vp(t, 0.2, 11.0)),
    (P.SubVP(), sub_vp),
    (P.VPCosine(), vp_cosine),
    (P.VPCosine(0.0), lambda t: vp_cosine(t, 0.0)),
    (P.VPSigmoid(), vp_sigmoid),
    (P.VPSigmoid(0.0, 3.0, 0.3), lambda t: vp_sigmoid(t, 0.0, 3.0, 0.3)),
    (P.VPSigmoid(-3.0, 3.0, 1.0, 0.0), lambda t: vp_sigmoid(t, floor=0.0)),
    (P.VE(), ve),
    (P.VE(0.02, 100.0), lambda t: ve(t, 0.02, 100.0)),
    (P.VE(exact_variance=True), ve_from_zero),
    (P.EDM(), lambda t: (mp.mpf(1), t)),
    (P.FlowMatching(), lambda t: (1 - t, t)),
    (P.Trig(), trig),
    (P.LinearVP(), linear_vp),
    (P.DiscreteVP(), discrete),
    (P.DiscreteVP(ddpm_table(), interpolate="log_rho"), lambda t: discrete(t, ddpm_table(), True)),
    (P.ZeroTerminalSNR(P.VP()), zero_snr(vp, 1.0)),
    (P.ZeroTerminalSNR(P.VPCosine()), zero_snr(vp_cosine, 0.9946)),
    (P.MeanReverting(), lambda t: mean_reverting(t, cosine_theta)),
    (P.MeanReverting(0.2, "linear", 0.01), lambda t: mean_reverting(t, linear_theta, 0.2, 0.01)),
    (P.MeanReverting(schedule="const"), lambda t: mean_reverting(t, lambda u: u)),
    (P.MeanReverting.irsde(), irsde),
    (P.MeanReverting.denoising(), still(lambda t: irsde(t, eps=0.04))),
    (
        type(P.MeanReverting.denoising())(0.2, "linear", 0.01),
        still(lambda t: mean_reverting(t, linear_theta, 0.2, 0.01)),
    ),
    (P.OUVE(), ouve),
    (P.OUVE(0.0, 0.02, 3.0), lambda t: ouve(t, 0.0, 0.02, 3.0)),
    (P.NonlinearSDE(), vp),
    (P.DiffusionBridge(), bridge(lambda t: vp(t, 0.1, 2.1), 1.0)),
    (P.DiffusionBridge(P.EDM()), bridge(lambda t: (mp.mpf(1), t), 80.0)),
    (P.DiffusionBridge.sb_ve(), bridge(sb_ve, 1.0)),
]
IDS = [f"{p.key}-{i}" for i, (p, _) in enumerate(REFERENCES)]
every_reference = pytest.mark.parametrize("process, exact", REFERENCES, ids=IDS)
SMOOTH = [(p, e) for p, e in REFERENCES if not p.train_steps]
SMOOTH_IDS = [f"{p.key}-{i}" for i, (p, _) in enumerate(SMOOTH)]
every_smooth = pytest.mark.parametrize("process, exact", SMOOTH, ids=SMOOTH_IDS)


def times(process, smallest=1e-7):
    """From far below t_min to just below t_max, off the knots of the discrete processes."""
    low = np.geomspace(smallest, 0.0503, 8) * process.t_max
    high = process.t_max * (1 - np.geomspace(1e-6, 0.6037, 8))
    return [float(t) for t in np.concatenate([low, high])]


def cancelled(process, t):
    """What rounding costs in 1 - r = 1 - e^{2 (lam_T - lam)} of a bridge near T, as a multiple."""
    if process.key != "diffusion-bridge" or t == 0:
        return 1
    end, lam = process.base.lam(process.t_max), process.base.lam(t)
    return 1 + (abs(end) + abs(lam)) / (lam - end)


def test_every_process_has_a_reference():
    assert sorted({p.key for p, _ in REFERENCES}) == KEYS


@every_reference
def test_alpha_and_sigma(process, exact):
    """A few roundings, times what a rounding of t or of a parameter is worth: alpha' t / alpha, at most
    1e-16 / alpha."""
    for t in times(process):
        alpha, sigma = exact(mp.mpf(t))
        tol = 2e-15 * (1 + float(abs(mp.log(alpha)))) * cancelled(process, t)
        assert process.alpha(t) == pytest.approx(float(alpha), rel=tol, abs=2e-16), t
        assert process.sigma(t) == pytest.approx(float(sigma), rel=1e-14 * cancelled(process, t)), t


@every_reference
def test_derivatives(process, exact):
    """The slopes of a table are differences of logarithms: 1e-12 of them is rounding."""
    for t in times(process, 1e-4):
        for name, k in (("dalpha", 0), ("dsigma", 1)):
            want = float(mp.diff(lambda u, k=k: exact(u)[k], mp.mpf(t), h=mp.mpf(10) ** -25))
            tol = 1e-12 + 1e-15 * cancelled(process, t)
            assert getattr(process, name)(t) == pytest.approx(want, rel=tol, abs=1e-15), (name, t)


@every_reference
def test_sde_identities(process, exact):
    """f = (log alpha)', g^2 = (sigma^2)' - 2 f sigma^2, lam' = f - sigma' / sigma = -g^2 / (2 sigma^2)."""
    for t in times(process, 1e-4):
        d = mp.mpf(10) ** -25
        f = mp.diff(lambda u: mp.log(exact(u)[0]), mp.mpf(t), h=d)
        variance = exact(mp.mpf(t))[1] ** 2
        g2 = mp.diff(lambda u: exact(u)[1] ** 2, mp.mpf(t), h=d) - 2 * f * variance
        loss = 1 + 1e-2 / float(exact(mp.mpf(t))[0])  # near alpha = 0 the scale itself has lost digits
        assert process.f(t) == pytest.approx(float(f), rel=1e-12 * loss, abs=1e-15), t
        assert process.g2(t) == pytest.approx(float(g2), rel=1e-12 * loss), t
        assert process.dlam(t) == pytest.approx(float(-g2 / (2 * variance)), rel=1e-12 * loss), t
        assert process.lam(t) == pytest.approx(
            float(mp.log(exact(mp.mpf(t))[0] / exact(mp.mpf(t))[1])),
            rel=1e-14,
            abs=2e-15 * (loss + cancelled(process, t)),
        ), t


@every_smooth
def test_variance_is_the_solution_of_the_sde(process, exact):
    """(sigma / alpha)^2 grows by g^2 / alpha^2: Gauss-Legendre in 60 digits of the float formulas' own
    values."""
    t = mp.linspace(process.t_max * 0.1, process.t_max * 0.8, 5)
    for low, high in zip(t, t[1:], strict=False):
        nodes, weights = np.polynomial.legendre.leggauss(24)
        u = [float((high + low) / 2 + (high - low) / 2 * x) for x in nodes]
        grown = sum(w * process.g2(v) / process.alpha(v) ** 2 for w, v in zip(weights, u, strict=True))
        grown *= float(high - low) / 2
        rho = [float(exact(v)[1] / exact(v)[0]) for v in (low, high)]
        assert grown == pytest.approx(rho[1] ** 2 - rho[0] ** 2, rel=1e-10)


@every_reference
def test_time_of_inverts_lam(process, exact):
    """To 1e-13, beyond what the rounding of lam is worth: eps (1 + |lam|) / (t |lam'|)."""
    for t in times(process):
        alpha, sigma = exact(mp.mpf(t))
        lam = float(mp.log(alpha / sigma))
        worth = 4e-16 * (1 + abs(lam)) / (t * abs(process.dlam(t)))
        assert process.time_of(lam) == pytest.approx(t, rel=1e-13 + worth), t
    lam = np.array([process.lam(t) for t in times(process)])
    back = process.time_of(lam)
    assert isinstance(back, np.ndarray) and back.shape == lam.shape
    assert np.allclose(back, [process.time_of(float(v)) for v in lam], rtol=1e-13)
    assert process.time_of(math.inf) == process.t_zero and type(process.time_of(1.0)) is float


@every_smooth
def test_sixty_digits(process, exact):
    """The same formulas over Reals: what plans are compiled in."""
    with precision():
        for t in times(process, 1e-5)[::3]:
            alpha, sigma = exact(mp.mpf(t))
            d = mp.mpf(10) ** -28  # central differences: 1e-56 of the third derivative
            dalpha, dsigma = (mp.diff(lambda u, k=k: exact(u)[k], mp.mpf(t), h=d) for k in (0, 1))
            wanted = {"alpha": alpha, "sigma": sigma, "dalpha": dalpha, "dsigma": dsigma}
            for name, want in wanted.items():
                digits = 40 if name.startswith("d") else 50
                got = mp.mpf(str(getattr(process, name)(Real(t)).v))
                assert abs(got - want) <= (abs(want) + mp.mpf("1e-10")) * mp.mpf(10) ** -digits, (name, t)


@every_reference
def test_reals_invert_too(process, exact):
    with precision():
        for t in times(process, 1e-3)[::4]:
            lam = process.lam(Real(t)) + Real("1e-18")
            assert abs(process.lam(process.time_of(lam)) - lam) < Real("1e-45")


@every_reference
def test_unit_variance_in_sixty_digits(process, exact):
    """Coefficients whose cancellation rests on alpha^2 + sigma^2 = 1 must cancel to 1e-35 at least."""
    others = ("sub-vp", "flow-matching", "ve", "edm", "ouve", "diffusion-bridge")
    if process.key not in others and getattr(process, "s_inf", 1) == 1:
        with precision():
            for t in [*times(process)[::3], process.t_max]:
                a, s = process.alpha(Real(t)), process.sigma(Real(t))
                assert abs(a * a + s * s - 1) < Real("1e-55"), t


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["alpha", "sigma", "dalpha", "dsigma", "lam", "dlam", "f", "g2"])
def test_every_kind_of_number(key, name):
    process = processes.make(key)
    f, t = getattr(process, name), np.array(times(process, 1e-3)).reshape(4, 4)
    want = np.array([[f(float(u)) for u in row] for row in t])
    assert type(f(0.5)) is float and isinstance(f(np.float64(0.5)), float)
    array, tensor = f(t), f(torch.from_numpy(t))
    assert isinstance(array, np.ndarray) and array.shape == t.shape and array.dtype == np.float64
    assert isinstance(tensor, torch.Tensor) and tensor.shape == t.shape and tensor.dtype == torch.float64
    assert f(torch.tensor(0.5)).dtype == torch.float32 and f(torch.tensor(0.5)).shape == ()
    for got in (array, tensor.numpy()):
        assert np.allclose(got, want, rtol=1e-12, atol=0)
    with precision():
        assert float(f(Real(0.5))) == pytest.approx(f(0.5), rel=1e-13)


@pytest.mark.parametrize("key", KEYS)
def test_gradients_reach_the_time(key):
    process = processes.make(key)
    t = torch.tensor(0.4 * process.t_max, dtype=torch.float64, requires_grad=True)
    for name in ("alpha", "sigma"):
        y = getattr(process, name)(t)
        if y.requires_grad:
            (slope,) = torch.autograd.grad(y, t)
            assert slope.item() == pytest.approx(getattr(process, "d" + name)(t.item()), rel=1e-12)
        else:
            assert getattr(process, "d" + name)(t.item()) == 0
    lam = torch.tensor([-0.3, 0.7], dtype=torch.float64, requires_grad=True)
    back = process.time_of(lam)
    assert np.allclose(process.lam(back.detach()).numpy(), [-0.3, 0.7], rtol=1e-12)
    (slope,) = torch.autograd.grad(back.sum(), lam)
    assert np.allclose(slope.numpy(), 1 / process.dlam(back.detach().numpy()), rtol=1e-10)
    assert process.time_of(torch.tensor(0.3)).dtype == torch.float32


@pytest.mark.parametrize("process", [p for p, _ in REFERENCES if p.const], ids=lambda p: repr(p)[:40])
def test_the_offset_of_a_const(process):
    """0 at the data, its derivative the true one (central differences in 60 digits), for every number."""
    assert process.offset(process.t_zero) == 0
    t = np.array(times(process, 1e-3))
    for name in ("offset", "doffset"):
        f = getattr(process, name)
        want = np.array([f(float(u)) for u in t])
        assert type(f(0.5)) is float and np.allclose(f(t), want, rtol=1e-13, atol=0)
        assert np.allclose(f(torch.from_numpy(t)).numpy(), want, rtol=1e-13, atol=0)
        with precision():
            assert np.allclose([float(f(Real(float(u)))) for u in t], want, rtol=1e-13, atol=0)
    with precision():
        d = Real("1e-20")
        for u in map(Real, t[::3].tolist()):
            slope = (process.offset(u + d) - process.offset(u - d)) / (2 * d)
            assert abs(slope - process.doffset(u)) < Real("1e-35"), u


@pytest.mark.parametrize("key", KEYS)
def test_ends(key):
    process = processes.make(key)
    assert process.t_zero <= process.t_min < process.t_max
    data = process.node(process.t_zero)
    assert data.clean and data.alpha == 1 and data.rho == 0 and math.copysign(1, data.sigma) == 1
    assert not process.node(process.t_min).clean
    noise = process.node(process.t_max)
    assert noise.pure == (process.alpha(process.t_max) == 0)
    if noise.pure:
        assert noise.rho == math.inf or noise.clean  # at the far end of a bridge it is 0 / 0
        assert process.time_of(-math.inf) == process.t_max
        with precision():
            assert process.alpha(Real(process.t_max)) == 0
            assert process.time_of(Real("-Infinity")) == process.t_max
        assert process.alpha(torch.tensor([0.5, process.t_max], dtype=torch.float64))[1] == 0
    expected = {"ve": 50.0, "edm": 80.0, "diffusion-bridge": 0.0}.get(key, 1.0)
    if key == "ouve":
        expected = math.sqrt(0.05**2 * math.log(10) * (100 - math.exp(-3)) / (1.5 + math.log(10)))
    assert process.prior_std(process.t_max) == pytest.approx(expected, rel=1e-14)
    assert process.default_grid in grids.names()
    assert len(grids.make(process.default_grid).times(process, 4)) == 5


def test_default_grids():
    want = {"edm": "karras", "ve": "karras", "flow-matching": "uniform-t", "discrete-vp": "trailing"}
    assert {k: processes.make(k).default_grid for k in KEYS} == {k: want.get(k, "logsnr") for k in KEYS}
    assert P.ZeroTerminalSNR(P.DiscreteVP()).default_grid == "trailing"


@pytest.mark.parametrize("process", [p for p, _ in REFERENCES], ids=IDS)
def test_processes_are_values(process):
    process.time_of(0.3)  # tables made on first use must not count
    twin = pickle.loads(pickle.dumps(process))
    assert twin == process and hash(twin) == hash(process) and twin.alpha(0.4) == process.alpha(0.4)
    assert replace(process) == process
    assert process != P.VE(0.5, 0.6) and type(process).__name__ in repr(process) and len(repr(process)) < 200
    with pytest.raises(FrozenInstanceError):
        setattr(process, fields(process)[0].name if fields(process) else "t", 1.0)


def test_numbers_of_any_make_are_the_same_process():
    assert P.VP(np.float32(0.5), 20) == P.VP(0.5, 20.0) and type(P.VP(0.5, 20).beta_max) is float
    assert P.VP() != P.SubVP()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: P.VP(0.0), "0 < beta_min <= beta_max, got beta_min=0.0, beta_max=20.0"),
        (lambda: P.VP(5.0, 1.0), "0 < beta_min <= beta_max"),
        (lambda: P.SubVP(beta_max=math.inf), "beta_max must be finite, got inf"),
        (lambda: P.VE(1.0, 1.0), "0 < sigma_min < sigma_max"),
        (lambda: P.EDM(sigma_data=0.0), "sigma_data > 0"),
        (lambda: P.EDM(sigma_min=-1.0), "0 < sigma_min < sigma_max"),
        (lambda: P.VPCosine(-0.1), "s >= 0"),
        (lambda: P.VPSigmoid(3.0, -3.0), "start < end"),
        (lambda: P.VPSigmoid(temperature=0.0), "temperature > 0"),
        (lambda: P.VPSigmoid(floor=1.0), "0 <= floor < 1"),
        (lambda: P.ZeroTerminalSNR(P.VE()), "ZeroTerminalSNR: need alpha"),
        (lambda: P.ZeroTerminalSNR(P.SubVP()), "ZeroTerminalSNR: need alpha"),
        (lambda: P.DiscreteVP([0.9, 0.95]), "fall strictly"),
        (lambda: P.DiscreteVP([1.0, 0.5]), "fall strictly"),
        (lambda: P.DiscreteVP([0.9]), "at least 2 numbers"),
        (lambda: P.DiscreteVP([0.9, math.nan]), "fall strictly"),
        (lambda: P.DiscreteVP(betas=[0.1, 1.5]), "betas must lie in"),
        (lambda: P.DiscreteVP([0.9, 0.5], [0.1, 0.2]), "not both"),
        (lambda: P.DiscreteVP(betas="scaled_linear"), "did you mean 'scaled-linear'"),
        (lambda: P.DiscreteVP(interpolate="log_sigma"), "unknown interpolation"),
        (lambda: P.DiscreteVP([0.9, 0.5], indices=[1]), "1 indices for 2 steps"),
        (lambda: P.MeanReverting(eps=0.0), "0 < eps < 1, got eps=0.0"),
        (lambda: P.MeanReverting(s_inf=0.0), "s_inf > 0"),
        (lambda: P.MeanReverting(schedule="cosin"), "did you mean 'cosine'"),
        (lambda: P.MeanReverting(steps=1), "steps must be an int of at least 2, got 1"),
        (lambda: P.OUVE(-0.1), "theta >= 0"),
        (lambda: P.OUVE(sigma_max=0.01), "0 < sigma_min < sigma_max"),
        (lambda: P.DiffusionBridge(P.OUVE()), "has a const of its own"),
        (lambda: P.DiffusionBridge(P.FlowMatching()), "alpha.t_max. > 0 of the base"),
        (lambda: P.DiffusionBridge.sb_ve(k=1.0), "need k > 1, finite, got 1.0"),
        (lambda: P.DiffusionBridge.sb_ve(c=-1.0), "need c > 0, finite, got -1.0"),
        (lambda: P.DiscreteVP().respace("ddim999"), "no integer stride"),
        (lambda: P.DiscreteVP().respace("10,x"), 'expected "10,15,20"'),
        (lambda: P.DiscreteVP().respace([900, 1]), "section 0 has 500 steps"),
    ],
)
def test_wrong_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parameters_that_are_no_numbers():
    sb = P.DiffusionBridge.sb_ve
    with pytest.raises(TypeError, match="exact_variance must be a bool"):
        P.VE(exact_variance=1)
    for make in (lambda: P.VP("0.1"), lambda: P.VE(None), lambda: P.EDM(True), lambda: sb(k="2")):
        with pytest.raises(TypeError, match="must be a number"):
            make()
    with pytest.raises(TypeError, match="alphas_cumprod must be a sequence of numbers"):
        P.DiscreteVP(["a", "b"])


def test_processes_by_name():
    assert processes.make("vp", beta_min=0.2) == P.VP(0.2) and processes.make("vp-discrete") == P.DiscreteVP()
    assert processes.make("sb-ve") == P.DiffusionBridge.sb_ve()
    assert processes.make("rectified-flow") == P.FlowMatching() and P.names(kind="gaussian") == KEYS
    assert {"VP", "EDM", "DiscreteVP"} <= set(dir(P))
    assert processes.make("discrete-vp", betas="cosine") == P.DiscreteVP.cosine()
    with pytest.raises(AttributeError, match="did you mean .*'VPCosine'"):
        P.VPCosin  # noqa: B018
    with pytest.raises(ValueError, match="did you mean 'sub-vp'"):
        processes.make("subvp")
    with pytest.raises(ValueError, match="option of process 'vp' 'beta_mim'"):
        processes.make("vp", beta_mim=1)


# discrete processes


def test_knots_are_exact():
    table = ddpm_table()
    for process in (P.DiscreteVP(table), P.DiscreteVP(table, interpolate="log_rho")):
        t = (np.arange(1000) + 1) / 1000
        assert np.allclose(process.alpha(t), np.sqrt(table), rtol=2e-15, atol=0)
        assert np.allclose(process.sigma(t) ** 2, 1 - np.array(table), rtol=2e-15, atol=0)
        assert np.allclose(process.model_index(t, 1000), np.arange(1000), atol=1e-12)
        assert np.allclose(process.time_of(process.lam(t)), t, rtol=1e-13)
        assert process.alpha(0.0) == 1 and process.t_min == 0.001 and process.train_steps == 1000


def test_tables_come_as_list_array_or_tensor():
    table = np.array([0.99, 0.5, 0.125])
    kinds = (table, table.tolist(), tuple(table), torch.tensor(table))
    assert len({P.DiscreteVP(x) for x in kinds}) == 1
    assert P.DiscreteVP(torch.tensor(table).float()).alphas_cumprod[2] == 0.125
    halves = P.DiscreteVP(betas=torch.tensor([0.5, 0.5]))
    assert halves.alphas_cumprod == pytest.approx((0.5, 0.25), rel=1e-15)


def test_mixed_segments_in_one_batch():
    """The first segment, the middle and a last abar of 0 have different formulas; one array may meet all
    three."""
    process = P.DiscreteVP([0.9, 0.6, 0.2, 0.0], interpolate="log_rho")
    t = np.array([0.0, 0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 1.0])
    for name in ("alpha", "sigma", "dalpha"):
        want = [getattr(process, name)(float(u)) for u in t]
        assert np.allclose(getattr(process, name)(t), want, rtol=1e-14)
        assert np.allclose(getattr(process, name)(torch.from_numpy(t)).numpy(), want, rtol=1e-14)
    assert process.alpha(0.875) == pytest.approx(math.sqrt(0.2) / 2)  # linear itself on the last segment
    assert process.alpha(1.0) == 0 and process.dalpha(1.0) == pytest.approx(-4 * math.sqrt(0.2))
    assert process.time_of(-math.inf) == 1
    assert np.allclose(process.time_of(process.lam(t[1:-1])), t[1:-1], rtol=1e-13)


def test_cosine_betas():
    """The numbers of the published schedule."""
    abar = np.array(P.DiscreteVP.cosine().alphas_cumprod)
    betas = 1 - abar / np.append(1.0, abar[:-1])
    assert betas[[0, 500, 999]] == pytest.approx([4.128422e-05, 3.155691e-03, 0.999], rel=2e-7)


def test_stable_diffusion_levels():
    process = P.DiscreteVP.scaled_linear()
    rho = np.exp(-process.lam(np.array([process.t_max, process.t_min])))
    assert rho == pytest.approx([14.6146, 0.0291672], rel=3e-6)
    assert process == P.DiscreteVP(betas="scaled-linear")


SD = {"beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("name, ours", [("linear", {}), ("scaled_linear", SD), ("squaredcos_cap_v2", {})])
def test_tables_are_those_of_diffusers(name, ours):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_schedule=name, **ours).alphas_cumprod.double().numpy()
    mine = P.DiscreteVP(betas={"squaredcos_cap_v2": "cosine"}.get(name, name.replace("_", "-")))
    # float32 products of 1000 factors; the cosine's last factors are 0.001 with 1e-5 of rounding
    assert np.allclose(mine.alphas_cumprod, theirs, rtol=2e-4 if name.startswith("sq") else 2e-5)
    exact = P.DiscreteVP(theirs)
    assert np.allclose(exact.alpha((np.arange(1000) + 1) / 1000) ** 2, theirs, rtol=1e-14)


def test_zero_terminal_snr_is_that_of_diffusers():
    ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    theirs = torch.cumprod(1 - ddim.rescale_zero_terminal_snr(betas), 0).numpy()
    process = P.ZeroTerminalSNR(P.DiscreteVP.scaled_linear())
    t = (np.arange(1000) + 1) / 1000
    assert np.allclose(process.alpha(t) ** 2, theirs, rtol=1e-9, atol=1e-15)
    assert process.alpha(1.0) == 0 and process.sigma(1.0) == 1 and process.train_steps == 1000
    assert process.alpha(t[0]) == pytest.approx(process.process.alpha(t[0]), rel=1e-15)  # step 0 is kept
    assert np.isfinite(process.dalpha(1.0)) and process.model_index(1.0, 1000) == 999


def test_log_rho_is_the_interpolation_of_k_diffusion():
    if (external := kdiffusion("external")) is None:
        pytest.skip("k-diffusion is not installed")
    table = torch.tensor(ddpm_table(), dtype=torch.float64)
    theirs = external.DiscreteSchedule(((1 - table) / table) ** 0.5, quantize=False)
    process = P.DiscreteVP(table, interpolate="log_rho")
    n = torch.tensor([0.0, 0.25, 7.5, 333.3, 998.875, 999.0])
    rho = torch.exp(-process.lam((n.double() + 1) / 1000))
    assert torch.allclose(rho, theirs.t_to_sigma(n), rtol=1e-5)  # their weights are float32
    back = process.model_index(process.time_of(-rho.log().numpy()), 1000)
    assert np.allclose(back, theirs.sigma_to_t(rho).numpy(), atol=1e-9)


def test_respacing():
    process = P.DiscreteVP.linear(300)
    kept = process.respace([10, 15, 20])
    n = np.array(kept.indices)
    assert kept.train_steps == 45 and [np.sum(n // 100 == i) for i in range(3)] == [10, 15, 20]
    assert n[[0, 9, 10, 24, 25, 44]].tolist() == [0, 99, 100, 199, 200, 299]
    assert kept == process.respace("10,15,20")
    assert kept.alphas_cumprod == tuple(process.alphas_cumprod[i] for i in n)
    # beta_k = 1 - abar_k / abar_{k-1} telescopes: the marginals stay, and the network sees its own n
    t = (np.arange(45) + 1) / 45
    assert np.allclose(kept.alpha(t), np.sqrt(kept.alphas_cumprod), rtol=1e-15)
    assert np.array_equal(kept.model_index(t, 300), n)
    assert P.DiscreteVP().respace("ddim25").indices == tuple(range(0, 1000, 40))
    assert P.DiscreteVP().respace(4).indices == (0, 333, 666, 999)
    assert P.DiscreteVP().respace("2").indices == (0, 999)
    twice = P.DiscreteVP().respace(100).respace(10)
    assert twice.indices[0] == 0 and twice.indices[-1] == 999 and "respaced" in repr(twice)
    zero = P.ZeroTerminalSNR(kept)
    assert np.array_equal(zero.model_index(t, 300), n) and zero.alpha(1.0) == 0


def test_model_index():
    assert P.VP().model_index(1.0, 1000) == 999 and P.VE().model_index(1.0, 1000) == 999
    assert P.VE().model_index(np.array([0.0, 0.5]), 5).tolist() == [0, 2]
    assert P.VPCosine().model_index(0.5, 1000) == 499  # of (n + 1) / count, not of t / t_max
    with pytest.raises(ValueError, match="no discrete steps"):
        P.EDM().model_index(1.0, 1000)


def test_published_sigmoid_clip():
    """The paper clips abar at 1e-9; ours never differs by more."""

    def S(x):
        return 1 / (1 + np.exp(-x))

    t = np.linspace(0, 1, 101)
    published = np.clip((S(3) - S(-3 + 6 * t)) / (S(3) - S(-3)), 1e-9, 1)
    ours = P.VPSigmoid().alpha(t) ** 2
    assert np.abs(ours - published).max() < 1.1e-9 and ours[-1] == pytest.approx(1e-9, rel=1e-12)
