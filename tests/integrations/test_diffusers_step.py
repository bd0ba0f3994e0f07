"""FastScheduler as pipelines and servers use it: batches, threads, waits, saving, what it refuses."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastdiff as fd

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
FastScheduler = pytest.importorskip("fastdiff.integrations.diffusers").FastScheduler
configs = pytest.importorskip("fastdiff.integrations.diffusers.configs")

STOCHASTIC = [
    ("DDIM", {}, {"eta": 1.0}),
    ("DDPM", {}, {}),
    ("EulerAncestralDiscrete", {}, {}),
    ("KDPM2AncestralDiscrete", {}, {}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, {}),
    ("DPMSolverSDE", {}, {}),
    ("SASolver", {}, {}),
    ("LCM", {}, {}),
]
DETERMINISTIC = [
    ("DPMSolverMultistep", {}, {}),
    ("UniPCMultistep", {"solver_order": 3}, {}),
    ("LMSDiscrete", {}, {}),
    ("HeunDiscrete", {}, {}),
    ("PNDM", {}, {}),
    ("EDMEuler", {}, {}),
    ("FlowMatchEulerDiscrete", {}, {}),
]


def make(name: str, config: Any = None, **options: Any) -> Any:
    return FastScheduler.from_config({"_class_name": f"{name}Scheduler", **(config or {})}, **options)


def net(x: torch.Tensor, t: Any) -> torch.Tensor:
    return torch.tanh(0.7 * x + 0.1)


def run(s: Any, x: torch.Tensor, steps: int = 6, **options: Any) -> torch.Tensor:
    s.set_timesteps(steps)
    for t in s.timesteps:
        x = s.step(net(s.scale_model_input(x, t), t), t, x, **options).prev_sample
    return x


# batches


@pytest.mark.parametrize("name, config, options", [*STOCHASTIC, *DETERMINISTIC])
@pytest.mark.parametrize("noise", [None, "path"])
def test_a_sample_does_not_know_its_batch(name: str, config: Any, options: Any, noise: Any) -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = run(make(name, config, noise=noise), x, seeds=[5, 6, 7, 8], **options)
    alone = [run(make(name, config, noise=noise), x[i : i + 1], seeds=[5 + i], **options) for i in range(4)]
    assert torch.equal(whole, torch.cat(alone))
    assert whole.isfinite().all()


def test_seeds_of_the_scheduler_and_of_the_call_agree() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(run(make("DDPM", seeds=3), x), run(make("DDPM"), x, seeds=fd.Seeds(3, ids=[0, 1])))
    with pytest.raises(ValueError, match="generator and seeds"):
        run(make("DDPM"), x, seeds=3, generator=torch.Generator())


def test_noise_of_seeds_is_that_of_sample() -> None:
    """The same draws as `fd.sample`'s."""
    s = make("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"})
    s.set_timesteps(6)
    x = torch.randn(2, 3, 4, 4)
    schedule = s._plan_schedule
    denoiser = fd.Denoiser(lambda x, t: net(x, t), schedule.process, predicts="noise")
    y = fd.sample(denoiser, x, solver="dpmpp-2m-sde", times=schedule.times, seeds=4)
    assert (y - run(s, x, seeds=4)).abs().max() <= 4e-6 * y.abs().max()  # another grouping of float32 sums


# waits


class Counts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.name()] += 1
        return func(*args, **(kwargs or {}))


WAITS = ("_local_scalar_dense", "nonzero", "item", "_to_copy", "copy_", "equal", "is_nonzero", "index_put")


@pytest.mark.parametrize("name, config, options", [*STOCHASTIC, *DETERMINISTIC])
def test_step_waits_for_nothing(name: str, config: Any, options: Any) -> None:
    """Counted from the second run on: tables are made once."""
    s, x = make(name, config), torch.randn(2, 3, 4, 4)
    run(s, x, seeds=0, **options)
    s.set_timesteps(6)
    outs = [torch.randn_like(x) for _ in s.timesteps]
    with Counts() as counts:
        for t, out in zip(s.timesteps.unbind(0), outs, strict=True):
            x = s.step(out, t, x, seeds=0, return_dict=False, **options)[0]
    del counts.seen["aten::unbind.int"]
    waits = {k: n for k, n in counts.seen.items() if any(w in k for w in WAITS)}
    assert not waits and counts.seen["fastdiff::linear_step"] >= len(outs)


