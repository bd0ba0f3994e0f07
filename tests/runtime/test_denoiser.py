"""Denoiser: what the network is given, what may come back; every kind of prediction gives one sample."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd

PROCESSES = {
    "vp": fd.processes.VP(),
    "cosine": fd.processes.VPCosine(),
    "ve": fd.processes.VE(sigma_max=10.0),
    "edm": fd.processes.EDM(sigma_max=10.0),
    "flow": fd.processes.FlowMatching(),
    "discrete": fd.processes.DiscreteVP(),
    "sub-vp": fd.processes.SubVP(),
}
X64 = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp-2m", "dpmpp-2m-sde", "unipc", "heun"])
@pytest.mark.parametrize("name", PROCESSES)
def test_every_prediction_gives_the_same_samples(nets: Any, name: str, solver: str) -> None:
    process = PROCESSES[name]
    top = (
        process.t_max if process.alpha(process.t_max) > 1e-6 else process.t_max * 0.98
    )  # all predictions exist there
    times = np.append(np.linspace(top, process.t_min, 8), process.t_zero)
    made = {}
    for kind in ("noise", "data", "velocity", "flow", "score"):
        denoiser = fd.Denoiser(nets.Mixture(process, kind), process, predicts=kind)
        made[kind] = fd.sample(denoiser, X64 * process.prior_std(top), solver=solver, times=times, seeds=1)
    raw = fd.Denoiser(nets.Mixture(process, "edm"), process, precondition="edm", time="t")
    made["edm"] = fd.sample(raw, X64 * process.prior_std(top), solver=solver, times=times, seeds=1)
    for kind, x in made.items():
        torch.testing.assert_close(x, made["data"], rtol=1e-8, atol=1e-8, msg=lambda m, k=kind: f"{k}: {m}")


def test_called_it_is_the_data_prediction(nets: Any) -> None:
    for process in PROCESSES.values():
        t = np.linspace(process.t_min, process.t_max, 8)[1:-1]
        a, s = (torch.as_tensor(f(t))[:, None] for f in (process.alpha, process.sigma))
        want = nets.Mixture(process, "data").data(X64, a, s)
        for kind in ("noise", "data", "velocity", "flow", "score", "edm"):
            how = {"precondition": "edm", "time": "t"} if kind == "edm" else {"predicts": kind}
            denoiser = fd.Denoiser(nets.Mixture(process, kind), process, **how)
            for times in (t, torch.as_tensor(t), t.tolist()):
                torch.testing.assert_close(denoiser(X64, times), want, rtol=1e-8, atol=1e-8)
        one = float(t[2])
        torch.testing.assert_close(
            denoiser(X64, one),
            nets.Mixture(process, "data").data(
                X64, *(torch.tensor(f(one), dtype=torch.float64) for f in (process.alpha, process.sigma))
            ),
            rtol=1e-8,
            atol=1e-8,
        )


def test_edm_preconditioning_is_karras_formula() -> None:
    """D(x; sigma) = c_skip x + c_out F(c_in x; ln(sigma) / 4), as table 1 of arXiv:2206.00364 has it."""
    process, seen = fd.processes.EDM(sigma_data=0.7), []

    def raw(x: Tensor, c_noise: Tensor) -> Tensor:
        seen.append((x, c_noise))
        return torch.tanh(x) + c_noise[:, None]

    sigma, sd = torch.tensor([0.01, 0.3, 2.0, 17.0, 60.0, 80.0], dtype=torch.float64)[:, None], 0.7
    c_skip = sd**2 / (sigma**2 + sd**2)
    c_out = sigma * sd / (sigma**2 + sd**2).sqrt()
    c_in = 1 / (sigma**2 + sd**2).sqrt()
    want = c_skip * X64 + c_out * (torch.tanh(c_in * X64) + sigma.log() / 4)
    got = fd.Denoiser(raw, process, precondition="edm")(X64, sigma[:, 0])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen[0][0], c_in * X64, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen[0][1], sigma[:, 0].log() / 4, rtol=1e-12, atol=1e-12)
    seen.clear()
    x = fd.sample(
        fd.Denoiser(raw, process, precondition="edm"), 80 * X64, solver="euler", times=[80.0, 17.0, 2.0, 0.0]
    )
    y, levels = 80 * X64, [80.0, 17.0, 2.0, 0.0]
    for s, t in zip(levels, levels[1:], strict=False):  # k-diffusion's sample_euler
        denoised = sd**2 / (s**2 + sd**2) * y + s * sd / (s**2 + sd**2) ** 0.5 * (
            torch.tanh(y / (s**2 + sd**2) ** 0.5) + np.log(s) / 4
        )
        y = y + (y - denoised) / s * (t - s)
    torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "dtype,want",
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
@pytest.mark.parametrize("kind", ["t", "sigma", "lambda", "c_noise", ("index", 1000), ("index", 25)])
def test_what_time_the_network_is_given(nets: Any, kind: Any, dtype: torch.dtype, want: torch.dtype) -> None:
    process, net = fd.processes.VP(), nets.Counted(lambda x, t: x)
    times = np.array([1.0, 0.7321, 0.31, 0.04, 0.0])
    fd.sample(
        fd.Denoiser(net, process, predicts="noise", time=kind), X64.to(dtype), solver="ddim", times=times
    )
    t = times[:-1]
    log_alpha = -(t**2) * (20 - 0.1) / 4 - t * 0.1 / 2
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    value = {
        "t": t,
        "sigma": sigma / alpha,
        "lambda": np.log(alpha / sigma),
        "c_noise": np.log(sigma / alpha) / 4,
    }
    for k, (x, given, _) in enumerate(net.seen):
        assert given.shape == (6,) and (given == given[0]).all() and x.dtype == dtype
        if isinstance(kind, tuple):
            assert given.dtype == torch.int64
            assert int(given[0]) == np.clip(round(t[k] * kind[1] - 1), 0, kind[1] - 1)
        else:
            assert given.dtype == want
            assert float(given[0]) == pytest.approx(
                value[kind][k], rel=1e-12 if want == torch.float64 else 1e-6
            )


def test_a_discrete_process_gives_its_networks_their_steps(nets: Any) -> None:
    net = nets.Counted(lambda x, t: x)
    process = fd.processes.DiscreteVP()
    fd.sample(
        fd.Denoiser(net, process, predicts="noise", time=("index", 1000)),
        (2, 3),
        steps=10,
        grid="trailing",
        solver="ddim",
        seeds=0,
    )
    assert [int(t[0]) for _, t, _ in net.seen] == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


def test_outputs_may_be_wrapped() -> None:
    process, x = fd.processes.VP(), torch.randn(3, 4, 6, 6)

    def f(x: Tensor) -> Tensor:
        return x / (1 + x * x)

    want = fd.sample(fd.Denoiser(lambda x, t: f(x), process, predicts="noise"), x, steps=4)
    for wrap in (
        lambda y: (y,),
        lambda y: [y, None],
        lambda y: (y, torch.zeros(1)),
        lambda y: SimpleNamespace(sample=y),
    ):
        assert torch.equal(
            fd.sample(fd.Denoiser(lambda x, t, w=wrap: w(f(x)), process, predicts="noise"), x, steps=4), want
        )
    twice = fd.Denoiser(
        lambda x, t: torch.cat([f(x), torch.full_like(x, float("nan"))], 1),
        process,
        predicts="noise",
        variance="learned-range",
    )
    assert torch.equal(fd.sample(twice, x, steps=4), want)
    assert torch.equal(
        fd.sample(twice, x[:, :, 0, 0], steps=4),
        fd.sample(fd.Denoiser(lambda x, t: f(x), process, predicts="noise"), x[:, :, 0, 0], steps=4),
    )
    plain = fd.Denoiser(lambda x, t: f(x), process, predicts="noise", variance="learned-range")
    assert torch.equal(fd.sample(plain, x, steps=4), want), (
        "a network without the extra channels is taken as it is"
    )


def test_x_dtype_and_networks_in_another_dtype(nets: Any) -> None:
    process, x = fd.processes.VP(), torch.randn(3, 4)

    def squash(x: Tensor, t: Tensor) -> Tensor:
        return x / (1 + x * x)

    for inner in (torch.bfloat16, torch.float16, torch.float64):
        net = nets.Counted(squash)
        y = fd.sample(fd.Denoiser(net, process, predicts="noise", x_dtype=inner), x, steps=5)
        assert y.dtype == torch.float32 and all(seen.dtype == inner for seen, _, _ in net.seen)
        close = {"rtol": 0.05, "atol": 0.3} if inner != torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(
            y, fd.sample(fd.Denoiser(squash, process, predicts="noise"), x, steps=5), **close
        )
        # the state keeps its dtype; the network's output is widened exactly, never rounded again
        cast = fd.Denoiser(lambda x, t, d=inner: squash(x, t).to(d), process, predicts="noise")
        wide = fd.Denoiser(lambda x, t, d=inner: squash(x, t).to(d).double(), process, predicts="noise")
        a, b = (fd.sample(d, x.double(), steps=5) for d in (cast, wide))
        assert torch.equal(a, b)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp-2m", "unipc"])
@pytest.mark.parametrize("looked_at", [False, True])
def test_networks_with_odd_memory(nets: Any, solver: str, looked_at: bool) -> None:
    """What shares memory with x or with itself, or lies in another order, against the same numbers in a
    tensor of their own."""
    process, x = fd.processes.VP(), torch.randn(3, 4, 5)
    const, held = torch.randn(3, 4, 5), torch.empty(3, 4, 5)
    weight = torch.nn.Parameter(const)

    def kept(x: Tensor, t: Tensor) -> Tensor:  # one tensor for all calls, but its values do not change
        return const

    odd = {
        "x itself": (lambda x, t: x, lambda x, t: x.clone()),
        "a view of x": (lambda x, t: x.flip(0).flip(0).view(3, 20).view(3, 4, 5), lambda x, t: x.clone()),
        "x shifted": (
            lambda x, t: x[..., :1].expand(3, 4, 5),
            lambda x, t: x[..., :1].expand(3, 4, 5).clone(),
        ),
        "not in order": (
            lambda x, t: (x * 2).transpose(0, 2).contiguous().transpose(0, 2),
            lambda x, t: x * 2,
        ),
        "expanded": (lambda x, t: const[:1].expand(3, 4, 5), lambda x, t: const[:1].repeat(3, 1, 1)),
        "the same tensor each time": (kept, lambda x, t: const.clone()),
        "a view of the same tensor": (lambda x, t: const[:], lambda x, t: const.clone()),
        "a parameter": (lambda x, t: weight, lambda x, t: const.clone()),
        "with a graph": (lambda x, t: weight * x, lambda x, t: const * x),
        "x_T": (lambda x_, t: x, lambda x_, t: x.clone()),
    }
    for name, (net, plain) in odd.items():
        run = {"solver": solver, "steps": 6, "check_finite": looked_at}
        got = fd.sample(fd.Denoiser(net, process, predicts="noise"), x, **run)
        assert torch.equal(got, fd.sample(fd.Denoiser(plain, process, predicts="noise"), x, **run)), name
        assert not got.requires_grad

    def overwrites(x: Tensor, t: Tensor) -> Tensor:
        torch.mul(x, 0.5, out=held)
        return held

    denoiser = fd.Denoiser(overwrites, process, predicts="noise")
    if solver == "ddim":  # nobody needs the earlier one
        want = fd.sample(
            fd.Denoiser(lambda x, t: x * 0.5, process, predicts="noise"), x, solver=solver, steps=6
        )
        assert torch.equal(fd.sample(denoiser, x, solver=solver, steps=6, check_finite=looked_at), want)
    else:
        with pytest.raises(ValueError, match="over an earlier one"):
            fd.sample(denoiser, x, solver=solver, steps=6, check_finite=looked_at)


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize("first", [0, 1, 4])
def test_a_network_that_changes_x_is_found(first: int, looked_at: bool) -> None:
    calls = [0]

    def net(x: Tensor, t: Tensor) -> Tensor:
        calls[0] += 1
        return (x.mul_(0.5) if calls[0] > first else x).clone()

    for solver in ("ddim", "dpmpp-2m"):
        calls[0] = 0
        denoiser = fd.Denoiser(net, fd.processes.VP(), predicts="noise")
        with pytest.raises(ValueError, match="in place"):
            fd.sample(denoiser, torch.randn(3, 4), solver=solver, steps=5, check_finite=looked_at)


@pytest.mark.parametrize(
    "looked_at", [{}, {"check_finite": True}, {"gradient": "full"}, {"trajectory": True}]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_that_changes_t_is_found_and_spoils_no_later_run(
    batch: int, looked_at: dict[str, Any]
) -> None:
    spoil, raising = [False], [False]

    def net(x: Tensor, t: Tensor) -> Tensor:
        if spoil[0]:
            t.mul_(1000)
        if raising[0]:
            raise RuntimeError("enough")
        return x / (x * x + 1) + t[:, None]

    vp = fd.processes.VP()
    sampler = fd.Sampler(
        fd.Denoiser(net, vp, predicts="noise"), fd.plan("dpmpp-2m", vp, fd.grid("logsnr", vp, steps=4))
    )
    x = torch.randn(batch, 4)
    want = sampler(x)
    for raising[0] in (False, True):
        spoil[0] = True
        with pytest.raises((ValueError, RuntimeError), match="enough" if raising[0] else "times t in place"):
            sampler(x, **looked_at)
        spoil[0], raising[0] = False, False
        assert torch.equal(sampler(x), want)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "one axis less": (lambda x, t: x[:, 0], ValueError, r"shape \(3,\) for x of shape \(3, 4\)"),
    "one sample less": (lambda x, t: x[:2], ValueError, r"shape \(2, 4\)"),
    "broadcastable": (lambda x, t: x[:, :1], ValueError, r"shape \(3, 1\)"),
    "twice the channels": (lambda x, t: torch.cat([x, x], 1), ValueError, r"shape \(3, 8\)"),
    "integers": (lambda x, t: x.long(), TypeError, "int64"),
    "complex": (lambda x, t: x.to(torch.complex64), TypeError, "complex64"),
    "nothing": (lambda x, t: None, TypeError, "NoneType"),
    "an empty tuple": (lambda x, t: (), TypeError, "tuple"),
    "a tuple of None": (lambda x, t: (None, x), TypeError, "NoneType"),
    "a number": (lambda x, t: 0.0, TypeError, "float"),
    "an array": (lambda x, t: x.numpy(), TypeError, "ndarray"),
    "a dict": (lambda x, t: {"out": x}, TypeError, "dict"),
    "on another device": (lambda x, t: x.to("meta"), ValueError, "meta"),
    "sparse": (lambda x, t: x.to_sparse(), TypeError, "layout"),
    "float8": (lambda x, t: x.to(torch.float8_e4m3fn), TypeError, "float8"),
}


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_outputs_are_named(name: str, looked_at: bool) -> None:
    net, error, match = WRONG[name]
    denoiser = fd.Denoiser(net, fd.processes.VP(), predicts="noise")
    with pytest.raises(error, match=match):
        fd.sample(denoiser, torch.randn(3, 4), steps=4, check_finite=looked_at)


def test_learned_range_refuses_other_widths() -> None:
    denoiser = fd.Denoiser(
        lambda x, t: torch.cat([x, x, x], 1), fd.processes.VP(), predicts="noise", variance="learned-range"
    )
    with pytest.raises(ValueError, match=r"need \(3, 4\) or \(3, 8\)"):
        fd.sample(denoiser, torch.randn(3, 4), steps=4)


def test_a_wrong_output_leaves_the_sampler_usable() -> None:
    wrong = [False]
    denoiser = fd.Denoiser(lambda x, t: x[:1] if wrong[0] else x * 0.5, fd.processes.VP(), predicts="noise")
    times = fd.grid("logsnr", denoiser.process, steps=5)
    sampler, x = fd.Sampler(denoiser, fd.plan("dpmpp-2m", denoiser.process, times)), torch.randn(3, 4)
    want = sampler(x)
    wrong[0] = True
    with pytest.raises(ValueError, match="shape"):
        sampler(x)
    wrong[0] = False
    assert torch.equal(sampler(x), want)


def test_the_networks_own_error_passes_through() -> None:
    class Mine(Exception):
        pass

    def net(x: Tensor, t: Tensor) -> Tensor:
        raise Mine("out of sorts")

    with pytest.raises(Mine, match="out of sorts"):
        fd.sample(fd.Denoiser(net, fd.processes.VP(), predicts="noise"), (2, 3), steps=4)


def test_a_view_that_torch_negates_when_read() -> None:
    process, x = fd.processes.VP(), torch.randn(3, 4)
    views, plain = (
        fd.Denoiser(f, process, predicts="noise")
        for f in (lambda x, t: torch._neg_view(x * 0.5), lambda x, t: -(x * 0.5))
    )
    assert torch.equal(fd.sample(views, x, steps=4), fd.sample(plain, x, steps=4))
