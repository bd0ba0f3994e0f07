"""D-ODE: its numbers against a search, a closed form and the exact flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import fastdiff as fd
from fastdiff.testing import GaussianMixture, pf_ode
from fastdiff.tune.d_ode import DODE

VP = fd.processes.VP()
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
DENOISER = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")


def times_of(steps: int) -> np.ndarray:
    return np.asarray(VP.time_of(np.linspace(-2.5, 2.5, steps + 1)))


def starts(seed: int, count: int = 128) -> torch.Tensor:
    return fd.noise.normal((count, 1), seed).double() * float(VP.sigma(times_of(1)[0]))


def error(plan: fd.Plan, seed: int = 2, count: int = 256) -> float:
    x = starts(seed, count)
    exact = pf_ode(MIXTURE, VP, x, plan.times[0], plan.times[-1])
    return float((fd.Sampler(DENOISER, plan)(x) - exact).square().mean().sqrt())


def numbers(plan: fd.Plan) -> list[float]:
    assert plan.recipe is not None and isinstance(plan.recipe.solver, DODE)
    return [row[0] for row in plan.recipe.solver.rows]


@pytest.mark.parametrize("steps, published", [(5, 0.091), (6, 0.074), (8, 0.050)])
def test_ddim_comes_down_as_published(steps: int, published: float) -> None:
    """Figures of the same mixture and ends with an exact teacher, of a restart; on other starts, so within a
    fifth (the root of a mean of 256 squares)."""
    base = fd.plan("ddim", VP, times_of(steps))
    made = fd.tune.d_ode(DENOISER, base, starts(1), start="restart")
    assert error(made) < 1.2 * published and error(made) < error(base) / 2
    assert made.nfe == base.nfe and numbers(made)[0] == 0


@pytest.mark.parametrize("start", ["fixed", "restart"])
@pytest.mark.parametrize("key", ["ddim", "dpmpp-2m", "heun", "unipc", "euler", "dpmpp-2s"])
def test_never_raises_the_error(key: str, start: str) -> None:
    """On the starts it was given, against the exact flow; the teacher's own error, 1e-3 of the plan's here,
    may come on top."""
    base = fd.plan(key, VP, times_of(5))
    made = fd.tune.d_ode(DENOISER, base, starts(1, 64), start=start, fine=12)
    assert error(made, 1, 64) <= error(base, 1, 64) * 1.01


def test_the_number_is_the_best_of_a_search() -> None:
    """The last step of three, the others as fitted: nothing on a fine grid of numbers around it is better
    than the closed form, on the starts that it learnt from."""
    base = fd.plan("ddim", VP, times_of(3))
    x = starts(1, 3)  # of three, all are learnt from
    made = fd.tune.d_ode(DENOISER, base, x, fine=12)
    found = numbers(made)
    times = times_of(3)
    fine = fd.sample(DENOISER, x, solver="heun", times=VP.time_of(np.linspace(-2.5, 2.5, 37)))
    away = []
    grid = found[2] + np.linspace(-0.02, 0.02, 41)
    for v in grid:
        rows = (*((u,) for u in found[:2]), (float(v),))
        y = fd.sample(DENOISER, x, solver=DODE("ddim", rows), times=times)
        assert isinstance(y, torch.Tensor) and isinstance(fine, torch.Tensor)
        away.append(float((y - fine).square().sum()))
    assert abs(int(np.argmin(away)) - 20) <= 1  # the middle, to the grid's spacing


def test_data_linear_in_lambda_makes_it_adams_bashforth() -> None:
    """For D = lambda the exact step is of the weight int e^lambda (lambda - lambda_s) / (h_before int
    e^lambda) on the difference; the integrals by quadrature. A teacher of 100 Heun steps is good to 1e-4."""
    lam = np.array([-1.0, -0.4, 0.3, 0.9])
    solver = "dpmpp-2m"  # asks for data; of order 1 it is DDIM

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return VP.lam(t)[:, None].to(x.dtype) * torch.ones_like(x)

    denoiser = fd.Denoiser(net, VP, predicts="data")
    base = fd.plan(solver, VP, VP.time_of(lam), predicts="data", order=1)
    made = fd.tune.d_ode(denoiser, base, starts(1, 3), start="restart", fine=100)
    for i in (1, 2):
        whole = quad(np.exp, lam[i], lam[i + 1])[0]
        first = quad(lambda v, a=lam[i]: np.exp(v) * (v - a), lam[i], lam[i + 1])[0]
        assert numbers(made)[i] == pytest.approx(first / whole / (lam[i] - lam[i - 1]), rel=1e-3)


def test_without_its_numbers_it_is_the_solver() -> None:
    for key in ("ddim", "unipc", "heun"):
        mended = fd.plan(DODE(key, ((0.0,),) * 4), VP, times_of(4))
        assert all(map(np.array_equal, mended.coeffs, fd.plan(key, VP, times_of(4)).coeffs))


def test_guided_saved_and_resumed(tmp_path: Path) -> None:
    def net(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * y[:, None]) + t[:, None] * x

    y = torch.linspace(0, 1, 16, dtype=torch.float64)
    guided = fd.guidance.CFG(2.0, uncond={"y": torch.zeros(1, dtype=torch.float64)})
    base = fd.plan("ddim", VP, np.append(times_of(3), 0.0), guidance=guided)
    denoiser = fd.Denoiser(net, VP, predicts="noise")
    how: dict[str, Any] = {"cond": {"y": y}}
    file = tmp_path / "search.pt"
    made = fd.tune.d_ode(denoiser, base, starts(1, 16), resume=file, progress=True, **how)
    held = torch.load(file)
    assert len(held["rows"]) == 4 and any(v for (v,) in held["rows"])
    torch.save({**held, "rows": held["rows"][:2]}, file)  # as if it had been stopped after two steps
    assert fd.tune.d_ode(denoiser, base, starts(1, 16), resume=file, **how) == made
    made.save(tmp_path / "plan.json")
    loaded = fd.Plan.load(tmp_path / "plan.json", hooks=made.hooks)
    ends = [fd.Sampler(denoiser, p)(starts(3, 16), **how) for p in (made, loaded)]
    assert torch.equal(*ends) and made.nfe == base.nfe


def test_says_what_is_wrong(tmp_path: Path) -> None:
    base = fd.plan("ddim", VP, times_of(3))
    for bad in ({"start": "free"}, {"fine": 0}):
        with pytest.raises(ValueError):
            fd.tune.d_ode(DENOISER, base, starts(1, 4), **bad)
    with pytest.raises(ValueError, match="draws noise"):
        fd.tune.d_ode(DENOISER, fd.plan("ddpm", VP, times_of(3)), starts(1, 4))
    with pytest.raises(TypeError, match="plan"):
        fd.tune.d_ode(DENOISER, "ddim", starts(1, 4))  # type: ignore[arg-type]
    base.save(tmp_path / "plan.json")
    with pytest.raises(ValueError, match="no formula"):
        fd.tune.d_ode(DENOISER, fd.Plan.load(tmp_path / "plan.json"), starts(1, 4))
