"""The oracles themselves, against densities, quadrature and closed forms that share no code with them."""
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import fastdiff.processes as P
from fastdiff.core.math import expm1
from fastdiff.core.predict import PREDICTIONS, convert
from fastdiff.core.process import processes
from fastdiff.testing import GaussianMixture, affine_law, gaussian_flow, order_of, pf_ode

LINE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])  # every element its own draw
MEANS, STDS = [[-1.0, 0.3], [0.5, -1.0], [1.0, 1.0]], [[0.3, 0.5], [0.2, 0.2], [0.7, 0.1]]
PLANE = GaussianMixture([1, 2, 1], MEANS, STDS)


def log_density(mixture, x, a, s):
    """log p_t by torch.distributions: the mixture of N(a mu, a^2 s_k^2 + s^2)."""
    D = torch.distributions
    means, stds = a * mixture.means, (a**2 * mixture.stds**2 + s**2).sqrt()
    parts = D.Normal(means, stds)
    parts = D.Independent(parts, len(mixture.event)) if mixture.event else parts
    return D.MixtureSameFamily(D.Categorical(mixture.weights), parts).log_prob(x)


@pytest.mark.parametrize("mixture, shape", [(LINE, (6, 3)), (PLANE, (6, 2)), (PLANE, (2, 3, 2))])
@pytest.mark.parametrize("a, s", [(0.9, 0.4), (1.0, 30.0), (0.05, 1.0), (1.0, 0.01), (0.0, 1.0)])
def test_expectations_are_tweedie_of_the_density(mixture, shape, a, s):
    x = (torch.randn(shape, dtype=torch.float64) * math.hypot(a, s)).requires_grad_()
    (score,) = torch.autograd.grad(log_density(mixture, x, a, s).sum(), x)
    x0, eps = mixture.expectations(x.detach(), a, s)
    assert torch.allclose(eps, -s * score, rtol=1e-10, atol=1e-13)
    assert np.allclose(mixture.expectations(x.detach().numpy(), a, s), (x0, eps), rtol=1e-13)
    assert torch.allclose(a * x0 + s * eps, x.detach(), rtol=1e-12, atol=1e-13)
    if a:
        assert torch.allclose(x0, (x.detach() + s * s * score) / a, rtol=1e-8, atol=1e-11)


def test_expectation_by_quadrature():
    nodes = np.linspace(-6, 6, 20_001)
    parts = ((0.3, -1.0, 0.3), (0.7, 1.5, 0.5))
    prior = sum(w * np.exp(-0.5 * ((nodes - m) / s) ** 2) / s for w, m, s in parts)
    a, s, x = 0.6, 0.8, 0.37
    weight = prior * np.exp(-0.5 * ((x - a * nodes) / s) ** 2)
    x0, _ = LINE.expectations(torch.tensor([x], dtype=torch.float64), a, s)
    assert x0.item() == pytest.approx((nodes * weight).sum() / weight.sum(), rel=1e-10)


@pytest.mark.parametrize("key", processes.names(kind="gaussian"))
def test_denoisers_of_every_kind_agree(key):
    process = processes.make(key)
    x = torch.randn(4, 5, dtype=torch.float64)
    t = torch.tensor([0.1, 0.35, 0.6, 0.8], dtype=torch.float64) * process.t_max
    a, s = (f(t)[:, None] for f in (process.alpha, process.sigma))
    net = {k: LINE.denoiser(process, k)(x, t) for k in PREDICTIONS}
    x0, eps = net["data"], net["noise"]
    assert torch.allclose(a * x0 + s * eps, x, rtol=1e-11)
    assert torch.allclose(net["velocity"], a * eps - s * x0, rtol=1e-11, atol=1e-11)
    assert torch.allclose(net["score"], -eps / s, rtol=1e-11)
    da, ds = (f(t)[:, None] for f in (process.dalpha, process.dsigma))
    assert torch.allclose(net["flow"], da * x0 + ds * eps, rtol=1e-11)
    one = LINE.denoiser(process, "noise")(x[2:3], t[2].item())  # one time for all
    assert torch.allclose(one, eps[2:3], rtol=1e-13)
    sd = getattr(process, "sigma_data", 0.5)  # Karras: D(y) = c_skip y + c_out F(c_in y), y = x / alpha
    rho, norm = s / a, ((s / a) ** 2 + sd**2).sqrt()
    F = LINE.denoiser(process, "edm")(x / a / norm, t)
    assert torch.allclose(sd**2 / norm**2 * x / a + rho * sd / norm * F, x0, rtol=1e-10, atol=1e-11)