def test_one_pass_a_step() -> None:
    s, x = make("DPMSolverMultistep"), torch.randn(2, 3, 4, 4)
    run(s, x)
    s.set_timesteps(10)
    with Counts() as counts:
        for t in s.timesteps.unbind(0):
            x = s.step(torch.ones_like(x), t, x, return_dict=False)[0]
    assert counts.seen["fastdiff::linear_step"] == 10


def test_a_timestep_that_is_no_element_is_counted() -> None:
    """Only the first one is looked at."""
    s, x = make("DPMSolverMultistep"), torch.randn(1, 2, 3)
    expected = run(s, x)
    s.set_timesteps(6)
    with Counts() as counts:
        for t in s.timesteps.unbind(0):
            x = s.step(net(x, t), t.clone(), x).prev_sample
    assert torch.equal(x, expected) and counts.seen["aten::_local_scalar_dense"] == 1


# state


@pytest.mark.parametrize(
    "name, config", [("DPMSolverMultistep", {"solver_order": 3}), ("EulerAncestralDiscrete", {})]
)
def test_two_threads_share_a_scheduler(name: str, config: Any) -> None:
    """200 requests of different step counts, interleaved step by step in each of two threads."""
    shared, counts = make(name, config), [4 + k % 7 for k in range(200)]
    xs = [torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(k)) for k in range(200)]
    results: list[Any] = [None] * 200
    errors: list[BaseException] = []

    def serve(mine: range) -> None:
        try:
            for first in mine[::20]:
                batch = [k for k in range(first, first + 20 * mine.step, mine.step) if k < 200]
                live = {k: shared.session() for k in batch}
                for k, s in live.items():
                    s.set_timesteps(counts[k])
                state = {k: xs[k] for k in batch}
                for i in range(max(counts)):
                    for k, s in live.items():
                        if i < counts[k]:
                            t = s.timesteps[i]
                            out = net(s.scale_model_input(state[k], t), t)
                            state[k] = s.step(out, t, state[k], seeds=[k]).prev_sample
                for k in batch:
                    results[k] = state[k]
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=serve, args=(range(j, 200, 2),)) for j in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    alone = make(name, config)
    for k in range(200):
        assert torch.equal(results[k], run(alone, xs[k], counts[k], seeds=[k]))


def test_a_second_run_begins_anew() -> None:
    """Without set_timesteps between: the first timestep says it."""
    s, start = make("DPMSolverMultistep", {"solver_order": 3}), torch.randn(1, 2, 3)
    first, x = run(s, start), start
    for t in s.timesteps:
        x = s.step(net(x, t), t, x).prev_sample
    assert torch.equal(x, first)


def test_caller_may_change_the_sample_between_steps() -> None:
    """As inpainting does; diffusers' own class is the oracle."""
    for name in ("DPMSolverMultistep", "LMSDiscrete", "DEISMultistep", "EulerDiscrete"):
        theirs = getattr(diffusers, f"{name}Scheduler")()
        mask, known = (torch.rand(1, 3, 4, 4) > 0.5).float(), torch.randn(1, 3, 4, 4)
        x0, found = torch.randn(1, 3, 4, 4), []
        for s in (theirs, FastScheduler.from_config(theirs)):
            s.set_timesteps(8)
            x = x0 * s.init_noise_sigma
            for t in s.timesteps:
                x = s.step(net(s.scale_model_input(x, t), t), t, x).prev_sample
                x = mask * x + (1 - mask) * known
            found.append(x)
        assert (found[0] - found[1]).abs().max() <= 3e-6 * found[0].abs().max()


def test_outputs_written_over_are_refused() -> None:
    s, x = make("LMSDiscrete"), torch.randn(1, 2, 3)
    s.set_timesteps(6)
    out = torch.randn_like(x)
    x = s.step(out, s.timesteps[0], x).prev_sample
    out.add_(1)
    with pytest.raises(ValueError, match="earlier output"):
        s.step(torch.randn_like(x), s.timesteps[1], x)


