"""Every grid on disk: promises that all keep, the published formulas, and other people's numbers."""

import math

import numpy as np
import pytest

import fastdiff.grids as G
import fastdiff.processes as P
from fastdiff.core.grid import check_times, grids
from fastdiff.core.process import processes
from fastdiff.testing.kdiffusion import kdiffusion

KEYS = grids.names()
SPACED = ("leading", "linspace", "trailing")  # on discrete steps
IN_SIGMA = ("karras", "exponential", "polyexponential", "klub-gauss")  # curves that always reach both ends
LOOSE = ("ays", "vp-sigmas", "laplace")  # published curves that may start or end inside the process's range


def rho(process, times):
    """sigma / alpha, computed from alpha and sigma."""
    return np.array([process.sigma(float(t)) / process.alpha(float(t)) for t in times])


# the formulas, each in plain loops on EDM(0.002, 80), where time is sigma / alpha; N steps, final="zero"


def spread(N, f):
    return [f(i / (N - 1)) if N > 1 else f(0.0) for i in range(N)] + [0.0]


def through(N, f):
    return [f(i / N) for i in range(N + 1)]


def karras(N, r=7.0):
    return spread(N, lambda u: (80 ** (1 / r) + u * (0.002 ** (1 / r) - 80 ** (1 / r))) ** r)


def log_uniform(N, power=1.0):
    return spread(N, lambda u: 0.002 * math.exp((1 - u) ** power * math.log(80 / 0.002)))


def vp_sigmas(N, bd=19.9, b=0.1, eps=1e-3):
    first = 2 * math.log1p(80**2) / (b + math.sqrt(b * b + 2 * bd * math.log1p(80**2)))  # where it reaches 80
    return spread(
        N,
        lambda u: math.sqrt(
            math.expm1(bd * (first + u * (eps - first)) ** 2 / 2 + b * (first + u * (eps - first)))
        ),
    )


def laplace(N, mu=0.0, b=0.5):
    def level(x):
        sign = (0.5 > x) - (0.5 < x)
        return min(max(math.exp(mu - b * sign * math.log(1 - 2 * abs(0.5 - x) + 1e-5)), 0.002), 80.0)

    return spread(N, level)


def tan(N, c=0.5):
    return through(N, lambda u: c * math.tan((1 - u) * math.atan(80 / c)))


def klub_gauss(N, c=0.5):
    low, high = math.log(1 + c * c / 80**2), math.log(1 + c * c / 0.002**2)
    return spread(N, lambda u: c / math.sqrt(math.exp(low + u * (high - low)) - 1))


def shift(N, s=3.0, power=1.0):
    def level(u):
        return 80 * s / (s + (1 / (1 - u) - 1) ** power) if u < 1 else 0.0

    return through(N, level)


FORMULAS = {
    "uniform-t": [({}, lambda N: through(N, lambda u: 80 * (1 - u)))],
    "quadratic-t": [({}, lambda N: through(N, lambda u: 80 * (1 - u) ** 2))],
    "power-t": [({"power": 3}, lambda N: through(N, lambda u: 80 * (1 - u) ** 3))],
    "logsnr": [({}, log_uniform)],
    "karras": [({}, karras), ({"rho": 3}, lambda N: karras(N, 3.0))],
    "exponential": [({}, log_uniform)],
    "polyexponential": [({}, log_uniform), ({"rho": 2}, lambda N: log_uniform(N, 2.0))],
    "vp-sigmas": [({}, vp_sigmas)],
    "laplace": [({}, laplace), ({"mu": 0.5, "beta": 0.3}, lambda N: laplace(N, 0.5, 0.3))],
    "tan": [({}, tan), ({"std": 2.0}, lambda N: tan(N, 2.0))],
    "klub-gauss": [({}, klub_gauss), ({"std": 2.0}, lambda N: klub_gauss(N, 2.0))],
    "shift": [
        ({}, shift),
        ({"shift": 0.5}, lambda N: shift(N, 0.5)),
        ({"mu": 0.8}, lambda N: shift(N, math.exp(0.8))),
        ({"tokens": 4096}, lambda N: shift(N, math.exp(1.15))),
        ({"tokens": 256}, lambda N: shift(N, math.exp(0.5))),
        ({"power": 1.5}, lambda N: shift(N, 3.0, 1.5)),
    ],
}
CASES = [(key, options, formula) for key, rows in FORMULAS.items() for options, formula in rows]