def test_denoiser_takes_the_time_its_network_was_trained_with():
    process = P.DiscreteVP()
    x, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    want, lam = LINE.denoiser(process)(x, t), process.lam(t)
    times = {"sigma": (-lam).exp(), "lambda": lam, "c_noise": -lam / 4, ("index", 1000): t * 1000 - 1}
    for time, value in times.items():
        assert torch.allclose(LINE.denoiser(process, time=time)(x, value), want, rtol=1e-10)
    with pytest.raises(ValueError, match="unknown time"):
        LINE.denoiser(process, time="seconds")(x, t)
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        LINE.denoiser(process, "noize")


def test_denoiser_keeps_dtype_and_gradient():
    process = P.VP()
    x = torch.randn(2, 3, requires_grad=True)
    y = LINE.denoiser(process)(x, torch.tensor([0.3, 0.7]), label=None)
    assert y.dtype == torch.float32
    z = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda v: PLANE.denoiser(process, "velocity")(v, 0.4), z)
    assert LINE.denoiser(process)(x.half(), 0.5).dtype == torch.float16


def test_samples_follow_the_mixture():
    x = LINE.sample((200_000,), seed=1)
    mean = 0.3 * -1.0 + 0.7 * 1.5
    var = 0.3 * (0.09 + 1) + 0.7 * (0.25 + 2.25) - mean**2
    assert x.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(var / 200_000))
    assert x.var().item() == pytest.approx(var, rel=0.02)
    assert torch.equal(x, LINE.sample((200_000,), seed=1))
    assert not torch.equal(x, LINE.sample((200_000,), seed=2))
    assert PLANE.sample((4, 5, 2)).shape == (4, 5, 2)
    with pytest.raises(ValueError, match=r"does not end in the event \(2,\)"):
        PLANE.sample((4, 3))


def test_mixtures_are_checked():
    wrong = (([0.5, 0.5], [0.0], [1.0]), ([0.5, -0.5], [0.0, 1.0], [1.0, 1.0]), ([1.0], 0.0, [1.0]))
    for args in wrong:
        with pytest.raises(ValueError, match="GaussianMixture"):
            GaussianMixture(*args)


@pytest.mark.parametrize("key", processes.names(kind="gaussian"))
def test_flow_of_one_gaussian_is_the_closed_form(key):
    """From the noisiest time to the zero, through alpha = 0 and sigma = 0 where the process has them, and
    back."""
    pytest.importorskip("scipy")
    process, gauss = processes.make(key), GaussianMixture([1.0], [0.7], [0.4])
    top = process.t_max * (0.999 if process.node(process.t_max).clean else 1)  # a bridge's far end has no law
    x = process.prior_std(top) * np.linspace(-2.5, 2.5, 11)
    for t0, t1 in ((top, process.t_zero), (process.t_min, 0.6 * process.t_max)):
        want = gaussian_flow(0.7, 0.4, process, x, t0, t1)
        assert np.abs(pf_ode(gauss, process, x, t0, t1) - want).max() < 1e-10 * max(1, np.abs(want).max())
    assert isinstance(pf_ode(gauss, process, torch.zeros(2, 3), top, process.t_min), torch.Tensor)


def test_flow_of_a_mixture_is_that_of_another_equation():
    """dy / dlam = e^lam E[x0 | sigma y], y = x / sigma, by classical RK4 with 1000 steps."""
    pytest.importorskip("scipy")
    process, x = P.VP(), np.linspace(-2.5, 2.5, 11)
    t0, t1 = process.time_of(-2.5), process.time_of(2.5)

    def slope(lam, y):
        t = process.time_of(lam)
        a, s = process.alpha(t), process.sigma(t)
        mixture = ((0.3, -1.0, 0.3), (0.7, 1.5, 0.5))
        parts = [(a * a * d * d + s * s, s * y - a * m, w, m, d) for w, m, d in mixture]
        odds = [w / math.sqrt(v) * np.exp(-off * off / (2 * v)) for v, off, w, m, d in parts]
        x0 = [m + a * d * d / v * off for v, off, w, m, d in parts]
        return math.exp(lam) * sum(o * e for o, e in zip(odds, x0, strict=True)) / sum(odds)

    y, steps = x / process.sigma(t0), 1000
    h = 5.0 / steps
    for i in range(steps):
        lam = -2.5 + i * h
        k1 = slope(lam, y)
        k2 = slope(lam + h / 2, y + h / 2 * k1)
        k3 = slope(lam + h / 2, y + h / 2 * k2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(lam + h, y + h * k3))
    end = pf_ode(LINE, process, x, t0, t1)
    assert np.abs(end - process.sigma(t1) * y).max() < 2e-9
    assert np.abs(pf_ode(LINE, process, end, t1, t0) - x).max() < 1e-10
    pair = pf_ode(PLANE, process, np.array([[0.3, -0.8]]), t0, t1)  # an event moves as a whole
    assert np.abs(pf_ode(PLANE, process, np.array([[9.0, 9.0], [0.3, -0.8]]), t0, t1)[1:] - pair).max() < 1e-9


