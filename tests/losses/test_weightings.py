"""Weightings against the table they come from, in every prediction's space."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import weightings

DOUBLE = torch.float64
PROCESSES = [fd.processes.VP(), fd.processes.FlowMatching(), fd.processes.EDM(), fd.processes.SubVP()]
WX: dict[str, tuple[dict[str, Any], Callable[..., Tensor]]] = {  # from alpha, sigma, alpha', sigma'
    "noise": ({}, lambda a, s, da, ds: (a / s) ** 2),
    "data": ({}, lambda a, s, da, ds: torch.ones_like(a)),
    "velocity": ({}, lambda a, s, da, ds: ((a**2 + s**2) / s) ** 2),
    "flow": ({}, lambda a, s, da, ds: (da - a * ds / s) ** 2),
    "min-snr": ({"gamma": 5.0}, lambda a, s, da, ds: ((a / s) ** 2).clamp(max=5.0)),
    "soft-min-snr": ({"gamma": 4.0}, lambda a, s, da, ds: 4 * (a / s) ** 2 / ((a / s) ** 2 + 4)),
    "truncated-snr": ({}, lambda a, s, da, ds: ((a / s) ** 2).clamp(min=1)),
    "p2": ({"k": 2.0, "gamma": 0.5}, lambda a, s, da, ds: (a / s) ** 2 / (2 + (a / s) ** 2).sqrt()),
    "edm": ({"sigma_data": 0.5}, lambda a, s, da, ds: ((s / a) ** 2 + 0.25) / (s / a * 0.5) ** 2),
    "sigmoid": ({"b": -2.0}, lambda a, s, da, ds: (a / s) ** 2 / (1 + math.e**2 * (a / s) ** 2)),
    "warmup-clamp": (
        {"iteration": 5000},
        lambda a, s, da, ds: (((s / a) ** 2 + 0.25) / (s / a * 0.5) ** 2).clamp(max=50.0),
    ),
    "elbo": ({}, lambda a, s, da, ds: -(da / a - ds / s) * (a / s) ** 2),
}


def errors(predicts: str, node, e_x: Tensor) -> Tensor:
    """The error of a prediction that goes with e_x, x_t fixed, by turning both data predictions into it."""
    a, s = node.alpha, node.sigma
    x, x0 = torch.full_like(a, 0.7), torch.full_like(a, -0.3)

    def of(x0: Tensor) -> Tensor:
        eps = (x - a * x0) / s
        return {
            "noise": eps,
            "data": x0,
            "velocity": a * eps - s * x0,
            "flow": node.dalpha * x0 + node.dsigma * eps,
            "score": -eps / s,
        }[predicts]

    return of(x0 + e_x) - of(x0)


def test_every_key_is_here() -> None:
    assert set(weightings.names()) == {*WX, "constant", "diffusion-ts"}  # that of test_fourier_loss


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.key)
@pytest.mark.parametrize("key", WX)
def test_weight_of_the_error(key: str, process: fd.processes.VP) -> None:
    """w ||e||^2 in any prediction's space is w_x ||e_x||^2. Allowed: the rounding of the two conversions,
    whose terms are up to 1e4 of the difference near the ends."""
    options, wx = WX[key]
    t = torch.linspace(process.t_min + 1e-3, 0.97 * process.t_max, 7, dtype=DOUBLE)
    node, e_x = process.node(t), torch.full((7,), 0.37, dtype=DOUBLE)
    want = wx(node.alpha, node.sigma, node.dalpha, node.dsigma) * e_x**2
    for predicts in ("noise", "data", "velocity", "flow", "score"):
        weight = weightings.registry.make(key, **options).weight(node, predicts)
        torch.testing.assert_close(weight * errors(predicts, node, e_x) ** 2, want, rtol=1e-10, atol=0)


@pytest.mark.parametrize("predicts", ("noise", "data", "velocity", "flow", "score", "edm"))
def test_constant_is_one(predicts: str) -> None:
    node = fd.processes.VP().node(torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE))
    assert weightings.registry.make("constant").weight(node, predicts).tolist() == [1, 1, 1]


def test_flat_in_ones_own_space() -> None:
    """Of each space's own weighting; EDM's on the raw network (its table 1)."""
    t = torch.linspace(0.05, 0.9, 9, dtype=DOUBLE)
    for key in ("noise", "data", "velocity", "flow"):
        node = fd.processes.VP().node(t)
        one = weightings.registry.make(key).weight(node, key)
        torch.testing.assert_close(one, torch.ones_like(t), rtol=1e-12, atol=0)
    one = weightings.registry.make("edm").weight(fd.processes.EDM().node(t), "edm")
    torch.testing.assert_close(one, torch.ones_like(t), rtol=1e-12, atol=0)


def test_limits_at_the_ends() -> None:
    """Pure noise (alpha = 0): min-SNR in noise tends to 1, in data to 0; clean: to 0 and to gamma."""
    pure = fd.processes.FlowMatching().node(torch.tensor([1.0], dtype=DOUBLE))
    clean = fd.processes.FlowMatching().node(torch.tensor([0.0], dtype=DOUBLE))
    w = weightings.registry.make("min-snr")
    assert w.weight(pure, "noise").item() == pytest.approx(1, abs=1e-12)
    assert w.weight(pure, "data").item() < 1e-300
    assert w.weight(clean, "noise").item() < 1e-300
    assert w.weight(clean, "data").item() == pytest.approx(5)


@pytest.mark.parametrize("process", (fd.processes.VP(), fd.processes.VPCosine()), ids=lambda p: p.key)
def test_elbo_integrates_to_the_mutual_information(process: fd.processes.VP) -> None:
    """Scalar Gaussian data of variance c: mmse = c / (1 + c SNR) and dI/dSNR = mmse / 2, so the weighted
    optimal error integrates to [log(1 + c SNR)] / 2 between the ends (Guo, Shamai and Verdu 2005).
    Gauss-Legendre in lam with 200 points: exact to 1e-12 for this integrand."""
    import numpy as np

    c, (low, high) = 1.7, (1e-3, 0.98)
    lam0, lam1 = float(process.lam(high)), float(process.lam(low))
    x, g = np.polynomial.legendre.leggauss(200)
    lam = (lam1 - lam0) / 2 * x + (lam1 + lam0) / 2
    t = torch.from_numpy(process.time_of(lam))
    node = process.node(t)
    mmse = c / (1 + c * torch.exp(2 * node.lam))
    per_lam = weightings.registry.make("elbo").weight(node, "data") * mmse / -process.dlam(t)
    total = float((per_lam.numpy() * g).sum() * (lam1 - lam0) / 2)
    want = 0.5 * math.log((1 + c * math.exp(2 * lam1)) / (1 + c * math.exp(2 * lam0)))
    assert total == pytest.approx(want, rel=1e-9)


def test_errors() -> None:
    with pytest.raises(ValueError, match="unknown weighting 'min_snrr'; did you mean"):
        fd.losses.Denoising(fd.processes.VP(), "noise", weighting="min_snrr")
    with pytest.raises(ValueError, match="gamma must be > 0, got -1"):
        weightings.registry.make("min-snr", gamma=-1)