def test_every_grid_has_a_formula():
    assert sorted({*FORMULAS, *SPACED, "ays"}) == KEYS


@pytest.mark.parametrize("key, options, formula", CASES)
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_published_formula(key, options, formula, steps):
    times = grids.make(key, **options).times(P.EDM(), steps)
    assert times == pytest.approx(formula(steps), rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("process", processes.names(kind="gaussian"))
@pytest.mark.parametrize("final", ["zero", "sigma_min", "denoise"])
@pytest.mark.parametrize("key", KEYS)
def test_promises(key, process, final):
    """steps + 1 strictly falling float64 times from t_max to the zero or to t_min, for 1 step as for 900."""
    process = processes.make(process)
    for steps in (1, 2, 3, 20, 900):
        if key in SPACED and process.key == "edm":
            with pytest.raises(ValueError, match=f"grid '{key}' needs a process whose time runs in"):
                grids.make(key).times(process, steps, final)
            continue
        short = key == "ays" or (key in SPACED and final != "zero" and steps == 900)
        if process.key == "ouve" and short:  # sigma / alpha ends at 1.74, and t_min is the 30th of 1000 steps
            with pytest.raises(ValueError, match=f"grid '{key}'.*(OUVE ends at|strictly decreasing)"):
                grids.make(key).times(process, steps, final)
            continue
        if key == "leading" and steps == 1 and final == "zero":
            with pytest.raises(ValueError, match="cannot take 1 step: it would start at the data"):
                grids.make(key).times(process, steps, final)
            continue
        times = grids.make(key).times(process, steps, final)
        assert times.dtype == np.float64 and times.shape == (steps + 1,) and (np.diff(times) < 0).all()
        assert times[0] <= process.t_max and np.isfinite(times[:-1]).all()
        if final == "zero":
            assert times[-1] == process.t_zero
        elif key not in LOOSE:
            assert times[-1] == process.t_min
        if key not in LOOSE and key != "leading":
            assert times[0] == process.t_max


@pytest.mark.parametrize("key", [k for k in KEYS if k not in SPACED])
@pytest.mark.parametrize("process", ["vp", "edm", "flow-matching", "discrete-vp"])
def test_very_many_steps(key, process):
    times = grids.make(key).times(processes.make(process), 20_000)
    assert len(times) == 20_001 and (np.diff(times) < 0).all()


@pytest.mark.parametrize("key", IN_SIGMA)
def test_levels_mean_sigma_over_alpha(key):
    """The same numbers on every process: those of EDM, in sigma / alpha."""
    options = {"sigma_min": 0.03, "sigma_max": 14.0}
    want = grids.make(key, **options).times(P.EDM(), 12)[:-1]
    for name in processes.names(kind="gaussian"):
        process = processes.make(name)
        if process.lam(process.t_max) > -np.log(14.0):
            continue  # OUVE ends at 1.74
        times = grids.make(key, **options).times(process, 12)
        assert rho(process, times[:-1]) == pytest.approx(want, rel=1e-11), name
        last = grids.make(key, **options).times(process, 12, "sigma_min")[-1:]
        assert rho(process, last) == pytest.approx([0.03], rel=1e-11), name


def test_logsnr_is_uniform_in_lambda():
    for process in (P.VP(), P.VPCosine(), P.VE(), P.DiscreteVP()):
        lam = process.lam(grids.make("logsnr").times(process, 9, "sigma_min"))
        assert np.diff(lam) == pytest.approx(np.full(9, (lam[-1] - lam[0]) / 9), rel=1e-10)
    flow = P.FlowMatching()
    lam = flow.lam(grids.make("logsnr").times(flow, 9, "sigma_min")[1:])  # after the pure noise of t = 1
    assert np.diff(lam) == pytest.approx(np.full(8, lam[1] - lam[0]), rel=1e-10)


def test_a_start_without_data_is_moved_to_t_max():
    times = grids.make("karras").times(P.FlowMatching(), 5)
    assert times[0] == 1 and rho(P.FlowMatching(), times[1:2])[0] < 999
    assert rho(P.FlowMatching(), times[4:5])[0] == pytest.approx(1e-3 / 0.999)


def test_vp_sigmas_on_vp_is_uniform_t():
    times = grids.make("vp-sigmas").times(P.VP(), 11)
    assert times[:-1] == pytest.approx(np.linspace(1, 1e-3, 11), rel=1e-9)


def test_shift_ends_where_it_must():
    grid = grids.make("shift", shift=5.0)
    times = grid.times(P.FlowMatching(), 6, "sigma_min")
    u = times / (5 - 4 * times)  # the inverse of the shift
    assert times[-1] == 1e-3 and np.diff(u) == pytest.approx(np.full(6, (u[-1] - 1) / 6), rel=1e-9)
    assert grids.make("shift", shift=1.0).times(P.FlowMatching(), 6) == pytest.approx(np.linspace(1, 0, 7))


def test_clamped_laplace_levels_are_spread():
    """Below 430 steps Stable Diffusion's range clamps one level; above, the clamped ones are told apart."""
    process = P.DiscreteVP.scaled_linear()
    few, many = (rho(process, grids.make("laplace").times(process, n)[:-1]) for n in (50, 2000))
    x = np.linspace(0, 1, 50)
    published = np.exp(-0.5 * np.sign(0.5 - x) * np.log(1 - 2 * np.abs(0.5 - x) + 1e-5))
    assert few == pytest.approx(np.clip(published, few[-1], few[0]), rel=1e-9)
    assert many[0] == pytest.approx(14.6146, rel=1e-5) and (np.diff(many) < 0).all()
    tied = np.diff(np.log(many))[:3]
    assert tied == pytest.approx(np.full(3, tied[0]), rel=1e-6)


# optimality of the two grids for Gaussian data


def euler_scale(sigma, c):
    """Euler on the probability flow of N(0, c^2) multiplies the exact scale by the cosines of the angle
    steps."""
    theta = np.arctan(np.asarray(sigma) / c)
    return np.cos(theta[:-1] - theta[1:]).prod()


def klub(sigma, c):
    r = (c / np.asarray(sigma)) ** 2
    q = (1 + r[1:]) / (1 + r[:-1])
    return 0.5 * (q - 1 - np.log(q)).sum()


def test_tan_is_the_best_for_euler_on_gaussian_data():
    best = grids.make("tan").times(P.EDM(), 10)
    rng = np.random.default_rng(0)
    for _ in range(50):
        other = best.copy()
        other[1:-1] *= np.exp(0.02 * rng.standard_normal(9))
        assert euler_scale(other, 0.5) < euler_scale(best, 0.5)
    for key in ("karras", "exponential", "uniform-t", "quadratic-t"):
        assert euler_scale(grids.make(key).times(P.EDM(), 10), 0.5) < euler_scale(best, 0.5)


def test_klub_gauss_has_the_least_bound():
    """The bounds of four grids at c = 0.5, 10 steps from 80 to 0.002."""

    def levels(key):
        return grids.make(key).times(P.EDM(), 10, "sigma_min")

    measured = {key: klub(levels(key), 0.5) for key in ("klub-gauss", "exponential", "karras", "tan")}
    known = {"klub-gauss": 4.56, "exponential": 11.7, "karras": 46.6, "tan": 791}
    assert measured == pytest.approx(known, rel=4e-3)


# other people's code


@pytest.mark.parametrize("steps", [1, 5, 20, 200])
def test_levels_are_those_of_k_diffusion(steps):
    if (theirs := kdiffusion()) is None:
        pytest.skip("k-diffusion is not installed")
    edm, ends = P.EDM(0.002, 80.0), (0.002, 80.0)
    pairs = [
        ("karras", {}, theirs.get_sigmas_karras(steps, *ends)),
        ("karras", {"rho": 5}, theirs.get_sigmas_karras(steps, *ends, rho=5.0)),
        ("exponential", {}, theirs.get_sigmas_exponential(steps, *ends)),
        ("polyexponential", {"rho": 1.7}, theirs.get_sigmas_polyexponential(steps, *ends, rho=1.7)),
    ]
    for key, options, sigmas in pairs:
        assert grids.make(key, **options).times(edm, steps) == pytest.approx(sigmas.numpy(), rel=2e-5), key
    sigmas = theirs.get_sigmas_vp(steps).numpy()  # on VP, whose last level is 0.0107; theirs has no expm1
    assert rho(P.VP(), grids.make("vp-sigmas").times(P.VP(), steps)) == pytest.approx(sigmas, rel=2e-3)


@pytest.mark.parametrize("steps", [2, 3, 10, 15, 16, 48, 50, 333, 999, 1000])
def test_spacings_are_those_of_diffusers(steps):
    """DDIM's step numbers exactly; DPM-Solver's, which space one more and leave it out, by drop_last."""
    diffusers = pytest.importorskip("diffusers")
    process = P.DiscreteVP.scaled_linear()
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    for spacing in SPACED:
        ddim = diffusers.DDIMScheduler(timestep_spacing=spacing, **betas)
        ddim.set_timesteps(steps)
        times = grids.make(spacing).times(process, steps)
        ours = process.model_index(times[:-1], 1000)
        assert ours == pytest.approx(ddim.timesteps.numpy(), abs=1e-9), spacing
        abar = ddim.alphas_cumprod[ddim.timesteps].numpy()
        assert process.alpha(times[:-1]) ** 2 == pytest.approx(abar, rel=2e-5)
        if steps < 500:
            dpm = diffusers.DPMSolverMultistepScheduler(timestep_spacing=spacing, **betas)
            dpm.set_timesteps(steps)
            options = {} if spacing == "trailing" else {"drop_last": True}
            ours = process.model_index(grids.make(spacing, **options).times(process, steps)[:-1], 1000)
            assert ours == pytest.approx(dpm.timesteps.numpy(), abs=1e-9), spacing


def test_offset_is_that_of_stable_diffusion():
    diffusers = pytest.importorskip("diffusers")
    ddim = diffusers.DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    ddim.set_timesteps(50)
    ours = grids.make("leading", offset=1).times(P.DiscreteVP(), 50)[:-1] * 1000 - 1
    assert ours == pytest.approx(ddim.timesteps.numpy(), abs=1e-9) and ours[0] == pytest.approx(981)


def test_karras_on_a_discrete_process_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    process = P.DiscreteVP.scaled_linear()
    for key, option in (("karras", "use_karras_sigmas"), ("exponential", "use_exponential_sigmas")):
        euler = diffusers.EulerDiscreteScheduler(**betas, **{option: True})
        euler.set_timesteps(20)
        ours = rho(process, grids.make(key).times(process, 20))
        assert ours == pytest.approx(euler.sigmas.numpy(), rel=1e-4)


def test_shift_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    flow, sigmas = P.FlowMatching(), np.linspace(1, 1 / 12, 12)
    fixed = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    fixed.set_timesteps(sigmas=sigmas)
    assert grids.make("shift", shift=3.0).times(flow, 12) == pytest.approx(fixed.sigmas.numpy(), abs=3e-7)
    dynamic = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    for tokens, mu in ((256, 0.5), (1024, 0.63), (4096, 1.15)):
        dynamic.set_timesteps(sigmas=sigmas, mu=mu)
        for options in ({"mu": mu}, {"tokens": tokens}):
            ours = grids.make("shift", **options).times(flow, 12)
            assert ours == pytest.approx(dynamic.sigmas.numpy(), abs=1e-6)


def test_ays_tables():
    """Ten steps are the published levels; they are those of diffusers; other counts interpolate log sigma."""
    process, svd = P.DiscreteVP.scaled_linear(), P.EDM(0.002, 700.0)
    published = {
        "sd15": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152],
        "sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113],
        "svd": [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034],
    }
    for table, levels in published.items():
        p = svd if table == "svd" else process
        times = grids.make("ays", table=table).times(p, 10)
        assert times[0] == p.t_max and times[-1] == 0
        assert rho(p, times[:-1]) == pytest.approx(levels, rel=1e-4)
    last = {"sd15": 0.0291671582, "svd": 0.002}
    for table, p in (("sd15", process), ("svd", svd)):
        logs = np.log([*published[table], last[table]])
        fine = np.interp(np.linspace(0, 1, 26), np.linspace(0, 1, 11), logs)
        ours = rho(p, grids.make("ays", table=table).times(p, 25)[:-1])
        assert np.log(ours) == pytest.approx(fine[:-1], abs=1e-4)