def test_samples_at_their_own_timesteps() -> None:
    """A batch at timesteps of its own is the samples one by one."""
    for name, options in (
        ("DDIM", {"eta": 0.5, "seeds": [1, 2, 3]}),
        ("EulerDiscrete", {}),
        ("EulerAncestralDiscrete", {"seeds": [1, 2, 3]}),
        ("FlowMatchEulerDiscrete", {}),
        ("DDPM", {"seeds": [1, 2, 3]}),
    ):
        s = make(name, {"clip_sample": False} if name.startswith("DD") else {})
        s.set_timesteps(8)
        at, x, out = [0, 3, 7], torch.randn(3, 2, 4), torch.randn(3, 2, 4)
        together = s.step(out, s.timesteps[at], x, **options)
        for k, i in enumerate(at):
            own = {**options, **({"seeds": [options["seeds"][k]]} if "seeds" in options else {})}
            one = s.step(out[k : k + 1], s.timesteps[i], x[k : k + 1], **own)
            assert torch.equal(together.prev_sample[k : k + 1], one.prev_sample)
            assert torch.equal(together.pred_original_sample[k : k + 1], one.pred_original_sample)
    with pytest.raises(ValueError, match="history"):
        s = make("DPMSolverMultistep")
        s.set_timesteps(8)
        s.step(out, s.timesteps[at], x)


def test_churn_and_tokens_by_seeds_do_not_know_their_batch() -> None:
    x, out = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    for name, config, options in (
        ("EulerDiscrete", {}, {"s_churn": 3.0}),
        ("FlowMatchEulerDiscrete", {"stochastic_sampling": True}, {}),
    ):
        s = make(name, config)
        s.set_timesteps(5)
        t, results = s.timesteps[1], []
        for rows in ([0, 1, 2], [0], [1], [2]):
            if name.startswith("Flow"):
                options = {"per_token_timesteps": t.expand(len(rows), 4)}
            seeds = [7 + k for k in rows]
            results.append(s.step(out[rows], t, x[rows], seeds=seeds, return_dict=False, **options)[0])
        assert torch.equal(results[0], torch.cat(results[1:]))


def test_gradients_go_through_a_step() -> None:
    s = make("DPMSolverMultistep")
    s.set_timesteps(5)
    x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)

    def loop(x: torch.Tensor) -> torch.Tensor:
        for t in s.timesteps:
            x = s.step(net(x, t), t, x).prev_sample
        return x

    assert torch.autograd.gradcheck(loop, (x,))


# making and saving


@pytest.mark.parametrize(
    "name", ["DDIM", "EulerDiscrete", "DPMSolverMultistep", "FlowMatchEulerDiscrete", "PNDM"]
)
def test_save_and_load(tmp_path: Path, name: str) -> None:
    s = make(name, solver=None if name != "DDIM" else "unipc", seeds=3)
    s.save_pretrained(tmp_path)
    again = FastScheduler.from_pretrained(tmp_path)
    x = torch.randn(1, 2, 4)
    assert torch.equal(run(s, x), run(again, x)) and again.peer == s.peer and again.seeds == 3
    back = getattr(diffusers, f"{name}Scheduler").from_config(again.config)  # and home again
    assert type(back).__name__ == f"{name}Scheduler"


@pytest.mark.parametrize(
    "solver", ["dpmpp-2m", "dpmpp-3m", "euler", "heun", "unipc", "ddim", "sa-solver", "er-sde", "lms"]
)
@pytest.mark.parametrize(
    "name", ["DDIM", "EulerDiscrete", "DPMSolverMultistep", "FlowMatchEulerDiscrete", "EDMEuler"]
)
@pytest.mark.parametrize("grid", [None, "karras", "logsnr"])
def test_other_solvers_on_any_configuration(solver: str, name: str, grid: Any) -> None:
    """For data that is one point, known to the network, every solver ends at it: their common oracle."""
    if grid == "logsnr" and name == "FlowMatchEulerDiscrete":
        pytest.skip("a grid in lambda does not begin at alpha = 0")
    s = make(name, {"clip_sample": False} if name == "DDIM" else {}, solver=solver, grid=grid, seeds=0)
    s.set_timesteps(9)
    point = torch.full((2, 3), 0.3, dtype=torch.float64)
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * float(
        s.init_noise_sigma
    )
    assert len(s.timesteps) >= 9
    legs = s._compiled(0, (None, False)).legs
    for leg, t in zip(legs, s.timesteps, strict=True):
        node = s._plan_schedule.process.node(leg.t)
        a, b = leg.x0  # the output that gives the point as data prediction
        x = s.step((point - a * x) / b, t, x).prev_sample
        assert node.t == leg.t
    final = s._plan_schedule.ends[-1]
    assert (x - point).abs().max() <= (1e-8 if final == 0 else 0.02)


