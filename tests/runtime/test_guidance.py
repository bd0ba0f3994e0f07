"""Guidance against formulas written out by hand: classifier-free, rescaled, thresholds and clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.guidance import CFG, Clip, DynamicThreshold, Rescale
from fastdiff.testing.solvers import planned

KINDS = ("noise", "data", "velocity", "flow", "score")


def net(x: Tensor, t: Tensor, y: Any = 0.0) -> Tensor:
    y = y.reshape(-1, *[1] * (x.dim() - 1)) if isinstance(y, Tensor) and y.dim() else y
    return x / (x * x + 1) * (1 + 0.1 * y) + 0.3 * y


def combined(scale: float, c: Any, u: Any) -> Any:
    return lambda x, t: net(x, t, u) + scale * (net(x, t, c) - net(x, t, u))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp-2m", "unipc", "dpmpp-2m-sde"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_combination_by_hand(vp: fd.processes.VP, kind: str, solver: str) -> None:
    x, c, u = (
        torch.randn(4, 3, 2, dtype=torch.float64),
        torch.randn(4, dtype=torch.float64),
        torch.randn(4, dtype=torch.float64),
    )
    run = {"solver": solver, "steps": 6, "seeds": 0}
    if kind in ("velocity", "flow", "score"):
        run["times"] = np.append(np.linspace(0.9, 0.05, 6), 0)
    guided = fd.sample(
        fd.Denoiser(net, vp, predicts=kind), x, cond={"y": c}, guidance=CFG(3.0, uncond={"y": u}), **run
    )
    by_hand = fd.sample(fd.Denoiser(combined(3.0, c, u), vp, predicts=kind), x, **run)
    torch.testing.assert_close(guided, by_hand, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale,branch", [(1.0, "y"), (1, "y"), (0.0, "u")])
def test_scale_1_and_0_call_one_branch_only(
    vp: fd.processes.VP, nets: Any, scale: float, branch: str
) -> None:
    counted = nets.Counted(net)
    values = {"y": torch.ones(4), "u": -torch.ones(4)}
    guidance = CFG(scale, uncond={"y": values["u"]})
    got = fd.sample(
        fd.Denoiser(counted, vp, predicts="noise"),
        (4, 5),
        steps=5,
        seeds=0,
        cond={"y": values["y"]},
        guidance=guidance,
    )
    assert counted.calls == 5
    assert all(x.shape[0] == 4 and torch.equal(c["y"], values[branch]) for x, _, c in counted.seen)
    alone = fd.sample(
        fd.Denoiser(net, vp, predicts="noise"), (4, 5), steps=5, seeds=0, cond={"y": values[branch]}
    )
    assert torch.equal(got, alone)
    times = fd.grid("logsnr", vp, steps=5)
    assert fd.plan("dpmpp-2m", vp, times, guidance=guidance).nfe == 5
    assert fd.plan("dpmpp-2m", vp, times, guidance=CFG(2.0)).nfe == 10


def test_outside_its_interval_one_branch_is_called(vp: fd.processes.VP, nets: Any) -> None:
    times = fd.grid("logsnr", vp, steps=12)
    rho = np.exp(-np.asarray(vp.lam(times[:-1])))
    lo, hi = float(rho[7] * rho[8]) ** 0.5, float(rho[1] * rho[2]) ** 0.5  # between nodes: 2 .. 7 lie inside
    counted, cond = nets.Counted(net), {"y": torch.ones(4, dtype=torch.float64)}
    guidance = CFG(3.0, uncond={"y": torch.zeros(4, dtype=torch.float64)}, interval=(lo, hi))
    x = torch.randn(4, 5, dtype=torch.float64)
    got = fd.sample(
        fd.Denoiser(counted, vp, predicts="noise"), x, times=times, seeds=0, cond=cond, guidance=guidance
    )
    sizes = [len(x) for x, _, _ in counted.seen]
    assert sizes == [8 if 2 <= k < 8 else 4 for k in range(12)]
    assert all(bool((c["y"][-1] == (0 if len(x) == 8 else 1)).all()) for x, _, c in counted.seen)
    plan = fd.plan("dpmpp-2m", vp, times, guidance=guidance)
    assert plan.nfe == 12 + 6

    def by_hand(x: Tensor, t: Tensor) -> Tensor:
        inside = lo < float(np.exp(-vp.lam(float(t[0])))) <= hi
        return combined(3.0, 1.0, 0.0)(x, t) if inside else net(x, t, 1.0)

    torch.testing.assert_close(
        got, fd.sample(fd.Denoiser(by_hand, vp, predicts="noise"), x, times=times), rtol=1e-10, atol=1e-10
    )


def test_conditions_of_all_kinds(vp: fd.processes.VP, nets: Any) -> None:
    """Stacked into one batch where they stack, one call each where not; the samples are the same."""
    x = torch.randn(4, 5, dtype=torch.float64)
    run = {"steps": 4, "solver": "dpmpp-2m"}
    c, u = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    shared = {"table": torch.randn(7, 3)}  # of no batch: handed on as it is

    def wide(x: Tensor, t: Tensor, y: Any, **rest: Any) -> Tensor:
        assert rest.get("table", shared["table"]) is shared["table"]
        return net(x, t, y["y"] if isinstance(y, dict) else y)

    cases = {
        "stack": (c, u, 1),
        "one of all": (c[:1], u[:1], 1),
        "one against many": (c, u[:1], 1),
        "dicts": ({"y": c}, {"y": u}, 1),
        "ints": (2, 5, 2),
        "a number and a tensor": (c, 0.0, 2),
        "another dtype": (c, u.float(), 2),
        "numbers without axes": (torch.tensor(2.0), torch.tensor(5.0), 2),
        "the same": (c, c, 1),
    }
    for name, (given, negative, calls) in cases.items():
        counted = nets.Counted(wide)
        den = fd.Denoiser(counted, vp, predicts="noise")
        got = fd.sample(den, x, cond={"y": given, **shared}, guidance=CFG(2.5, uncond={"y": negative}), **run)
        plain = [v["y"] if isinstance(v, dict) else v for v in (given, negative)]
        want = fd.sample(fd.Denoiser(combined(2.5, *plain), vp, predicts="noise"), x, **run)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
        assert counted.calls == 4 * calls, name


def test_without_a_condition_of_its_own_the_plain_call_has_none(vp: fd.processes.VP) -> None:
    x = torch.randn(4, 5, dtype=torch.float64)
    got = fd.sample(fd.Denoiser(net, vp, predicts="noise"), x, steps=4, guidance=CFG(2.0, uncond={"y": 1.0}))
    want = fd.sample(fd.Denoiser(combined(2.0, 0.0, 1.0), vp, predicts="noise"), x, steps=4)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_in_chunks(vp: fd.processes.VP) -> None:
    """The unconditional half is per sample too."""
    den = fd.Denoiser(net, vp, predicts="noise")
    run = {
        "steps": 4,
        "seeds": 0,
        "cond": {"y": torch.randn(8)},
        "guidance": CFG(2.0, uncond={"y": torch.randn(8)}),
    }
    assert torch.equal(fd.sample(den, (8, 5), **run), fd.sample(den, (8, 5), chunk=3, **run))


def test_one_output_written_over_the_other_is_found(vp: fd.processes.VP) -> None:
    held = torch.empty(4, 5)

    def greedy(x: Tensor, t: Tensor, y: int) -> Tensor:
        return torch.mul(x, 0.1 * y, out=held)

    with pytest.raises(ValueError, match="over"):
        fd.sample(
            fd.Denoiser(greedy, vp, predicts="noise"),
            (4, 5),
            steps=4,
            cond={"y": 1},
            guidance=CFG(2.0, uncond={"y": 0}),
        )


@pytest.mark.parametrize(
    "scale,mean,var", [(1.0, 0.9970, 0.1995), (1.5, 1.2069, 0.0892), (3.0, 1.3982, 0.0079)]
)
@pytest.mark.parametrize("kind", ["noise", "data"])
def test_exact_law_on_gaussians(
    vp: fd.processes.VP, scale: float, mean: float, var: float, kind: str
) -> None:
    """Conditional N(1, 0.2), unconditional N(0, 1), DDIM on 2000 steps of lambda from -5 to 5. The sampler is
    affine, so two runs give its law; the values were found by an affine recursion apart from this code. The
    tilted law p_u^(1-w) p_c^w would be N(1.0714, 0.1429) and N(1.1538, 0.0769): guidance does not sample it.
    """

    def exact(x: Tensor, t: Tensor, m: Tensor, v: Tensor) -> Tensor:
        a, s = (torch.as_tensor(f(t.numpy()))[:, None] for f in (vp.alpha, vp.sigma))
        m, v = m[:, None], v[:, None]
        x0 = m + a * v / (a * a * v + s * s) * (x - a * m)
        return x0 if kind == "data" else (x - a * x0) / s

    one = torch.ones(2, dtype=torch.float64)
    times = vp.time_of(np.linspace(-5, 5, 2001))
    y = fd.sample(
        fd.Denoiser(exact, vp, predicts=kind),
        torch.tensor([[0.0], [1.0]], dtype=torch.float64),
        solver="ddim",
        times=times,
        cond={"m": one, "v": 0.2 * one},
        guidance=CFG(scale, uncond={"m": 0 * one, "v": one}),
    )
    offset, slope = float(y[0]), float(y[1] - y[0])
    assert offset == pytest.approx(mean, abs=1e-4) and slope**2 == pytest.approx(var, abs=1e-4)


def test_cfg_costs_no_stage(vp: fd.processes.VP) -> None:
    times = fd.grid("logsnr", vp, steps=8)
    for solver in planned():
        plain, guided = fd.plan(solver, vp, times), fd.plan(solver, vp, times, guidance=CFG(3.0))
        assert len(guided.stages) == len(plain.stages) and guided.carried <= plain.carried + 1, solver
        assert {c.kind for c in guided.calls} == {"net"}


# thresholds and rescaling, against a loop written out for DDIM


def ddim_by_hand(vp: fd.processes.VP, x: Tensor, times: np.ndarray, data: Any) -> Tensor:
    for s, t in zip(times, times[1:], strict=False):
        a, s_, a_t, s_t = vp.alpha(s), vp.sigma(s), vp.alpha(t), vp.sigma(t)
        x0 = data(x, float(s), a, s_)
        x = a_t * x0 + s_t * (x - a * x0) / s_
    return x


def noise_of(x: Tensor, s: float, y: float) -> Tensor:
    return net(x, torch.full((len(x),), s, dtype=x.dtype), y)


@pytest.mark.parametrize("space", ["network", "data"])
@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescale(vp: fd.processes.VP, space: Any, phi: float) -> None:
    times, x = np.append(np.linspace(0.9, 0.05, 5), 0.0), torch.randn(3, 4, 6, dtype=torch.float64)

    def data(x: Tensor, s: float, a: float, sigma: float) -> Tensor:
        c, u = noise_of(x, s, 1.0), noise_of(x, s, 0.0)
        out = u + 4.0 * (c - u)
        if space == "data":
            c, out = (x - sigma * c) / a, (x - sigma * out) / a
        r = c.flatten(1).std(1) / out.flatten(1).std(1)
        out = (phi * r + 1 - phi)[:, None, None] * out
        return out if space == "data" else (x - sigma * out) / a

    got = fd.sample(
        fd.Denoiser(net, vp, predicts="noise"),
        x,
        solver="ddim",
        times=times,
        cond={"y": 1.0},
        guidance=CFG(4.0, uncond={"y": 0.0}),
        hooks=[Rescale(phi, space=space)],
    )
    torch.testing.assert_close(got, ddim_by_hand(vp, x, times, data), rtol=1e-10, atol=1e-10)


def test_rescale_outside_the_interval_and_of_one_branch(vp: fd.processes.VP) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    den, run = fd.Denoiser(net, vp, predicts="noise"), {"solver": "ddim", "steps": 4, "cond": {"y": 1.0}}
    plain = fd.sample(den, x, **run)
    for guidance in (CFG(1.0, uncond={"y": 0.0}), CFG(3.0, uncond={"y": 0.0}, interval=(1e8, 1e9)), None):
        got = fd.sample(den, x, guidance=guidance, hooks=[Rescale(0.7)], **run)
        torch.testing.assert_close(got, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p,cap", [(0.995, None), (0.5, None), (0.9, 1.5), (1.0, 2.0)])
def test_dynamic_threshold(vp: fd.processes.VP, p: float, cap: float | None) -> None:
    times, x = np.append(np.linspace(0.9, 0.05, 5), 0.0), 2 * torch.randn(3, 7, 5, dtype=torch.float64)

    def data(x: Tensor, s: float, a: float, sigma: float) -> Tensor:
        x0 = (x - sigma * noise_of(x, s, 0.0)) / a
        q = torch.quantile(x0.abs().flatten(1), p, dim=1).clamp(min=1)
        q = (q if cap is None else q.clamp(max=cap))[:, None, None]
        return torch.minimum(torch.maximum(x0, -q), q) / q

    got = fd.sample(
        fd.Denoiser(net, vp, predicts="noise"),
        x,
        solver="ddim",
        times=times,
        hooks=[DynamicThreshold(p, cap)],
    )
    torch.testing.assert_close(got, ddim_by_hand(vp, x, times, data), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (2, 1000), (1, 3, 33, 7)])
@pytest.mark.parametrize("p", [0.995, 0.5, 1.0, 1e-9, 0.3])
def test_quantile_is_torchs(shape: tuple[int, ...], p: float) -> None:
    x = torch.randn(shape, dtype=torch.float64) * 3
    q = torch.quantile(x.abs().flatten(1), p, dim=1).clamp(min=1).reshape(-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(
        DynamicThreshold(p).predict(None, x), x.clamp(-q, q) / q, rtol=1e-13, atol=1e-13
    )


def test_quantile_of_large_samples() -> None:
    """More than torch.quantile takes (16 M elements): the order statistics by numpy's partition."""
    x = torch.randn(1, 17_000_000, generator=torch.Generator().manual_seed(0))
    k = int(0.995 * (x.numel() - 1))
    a, b = np.partition(x.abs().numpy()[0], [k, k + 1])[k : k + 2]
    q = a + (b - a) * (0.995 * (x.numel() - 1) - k)
    got = DynamicThreshold(0.995).predict(None, x)
    assert float(got.abs().max()) == 1.0 and float(got.abs().min() * q) == pytest.approx(
        float(x.abs().min()), rel=1e-5
    )


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 0.5)])
def test_clip(vp: fd.processes.VP, bounds: tuple[float, float]) -> None:
    times, x = np.append(np.linspace(0.9, 0.05, 5), 0.0), 2 * torch.randn(3, 7, 5, dtype=torch.float64)

    def data(x: Tensor, s: float, a: float, sigma: float) -> Tensor:
        return ((x - sigma * noise_of(x, s, 0.0)) / a).clip(*bounds)

    got = fd.sample(
        fd.Denoiser(net, vp, predicts="noise"), x, solver="ddim", times=times, hooks=[Clip(*bounds)]
    )
    torch.testing.assert_close(got, ddim_by_hand(vp, x, times, data), rtol=1e-10, atol=1e-10)
    assert got.min() >= bounds[0] - 1e-12 and got.max() <= bounds[1] + 1e-12