def test_ays_tables_are_those_of_diffusers():
    theirs = pytest.importorskip("diffusers.schedulers.scheduling_utils").AysSchedules
    p = P.EDM(0.001, 700.0)
    for table, name in (("sd15", ""), ("sdxl", "XL"), ("svd", "Video")):
        want = theirs[f"StableDiffusion{name}Sigmas"]
        assert grids.make("ays", table=table).times(p, 10) == pytest.approx(want, rel=1e-12)


# errors


@pytest.mark.parametrize(
    "key, options, message",
    [
        ("karras", {"rho": 0.0}, "Karras: need rho > 0, got rho=0.0"),
        ("karras", {"sigma_min": 5.0, "sigma_max": 1.0}, "sigma_max, got sigma_min=5.0, sigma_max=1.0"),
        ("exponential", {"sigma_min": 0.0}, "0 < sigma_min"),
        ("polyexponential", {"rho": -1}, "rho > 0"),
        ("power-t", {"power": 0}, "power > 0"),
        ("logsnr", {"eps": 0}, "0 < eps < 1"),
        ("vp-sigmas", {"eps": 2}, "0 < eps < 1"),
        ("vp-sigmas", {"beta_min": 0}, "beta_min > 0"),
        ("laplace", {"beta": 0}, "beta > 0"),
        ("tan", {"std": 0}, "std > 0"),
        ("klub-gauss", {"std": -1}, "std > 0"),
        ("shift", {"shift": 0}, "shift > 0"),
        ("shift", {"mu": 1, "tokens": 256}, "mu or tokens, not both"),
        ("ays", {"table": "sd21"}, "unknown table of grid 'ays' 'sd21'; did you mean"),
        ("leading", {"train_steps": 0}, "train_steps must be a positive int"),
        ("karras", {"roh": 7}, "did you mean 'rho'"),
    ],
)
def test_wrong_options(key, options, message):
    with pytest.raises(ValueError, match=message):
        grids.make(key, **options)


