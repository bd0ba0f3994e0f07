"""The CPU kernels against torch in one run: a step against a copy of its bytes, noise against torch.randn.

    python bench/kernels.py

One thread, or two where it says so, interleaved, medians of many rounds. The ratios hold on other machines,
absolute figures do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

import fastdiff as fd
from fastdiff import _C
from fastdiff.ops.noise import PARAMETERS, constants

ELEMENTS = 262_144  # 1 MiB of float32 a tensor: in the last cache, out of the second
NORMALS = 65_536
ROUNDS = 200


def interleaved(
    work: dict[str, Callable[[], object]],
    rounds: int = ROUNDS,
    of: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Median (or another `of`) seconds of each, taken in turn so that what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for f in work.values():
        f()
    for _ in range(rounds):
        for name, f in work.items():
            start = time.perf_counter()
            f()
            times[name].append(time.perf_counter() - start)
    return {name: of(t) for name, t in times.items()}


def step_against_copy(dtype: torch.dtype, n_in: int = 3, n_out: int = 2) -> dict[str, float]:
    """linear_step without noise; `ratio`: its bytes per second over those of copy_ in as large a set."""
    T = [torch.randn(16, ELEMENTS // 16).to(dtype) for _ in range(n_in)]
    out = [torch.empty_like(T[0]) for _ in range(n_out)]
    A = torch.randn(n_out, n_in)
    size = (n_in + n_out) * ELEMENTS * T[0].element_size()
    source = torch.randn(size // 8)  # half of the bytes are read, half written
    target = torch.empty_like(source)
    seconds = interleaved(
        {
            "step": lambda: _C.linear_step_(T, A, None, None, [], [], out),
            "copy": lambda: target.copy_(source),
        }
    )
    step, copy = (size / seconds[name] / 1e9 for name in ("step", "copy"))
    return {"us": seconds["step"] * 1e6, "GB/s": step, "copy GB/s": copy, "ratio": step / copy}


def normals_against_torch() -> dict[str, float]:
    """ns per normal; `ratio` is torch's over ours."""
    rng = torch.tensor([[1, 0, 0]])
    ours, theirs = torch.empty(1, NORMALS), torch.empty(1, NORMALS)
    seconds = interleaved(
        {"ours": lambda: _C.fill_(ours, rng, 0, 0, "normal"), "torch": lambda: theirs.normal_()}
    )
    ns = {name: s / NORMALS * 1e9 for name, s in seconds.items()}
    return {"ns": ns["ours"], "torch ns": ns["torch"], "ratio": ns["torch"] / ns["ours"]}


def noise_against_randn() -> dict[str, float]:
    """fd.noise.normal, the whole call, on one thread and on two: ns a normal, and torch.randn's over ours.

    The least of many rounds: whoever else wants the second core spoils the median.
    """
    n, found = 4 * ELEMENTS, {}
    work = {"ours": lambda: fd.noise.normal((1, n), 0), "torch": lambda: torch.randn(1, n)}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        least = {name: interleaved({name: f}, 200, min)[name] for name, f in work.items()}
        found[threads] = {name: s / n * 1e9 for name, s in least.items()}
    torch.set_num_threads(1)
    one, two = found[1], found[2]
    return {
        "ns": one["ours"],
        "randn ns": one["torch"],
        "ratio": one["torch"] / one["ours"],
        "two threads ns": two["ours"],
        "quicker than one by": one["ours"] / two["ours"],
        "ratio to randn's two": two["torch"] / two["ours"],
    }


def laws() -> dict[str, float]:
    """ns a number of every law, one thread."""
    rng, out = torch.tensor([[1, 0, 0]]), torch.empty(1, NORMALS)
    t = [5.0, 0.0]
    parameters = {
        "bernoulli": [0.3],
        "bimodal": [0.5],
        "student_t": t,
        "multivariate_t": t,
        "gamma": [2.5, 1.0],
    }

    def fill(family: str) -> Callable[[], object]:
        numbers = constants(family, parameters.get(family, []))
        return lambda: _C.fill_(out, rng, 0, 0, family, numbers)

    work = {family: fill(family) for family in PARAMETERS}
    work["normal, mapped"] = lambda: _C.fill_(out, rng, 0, 0, "normal", [], 0, [1])
    return {name: s / NORMALS * 1e9 for name, s in interleaved(work, 50).items()}


def small_call() -> dict[str, float]:
    """us of a whole call on 256 elements: what the host pays."""
    T, out = [torch.randn(1, 256) for _ in range(4)], [torch.empty(1, 256) for _ in range(2)]
    A = torch.randn(2, 4)

    def many() -> None:
        for _ in range(1000):
            _C.linear_step_(T, A, None, None, [], [], out)

    return {"us": interleaved({"many": many}, 20)["many"] * 1e3}


def measure() -> dict[str, dict[str, float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "step float32": step_against_copy(torch.float32),
            "step bfloat16": step_against_copy(torch.bfloat16),
            "step float16": step_against_copy(torch.float16),
            "normal": normals_against_torch(),
            "noise.normal": noise_against_randn(),
            "ns of a law": laws(),
            "small call": small_call(),
        }
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    print(f"{_C.isa()}, one thread, medians")
    for name, figures in measure().items():
        print(f"{name:14}", "  ".join(f"{key} {value:.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