def ancestral(process, times, eta=1.0):
    """The ddpm step as its paper has it, from a noise prediction."""
    def run(model, x, noise):
        for s, t in zip(times, times[1:], strict=False):
            a, b, p, q = process.alpha(s), process.alpha(t), process.sigma(s), process.sigma(t)
            x0 = (x - p * model(x, s)) / a
            h = process.lam(t) - process.lam(s)
            x = q / p * math.exp(-h) * x + b * -expm1(-2 * h) * x0 + q * math.sqrt(-expm1(-2 * h)) * noise()
        return x

    return run


def test_affine_law_golden():
    """The variance error of 20 ancestral steps on N(0.7, 0.4^2), lambda uniform in [-2.5, 2.5], by
    independent code."""
    process = P.VP()
    times = [process.time_of(lam) for lam in np.linspace(-2.5, 2.5, 21)]
    law = affine_law(ancestral(process, times), process, times[0], mean=0.7, std=0.4)
    a, s = process.alpha(times[-1]), process.sigma(times[-1])
    assert law.variance - (0.16 * a * a + s * s) == pytest.approx(-3.40715074275e-02, rel=1e-9)
    assert law.mean == pytest.approx(a * 0.7, rel=1e-12) and law.draws == 20 and len(law.row) == 22
    assert law.std == pytest.approx(math.sqrt(law.variance))


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("key", ["vp", "edm", "flow-matching"])
def test_affine_law_of_the_exact_step(key, predicts):
    """Euler's limit: one exact step of the flow, read off any prediction, keeps the marginal exactly."""
    process = processes.make(key)
    t0, t1 = 0.8 * process.t_max, 0.3 * process.t_max
    s, t = process.node(t0), process.node(t1)
    v0, v1 = ((n.alpha * 0.4) ** 2 + n.sigma**2 for n in (s, t))

    def run(model, x, noise):
        p, q = convert(predicts, "score", s)
        score = p * x + q * model(x, s)  # -(x - alpha mean) / v0
        return t.alpha / s.alpha * (x + v0 * score) - math.sqrt(v1 * v0) * score

    law = affine_law(run, process, t0, mean=0.7, std=0.4, predicts=predicts)
    assert law.mean == pytest.approx(0.7 * t.alpha, rel=1e-9) and law.variance == pytest.approx(v1, rel=1e-9)
    shifted = affine_law(run, process, t0, mean=0.7, std=0.4, predicts=predicts, start=(0.0, 0.0))
    assert shifted.variance == 0
    assert shifted.mean == pytest.approx(gaussian_flow(0.7, 0.4, process, 0.0, t0, t1), rel=1e-9)


def test_affine_law_draws():
    """The same key is the same draw; no key is a new one."""
    process = P.VP()
    law = affine_law(lambda m, x, n: 0 * x + n("a") + n("a") + n(), process, 0.5)
    assert law.variance == 5 and law.draws == 2
    by_time = affine_law(lambda m, x, n: m(x, torch.tensor([0.5])) + m(x, process.node(0.5)), process, 0.5)
    assert by_time.row[1].item() == pytest.approx(2 * process.sigma(0.5), rel=1e-6)
    with pytest.raises(ValueError, match="more than draws=3"):
        affine_law(lambda m, x, n: [n() for _ in range(4)][-1], process, 0.5, draws=3)
    with pytest.raises(ValueError, match="unknown prediction"):
        affine_law(lambda m, x, n: x, process, 0.5, predicts="epsilon")


def test_order_of():
    steps = [10, 20, 40, 80, 160]
    assert order_of([3.0 * n**-2.0 for n in steps], steps) == pytest.approx(2)
    assert order_of([n**-3.0 + 5 * n**-4.0 for n in steps], steps) == pytest.approx(3, abs=0.06)
    flat = [n**-4.0 if n < 100 else 1e-16 for n in steps]  # rounding is left out
    assert order_of(flat, steps) == pytest.approx(4)
    assert order_of([n**-2.0 for n in steps[::-1]], steps[::-1]) == pytest.approx(2)
    wrong = (([1.0], [1]), ([1.0, math.nan], [1, 2]), ([1e-15, 1e-16], [1, 2]), ([1.0, 1.0], [4, 4]))
    for errors, counts in wrong:
        with pytest.raises(ValueError, match="order_of"):
            order_of(errors, counts)


def test_import_needs_no_scipy():
    code = "import sys, fastdiff.testing; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