def test_wrong_calls():
    karras = grids.make("karras")
    with pytest.raises(TypeError, match="steps must be an int, got float"):
        karras.times(P.VP(), 20.0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        karras.times(P.VP(), 0)
    with pytest.raises(ValueError, match="unknown final 'sigma_mim'; did you mean 'sigma_min'"):
        karras.times(P.VP(), 5, "sigma_mim")
    with pytest.raises(ValueError, match="runs from 80 to 0, got sigma_max=100"):
        grids.make("karras", sigma_max=100.0).times(P.EDM(), 5)
    with pytest.raises(ValueError, match="starts at sigma 700, but EDM ends at 80"):
        grids.make("ays", table="svd").times(P.EDM(), 5)
    with pytest.raises(ValueError, match="1001 points do not fit on 1000 steps"):
        grids.make("trailing").times(P.VP(), 1001)
    with pytest.raises(ValueError, match="DiscreteVP has 1000 train_steps, not 500"):
        grids.make("trailing", train_steps=500).times(P.DiscreteVP(), 5)
    with pytest.raises(ValueError, match="step 1000 is beyond the last, 999"):
        grids.make("leading", offset=1).times(P.VP(), 1000)
    with pytest.raises(ValueError, match="unknown grid 'karas'; did you mean 'karras'"):
        grids.make("karas")
    assert len(grids.make("trailing", train_steps=5000).times(P.VP(), 1001)) == 1002


def test_grids_by_name():
    assert G.names() == KEYS and {"Karras", "AYS", "UniformT"} <= set(dir(G))
    assert G.Karras(rho=5.0) == grids.make("karras", rho=5) and hash(G.Karras()) == hash(G.Karras())
    with pytest.raises(AttributeError, match="did you mean 'Karras'"):
        G.Karas  # noqa: B018


@pytest.mark.parametrize(
    "times, message",
    [
        ([1.0], "at least 2 times"),
        ([[1.0, 0.5]], "at least 2 times"),
        ([1.0, math.nan, 0.0], "has a NaN at index 1"),
        ([1.0, 0.5, 0.5], r"times\[1\] = 0.5 and times\[2\] = 0.5"),
        ([2.0, 0.5], r"must lie in \[0, 1\] for VP"),
        ([1.0, -0.5], r"must lie in \[0, 1\] for VP"),
    ],
)
def test_times_are_checked(times, message):
    with pytest.raises(ValueError, match=message):
        check_times(times, P.VP())