def test_what_is_said() -> None:
    with pytest.raises(ValueError, match="unknown scheduler class"):
        FastScheduler.from_config({"_class_name": "VQDiffusionScheduler"})
    with pytest.raises(TypeError, match="from_config"):
        FastScheduler(solver="ddim")
    with pytest.raises(ValueError, match="no _class_name"):
        FastScheduler.from_config(diffusers.LMSDiscreteScheduler().config)
    assert FastScheduler.from_config(diffusers.DDIMScheduler().config).peer == "DDIMScheduler"
    assert FastScheduler.from_config(diffusers.LMSDiscreteScheduler().config, peer="LMSDiscreteScheduler")
    with pytest.warns(UserWarning, match="no field skip_prk_steps"):
        make("DDIM", {"skip_prk_steps": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("DDIM", {"clip_sample": False})
    refused: list[Any] = [
        ("DPMSolverMultistep", {"prediction_type": "flow_prediction"}, "use_flow_sigmas"),
        ("DPMSolverMultistep", {"prediction_type": "noise"}, "unknown prediction_type"),
        (
            "DPMSolverMultistep",
            {"use_flow_sigmas": True, "prediction_type": "v_prediction"},
            "use_flow_sigmas",
        ),
        ("FlowMatchLCM", {"scale_factors": [1.0, 2.0], "upscale_mode": "nearest"}, "scale_factors"),
        ("SASolver", {"algorithm_type": "noise_prediction"}, "data_prediction"),
        ("DDPM", {"variance_type": "fixed_large_log"}, "fixed_large"),
        (
            "DPMSolverMultistep",
            {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3},
            "solver_order=3",
        ),
    ]
    refused += [
        ("DPMSolverMultistepInverse", {"algorithm_type": "sde-dpmsolver++"}, "variance is negative"),
        ("DPMSolverMultistepInverse", {"use_flow_sigmas": True}, "use_flow_sigmas"),
        ("DDIMInverse", {"prediction_type": "sample"}, "set_alpha_to_one=False"),
    ]
    for name, config, words in refused:
        with pytest.raises(ValueError, match=words):
            make(name, config).set_timesteps(5)
    with pytest.raises(ValueError, match="unknown solver 'dpmpp-2n'"):
        make("DDIM", solver="dpmpp-2n")
    with pytest.raises(ValueError, match="unknown option of FastScheduler"):
        make("DDIM", etta=1.0)
    with pytest.raises(ValueError, match="option of solver"):
        make("DDIM", solver="euler", orders=2)
    with pytest.raises(ValueError, match="chooses its own steps"):
        make("DDIM", solver="dpm-adaptive")
    s = make("DPMSolverMultistep")
    with pytest.raises(ValueError, match="set_timesteps first"):
        s.step(torch.ones(1, 2), 3, torch.ones(1, 2))
    with pytest.raises(ValueError, match="takes no sigmas"):
        s.set_timesteps(sigmas=[1.0, 0.0])
    s.set_timesteps(5)
    with pytest.raises(ValueError, match="none of scheduler.timesteps"):
        s.step(torch.ones(1, 2), 1, torch.ones(1, 2))
    with pytest.raises(ValueError, match="model_output has shape"):
        s.step(torch.ones(1, 3), s.timesteps[0], torch.ones(1, 2))
    with pytest.raises(ValueError, match="eta"):
        s.step(torch.ones(1, 2), s.timesteps[0], torch.ones(1, 2), eta=0.5)
    with pytest.raises(ValueError, match="s_churn is for EulerDiscreteScheduler"):
        s.step(torch.ones(1, 2), s.timesteps[0], torch.ones(1, 2), s_churn=1.0)
    with pytest.raises(ValueError, match="per_token_timesteps is for FlowMatch"):
        s.step(torch.ones(1, 2), s.timesteps[0], torch.ones(1, 2), per_token_timesteps=torch.ones(1, 2))
    with pytest.raises(ValueError, match="from data to noise"):
        make("DDIMInverse", solver="unipc")
    s = make("FlowMatchEulerDiscrete")
    s.set_timesteps(5)
    with pytest.raises(ValueError, match="must be \\(B, tokens\\)"):
        s.step(torch.ones(1, 2, 3), s.timesteps[0], torch.ones(1, 2, 3), per_token_timesteps=torch.ones(2))
    s = make("EulerDiscrete")
    s.set_timesteps(5)
    for churn in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="s_churn must be 0 or more"):
            s.step(torch.ones(1, 2), s.timesteps[0], torch.ones(1, 2), s_churn=churn)
    with pytest.raises(ValueError, match="at one timestep"):
        s.step(torch.ones(2, 2), s.timesteps[:2], torch.ones(2, 2), s_churn=1.0)
    with pytest.raises(ValueError, match="model_output has shape"):
        s.step(torch.ones(1, 2), s.timesteps[0], torch.ones(2, 2), s_churn=1.0)
    s = make("PNDM")
    with pytest.raises(ValueError, match="num_inference_steps must be 4 or more"):
        s.set_timesteps(3)


def test_a_field_that_nothing_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field of every class is read; one that were not would be said."""
    for name, peer in configs.PEERS.items():
        assert set(configs.fields_of(name)) <= configs.SCHEDULE | set(peer.reads)
    bare = replace(configs.PEERS["DDIMScheduler"], reads=())
    monkeypatch.setitem(configs.PEERS, "DDIMScheduler", bare)
    with pytest.raises(ValueError, match="clip_sample=False is not supported; leave it at its default True"):
        make("DDIM", {"clip_sample": False})


@pytest.mark.parametrize("kind", ["learned_range", "learned"])
def test_learned_variance(kind: str) -> None:
    theirs = diffusers.DDPMScheduler(variance_type=kind, clip_sample=False)
    ours = FastScheduler.from_config(theirs)
    found = []
    for s in (theirs, ours):
        s.set_timesteps(6)
        x, generator = torch.ones(2, 3, 4, 4), torch.Generator().manual_seed(0)
        for t in s.timesteps:
            variance = torch.sin(x) if kind == "learned_range" else 0.02 + 0.01 * torch.sin(x)
            x = s.step(torch.cat([net(x, t), variance], 1), t, x, generator=generator).prev_sample
        found.append(x)
    if kind == "learned":  # theirs takes the output for the variance, not for its logarithm
        assert found[1].isfinite().all()
    else:
        assert (found[0] - found[1]).abs().max() <= 3e-6 * found[0].abs().max()


# what legacy=False mends


def test_mended_ddim_steps_lead_to_the_next_timestep() -> None:
    """13 linspace steps: theirs end at t - 1000 // 13, not where the next begins. For a point mass the state
    stays alpha x0 + sigma eps with one eps; with gaps between steps it does not."""
    point, eps = torch.full((1, 4), 0.5, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    gaps = {}
    for legacy in (True, False):
        s = make("DDIM", {"timestep_spacing": "linspace", "clip_sample": False}, legacy=legacy)
        s.set_timesteps(13)
        abar = s.alphas_cumprod.double()
        t0 = int(s.timesteps[0])
        x = abar[t0] ** 0.5 * point + (1 - abar[t0]) ** 0.5 * eps
        worst = 0.0
        for t in s.timesteps[:-1]:
            out = (x - abar[t] ** 0.5 * point) / (1 - abar[t]) ** 0.5
            worst = max(worst, float((out - eps).abs().max()))
            x = s.step(out, t, x).prev_sample
        gaps[legacy] = worst
    assert gaps[False] < 1e-10 and gaps[True] > 1e-3


def test_mended_third_order() -> None:
    """`fd.sample` takes the right second difference, and so does legacy=False; diffusers halves it."""
    x, found = torch.randn(1, 8, dtype=torch.float64), {}
    for legacy in (True, False):
        s = make("DPMSolverMultistep", {"solver_order": 3, "use_karras_sigmas": True}, legacy=legacy)
        found[legacy] = run(s, x, 20)
        schedule = s._plan_schedule
        denoiser = fd.Denoiser(net, schedule.process, predicts="noise")
        y = fd.sample(
            denoiser,
            x,
            solver="dpmpp-3m",
            weight="midpoint",
            legacy=legacy,
            lower_order_final="never",
            times=schedule.times,
            seeds=0,
        )
        assert (found[legacy] - y).abs().max() <= 1e-11 * y.abs().max()
    assert (found[True] - found[False]).abs().max() > 1e-4


def test_mended_unipc_to_zero() -> None:
    """predict_x0=False to sigma = 0 is NaN in diffusers; the limit is alpha x0."""
    config = {"predict_x0": False, "solver_type": "bh1", "final_sigmas_type": "zero"}
    x = torch.randn(1, 8)
    assert run(make("UniPCMultistep", config), x).isfinite().all()


# pipelines


def unet() -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


def test_in_a_pipeline(tmp_path: Path) -> None:
    pipe = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    before = pipe(2, torch.Generator().manual_seed(0), 5, output_type="np").images
    pipe.scheduler = FastScheduler.from_config(pipe.scheduler)
    after = pipe(2, torch.Generator().manual_seed(0), 5, output_type="np").images
    assert np.abs(before - after).max() <= 1e-5
    pipe.save_pretrained(tmp_path)
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, FastScheduler)
    assert np.array_equal(after, again(2, torch.Generator().manual_seed(0), 5, output_type="np").images)


def test_network_as_denoiser() -> None:
    """`fd.sample` on diffusers' network is diffusers' own loop."""
    model, theirs = unet(), diffusers.DDIMScheduler(clip_sample=False)
    theirs.set_timesteps(6)
    x = torch.randn(2, 3, 8, 8)
    y = x
    with torch.no_grad():
        for t in theirs.timesteps:
            y = theirs.step(model(y, t).sample, t, y).prev_sample
        denoiser = fd.from_diffusers(model, theirs.config)
        times = [*((theirs.timesteps.numpy() + 1) / 1000), 0.0]
        z = fd.sample(denoiser, x, solver="ddim", times=times)
    assert (y - z).abs().max() <= 1e-5 * y.abs().max()


def test_flow_network_as_denoiser() -> None:
    theirs, told = diffusers.FlowMatchEulerDiscreteScheduler(), []

    def model(hidden_states: Any, encoder_hidden_states: Any = None, timestep: Any = None) -> Any:
        told.append(timestep)
        return (torch.tanh(hidden_states) + encoder_hidden_states,)

    theirs.set_timesteps(4)
    x, c = torch.randn(2, 3), torch.randn(2, 3)
    y = x
    for t in theirs.timesteps:
        y = theirs.step(model(y, c, t)[0], t, y).prev_sample
    denoiser = fd.from_diffusers(model, dict(theirs.config, _class_name="FlowMatchEulerDiscreteScheduler"))
    z = fd.sample(
        denoiser, x, solver="euler", times=theirs.sigmas.double().numpy(), cond={"encoder_hidden_states": c}
    )
    assert (y - z).abs().max() <= 3e-6 * y.abs().max()
    assert torch.allclose(torch.stack([t.flatten()[0] for t in told[4:]]), theirs.timesteps, rtol=1e-6)


def test_edm_network_as_denoiser() -> None:
    theirs = diffusers.EDMEulerScheduler()
    theirs.set_timesteps(6)
    x = torch.randn(2, 3) * 80.0
    y = x
    for t in theirs.timesteps:
        y = theirs.step(net(theirs.scale_model_input(y, t), t), t, y).prev_sample
    denoiser = fd.from_diffusers(net, theirs)
    z = fd.sample(denoiser, x, solver="euler", times=theirs.sigmas.double().numpy())
    assert (y - z).abs().max() <= 3e-6 * y.abs().max()


def test_without_diffusers() -> None:
    """`import fastdiff` does not want it; the integration says what is missing."""
    code = (
        "import sys; sys.modules['diffusers'] = None\nimport fastdiff as fd\n"
        "try:\n    fd.from_diffusers(None, {})\n"
        "except ImportError as e:\n    assert 'fastdiff[diffusers]' in str(e), e\n"
        "else:\n    raise SystemExit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