def test_hooks_in_half_precision_work_wide(vp: fd.processes.VP) -> None:
    """Statistics of a bfloat16 state are taken in float32 and rounded once."""
    x = 4 * torch.randn(2, 3, 16, 16)
    half, q = (
        x.bfloat16(),
        torch.quantile(x.bfloat16().float().abs().flatten(1), 0.9, dim=1).clamp(min=1)[:, None, None, None],
    )
    got = DynamicThreshold(0.9).predict(None, half)
    torch.testing.assert_close(got.bfloat16(), (half.float().clamp(-q, q) / q).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "make,error,match",
    [
        (lambda: CFG("3"), TypeError, "scale"),
        (lambda: CFG(float("nan")), ValueError, "scale"),
        (lambda: CFG(True), TypeError, "scale"),
        (lambda: CFG(2.0, uncond=[1]), TypeError, "uncond"),
        (lambda: CFG(2.0, interval=(2, 1)), ValueError, "interval"),
        (lambda: CFG(2.0, interval=3.0), TypeError, "interval"),
        (lambda: CFG(2.0, interval=(1, 2, 3)), ValueError, "interval"),
        (lambda: CFG(2.0, interval=(float("nan"), 1)), ValueError, "interval"),
        (lambda: CFG(2.0, interval="ab"), TypeError, "interval"),
        (lambda: Rescale(1.5), ValueError, "phi"),
        (lambda: Rescale("a"), TypeError, "phi"),
        (lambda: Rescale(0.7, space="noise"), ValueError, "space"),
        (lambda: DynamicThreshold(0.0), ValueError, "quantile"),
        (lambda: DynamicThreshold(1.1), ValueError, "quantile"),
        (lambda: DynamicThreshold("a"), TypeError, "quantile"),
        (lambda: DynamicThreshold(0.9, cap=0.5), ValueError, "cap"),
        (lambda: Clip(1.0, 1.0), ValueError, "low"),
        (lambda: Clip("a", 1.0), TypeError, "low"),
        (lambda: Clip(float("nan"), 1.0), ValueError, "low"),
    ],
)
def test_wrong_options(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_rescale_needs_more_than_one_element(vp: fd.processes.VP) -> None:
    with pytest.raises(ValueError, match="Rescale"):
        fd.sample(
            fd.Denoiser(net, vp, predicts="noise"),
            (4, 1),
            steps=4,
            cond={"y": 1.0},
            guidance=CFG(2.0, uncond={"y": 0.0}),
            hooks=[Rescale()],
        )
