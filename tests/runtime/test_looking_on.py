"""What may be seen of a run and how it may be broken off: trajectory, callback, progress, check_finite, stop
and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd

SOLVERS = ["ddim", "ddpm", "dpmpp-2m", "dpmpp-2s", "heun", "unipc", "dpmpp-2m-sde"]


@pytest.fixture
def denoiser(nets: Any, vp: fd.processes.VP) -> fd.Denoiser:
    return fd.Denoiser(nets.exact, vp, predicts="noise")


def ready(denoiser: fd.Denoiser, solver: str = "dpmpp-2m", steps: int = 6, **options: Any) -> fd.Sampler:
    times = fd.grid("logsnr", denoiser.process, steps=steps)
    return fd.Sampler(
        denoiser, fd.plan(solver, denoiser.process, times, predicts=denoiser.predicts, **options)
    )


# trajectory


@pytest.mark.parametrize("solver", SOLVERS)
def test_trajectory(denoiser: fd.Denoiser, solver: str) -> None:
    sampler, x = ready(denoiser, solver), torch.randn(3, 4, dtype=torch.float64)
    t = sampler(x, seeds=0, trajectory=True)
    assert isinstance(t, fd.Trajectory) and t.states.shape == (7, 3, 4) and t.data.shape == (6, 3, 4)
    assert torch.equal(t.states[0], x) and torch.equal(t.states[-1], t.x)
    assert np.array_equal(t.times, sampler.plan.times)
    torch.testing.assert_close(
        t.x, sampler(x, seeds=0), rtol=1e-10, atol=1e-10
    )  # other rows are kept, so sums are ordered otherwise
    if solver == "unipc":  # it corrects each step but a run's last
        return
    options = {"lower_order_final": "never"} if hasattr(fd.solvers.make(solver), "lower_order_final") else {}
    for k in (1, 3):  # a run over the first k times ends where the trajectory stood
        head = fd.Sampler(denoiser, fd.plan(solver, denoiser.process, sampler.plan.times[: k + 1], **options))
        torch.testing.assert_close(head(x, seeds=0), t.states[k], rtol=1e-8, atol=1e-8)


def test_data_of_a_trajectory_is_the_networks(nets: Any, vp: fd.processes.VP) -> None:
    for kind in ("noise", "velocity", "data"):
        mixture = nets.Mixture(vp, kind)
        t = fd.sample(
            fd.Denoiser(mixture, vp, predicts=kind),
            torch.randn(3, 4, dtype=torch.float64),
            solver="ddim",
            steps=6,
            trajectory=True,
        )
        for k in range(6):
            a, s = (torch.tensor(f(t.times[k]), dtype=torch.float64) for f in (vp.alpha, vp.sigma))
            torch.testing.assert_close(t.data[k], mixture.data(t.states[k], a, s), rtol=1e-8, atol=1e-8)


def test_trajectory_tensors_are_the_callers_own(denoiser: fd.Denoiser) -> None:
    sampler, x = ready(denoiser), torch.randn(3, 4)
    a = sampler(x, trajectory=True)
    kept = a.states.clone(), a.data.clone(), a.x.clone()
    b = sampler(x + 1, trajectory=True)
    assert all(torch.equal(p, q) for p, q in zip(kept, (a.states, a.data, a.x), strict=True))
    a.x.zero_()
    assert not torch.equal(b.x, a.x) and torch.equal(kept[0], a.states)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 1)])
def test_trajectory_of_odd_batches(denoiser: fd.Denoiser, shape: tuple[int, int]) -> None:
    t = fd.sample(denoiser, shape, steps=3, seeds=0, trajectory=True)
    assert t.states.shape == (4, *shape) and t.data.shape == (3, *shape) and t.x.shape == shape


# results belong to the caller


@pytest.mark.parametrize("solver", SOLVERS)
def test_results_are_never_written_again(denoiser: fd.Denoiser, solver: str) -> None:
    sampler, x = ready(denoiser, solver), torch.randn(3, 4)
    first = sampler(x, seeds=0)
    kept = first.clone()
    for more in ({}, {"check_finite": True}, {"trajectory": True}, {"stop": 2}):
        sampler(x + 1, seeds=1, **more)
    assert torch.equal(first, kept)
    first.zero_()
    assert torch.equal(sampler(x, seeds=0), kept)


@pytest.mark.parametrize("predicts", ["data", "noise"])
def test_results_are_not_the_networks_memory(vp: fd.processes.VP, predicts: str) -> None:
    out = torch.randn(3, 4)
    sampler = ready(fd.Denoiser(lambda x, t: out, vp, predicts=predicts), "ddim")
    y = sampler(torch.randn(3, 4), trajectory=True)
    kept = y.x.clone(), y.states.clone(), y.data.clone()
    out.zero_()
    assert torch.equal(y.x, kept[0]) and torch.equal(y.states, kept[1]) and torch.equal(y.data, kept[2])


# callback


@pytest.mark.parametrize("solver", SOLVERS)
def test_callback_sees_each_step_once_in_order(denoiser: fd.Denoiser, solver: str) -> None:
    sampler, x, seen = ready(denoiser, solver), torch.randn(3, 4), []
    y = sampler(x, seeds=0, callback=lambda i, t, x, data: seen.append((i, t, x.clone(), data.clone())))
    assert [s[0] for s in seen] == list(range(6)) and [s[1] for s in seen] == sampler.plan.times[1:].tolist()
    t = sampler(x, seeds=0, trajectory=True)
    assert torch.equal(torch.stack([s[2] for s in seen]), t.states[1:]) and torch.equal(
        torch.stack([s[3] for s in seen]), t.data
    )
    assert torch.equal(seen[-1][2], y)


def test_callback_comes_before_the_next_network_call(nets: Any, vp: fd.processes.VP) -> None:
    counted, order = nets.Counted(), []
    sampler = ready(fd.Denoiser(counted, vp, predicts="noise"), "ddim", 4)
    sampler(torch.randn(2, 3), callback=lambda i, *_: order.append((i, counted.calls)))
    assert order == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_an_interruption_leaves_the_sampler_usable(
    denoiser: fd.Denoiser, error: type[BaseException], at: int
) -> None:
    sampler, x = ready(denoiser), torch.randn(3, 4)
    want, kept = sampler(x, seeds=0), x.clone()

    def callback(i: int, t: float, x: Tensor, data: Tensor) -> None:
        if i == at:
            raise error("enough")

    with pytest.raises(error, match="enough"):
        sampler(x, seeds=0, callback=callback)
    assert torch.equal(x, kept) and torch.equal(sampler(x, seeds=0), want)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_in_the_network_leaves_the_sampler_usable(
    vp: fd.processes.VP, error: type[BaseException]
) -> None:
    left = [10**9]

    def net(x: Tensor, t: Tensor) -> Tensor:
        left[0] -= 1
        if left[0] == 0:
            raise error("enough")
        return x / (x * x + 1)

    sampler, x = ready(fd.Denoiser(net, vp, predicts="noise")), torch.randn(3, 4)
    want = sampler(x)
    for k in (1, 3, 6):
        left[0] = k
        with pytest.raises(error, match="enough"):
            sampler(x)
        left[0] = 10**9
        assert torch.equal(sampler(x), want)


def test_callback_may_not_steer_by_writing(denoiser: fd.Denoiser) -> None:
    sampler, x = ready(denoiser), torch.randn(3, 4)
    with pytest.raises(ValueError, match="callback changed"):
        sampler(x, callback=lambda i, t, x, data: x.mul_(2))
    with pytest.raises(ValueError, match="callback changed"):
        sampler(x, callback=lambda i, t, x, data: data.clamp_(-1, 1))


# progress


@pytest.mark.parametrize("more", [{}, {"check_finite": True}, {"gradient": "full"}, {"trajectory": True}])
def test_progress_is_a_tqdm_on_stderr(
    denoiser: fd.Denoiser, capsys: pytest.CaptureFixture[str], more: dict[str, Any]
) -> None:
    x = torch.randn(3, 4)
    y = fd.sample(denoiser, x, steps=6, progress=True, **more)
    seen = capsys.readouterr()
    assert seen.out == "" and "6/6" in seen.err and "dpmpp-2m" in seen.err
    quiet = fd.sample(denoiser, x, steps=6, **more)
    assert capsys.readouterr() == ("", "")
    assert torch.equal(quiet.x if more.get("trajectory") else quiet, y.x if more.get("trajectory") else y)


def test_progress_closes_its_bar_when_interrupted(denoiser: fd.Denoiser) -> None:
    from tqdm.auto import tqdm

    before = len(getattr(tqdm, "_instances", ()))
    with pytest.raises(RuntimeError, match="enough"):
        fd.sample(
            fd.Denoiser(
                lambda x, t: (_ for _ in ()).throw(RuntimeError("enough")), denoiser.process, predicts="noise"
            ),
            (2, 3),
            steps=6,
            progress=True,
        )
    assert len(getattr(tqdm, "_instances", ())) == before


# check_finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_check_finite_names_the_step(vp: fd.processes.VP, bad: float, at: int) -> None:
    calls = [0]

    def net(x: Tensor, t: Tensor) -> Tensor:
        y = x / (x * x + 1)
        if calls[0] == at:
            y[-1, -1] = bad
        calls[0] += 1
        return y

    sampler = ready(fd.Denoiser(net, vp, predicts="noise"))
    with pytest.raises(fd.NonFinite, match=rf"step {at} \(t={sampler.plan.times[at]:g}\)"):
        sampler(torch.randn(3, 4), check_finite=True)
    assert calls[0] == at + 1, "it stops there"
    assert issubclass(fd.NonFinite, ValueError)
    calls[0] = 0
    assert not torch.isfinite(sampler(torch.randn(3, 4))).all(), "unasked, nothing is said and nothing hidden"


# stop and resume


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_state_holds_no_more_than_it_needs(denoiser: fd.Denoiser, solver: str) -> None:
    sampler, x = ready(denoiser, solver, 8), torch.randn(3, 4)
    for stop in (1, 4, 7):
        state = sampler(x, seeds=0, stop=stop)
        reads = set(sampler.plan.stages[state.stage].inputs)
        assert reads <= set(state.registers) and len(state.registers) <= sampler.plan.carried + 1
        assert all(not t.requires_grad and t.data_ptr() != x.data_ptr() for t in state.registers.values())


def test_a_state_is_not_the_networks_memory(vp: fd.processes.VP) -> None:
    held = torch.empty(3, 4)
    sampler = ready(fd.Denoiser(lambda x, t: torch.mul(x, 0.5, out=held), vp, predicts="noise"), "ddim")
    x = torch.randn(3, 4)
    want, state = sampler(x), sampler(x, stop=2)
    held.fill_(float("nan"))
    assert torch.equal(sampler(state), want)


def test_a_network_in_another_dtype_can_be_resumed(vp: fd.processes.VP) -> None:
    for solver in ("ddpm", "dpmpp-2m-sde", "unipc"):
        sampler = ready(fd.Denoiser(lambda x, t: (x / (x * x + 1)).bfloat16(), vp, predicts="data"), solver)
        x = torch.randn(3, 4, dtype=torch.float64)
        want = sampler(x, seeds=0)
        for stop in range(1, 6):
            y = sampler(sampler(x, seeds=0, stop=stop))
            assert y.dtype == torch.float64 and torch.equal(y, want)


def test_resumed_with_a_condition_and_guidance(nets: Any, vp: fd.processes.VP) -> None:
    guidance, cond = fd.guidance.CFG(2.0, uncond={"y": torch.zeros(3)}), {"y": torch.ones(3)}
    sampler, x = ready(fd.Denoiser(nets.exact, vp, predicts="noise"), guidance=guidance), torch.randn(3, 4)
    assert torch.equal(sampler(sampler(x, cond=cond, stop=3), cond=cond), sampler(x, cond=cond))


@pytest.mark.parametrize(
    "call,match",
    [
        (lambda s, x: s(x, stop=0), "stop"),
        (lambda s, x: s(x, stop=6), "stop"),
        (lambda s, x: s(x, stop=-1), "stop"),
        (lambda s, x: s(x, stop=True), "stop"),
        (lambda s, x: s(x, stop=2.0), "stop"),
        (lambda s, x: s(x, stop="2"), "stop"),
        (lambda s, x: s(x, stop=2, trajectory=True), "stop"),
        (lambda s, x: s(x, stop=2, gradient="full"), "stop"),
        (lambda s, x: s(x, stop=2, callback=print), "stop"),
        (lambda s, x: s(s(x, stop=3), stop=3), "between 4 and 5"),
        (lambda s, x: s(s(x, stop=3), stop=2), "stop"),
        (lambda s, x: s(s(x, stop=3), seeds=1), "seeds"),
        (lambda s, x: s(s(x, stop=3), trajectory=True), "trajectory"),
        (lambda s, x: s(s(x, stop=3), callback=print), "callback"),
        (lambda s, x: s(s(x, stop=3), gradient="full"), "gradient"),
    ],
)
def test_wrong_stops(denoiser: fd.Denoiser, call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(ready(denoiser), torch.randn(3, 4))


def test_another_plans_state_is_refused(denoiser: fd.Denoiser) -> None:
    state = ready(denoiser).__call__(torch.randn(3, 4), stop=3)
    for other in (ready(denoiser, "ddim"), ready(denoiser, steps=7), ready(denoiser, order=1)):
        with pytest.raises(ValueError, match="another plan"):
            other(state)


def test_damaged_states_are_refused(denoiser: fd.Denoiser) -> None:
    from dataclasses import replace

    sampler = ready(denoiser)
    state = sampler(torch.randn(3, 4), stop=3)
    r = min(state.registers)
    for wrong in (
        replace(state, registers={k: t for k, t in state.registers.items() if k != r}),
        replace(state, registers={**state.registers, r: torch.zeros(2, 4)}),
        replace(state, stage=99),
        replace(state, rng=state.rng[:1]),
        replace(state, rng=state.rng.float()),
    ):
        with pytest.raises(ValueError, match="State"):
            sampler(wrong)


def test_files_that_are_no_states_are_refused(denoiser: fd.Denoiser, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    good = vars(ready(denoiser)(torch.randn(3, 4), stop=3))
    for wrong in (
        {"a": 1},
        torch.zeros(3),
        [1, 2],
        {**good, "more": 1},
        {k: v for k, v in good.items() if k != "rng"},
        {**good, "stage": "3"},
        {**good, "registers": {}},
        {**good, "registers": {0: 1.0}},
        {**good, "dtype": "float32"},
    ):
        torch.save(wrong, path)
        with pytest.raises(ValueError, match="not a saved fastdiff state"):
            fd.State.load(path)
    for bytes_ in (b"", b"hello", b"PK\x03\x04 not a zip", path.read_bytes()[:200]):
        path.write_bytes(bytes_)
        with pytest.raises(ValueError, match="not a saved fastdiff state"):
            fd.State.load(path)
    with pytest.raises(FileNotFoundError):
        fd.State.load(tmp_path / "nothing.pt")


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"digest": Evil()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="not a saved fastdiff state"):
        fd.State.load(tmp_path / "x.pt")
    assert capsys.readouterr().out == ""


def test_an_interrupted_save_leaves_the_old_file(
    denoiser: fd.Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, x = ready(denoiser), torch.randn(3, 4)
    sampler(x, stop=2).save(tmp_path / "x.pt")
    old = (tmp_path / "x.pt").read_bytes()

    def half(data: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        sampler(x, stop=3).save(tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == old
