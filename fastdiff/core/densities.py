"""Densities of a plan's steps: where a step is a Gaussian given the states before it, and which.

    x_{i+1} = mean_i(x_0 .. x_i) + sum_c L_ic xi_c        log p = -|x_{i+1} - mean_i|^2 / (2 s_i^2)
                                                                  - d (log s_i + log(2 pi) / 2),  s_i^2 = sum
                                                                  L_ic^2

It is one where no network call, hook or later step sees the step's noise except through x_{i+1}.

Source: Black et al. 2023, arXiv:2305.13301, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, log, pi

from .plan import Plan


@dataclass(frozen=True)
class GaussianStep:
    """scales: of the step's draws, in the order of their columns."""

    scales: tuple[float, ...]

    @property
    def std(self) -> float:
        return hypot(*self.scales)

    def log_weights(self, size: int) -> tuple[float, float]:
        """(w, c) with log p = w |x - mean|^2 + c for a sample of `size` elements."""
        return -0.5 / self.std**2, -size * (log(self.std) + 0.5 * log(2 * pi))


def gaussian_steps(plan: Plan, hook: int) -> tuple[GaussianStep, ...]:
    """The steps of a plan in which `hook`, the last one, stands at the noise and the state points.

    Raises ValueError for a step that is no Gaussian: churn, restarts, stages after a draw, noise used again.
    """
    seen: dict[int, dict[int, float]] = {}  # register -> number of a draw -> its scale there; -1: bent
    steps: list[GaussianStep] = []
    drawn = 0
    first = 0  # of this step's draws
    for s in plan.stages:
        rows = {r: _row(row, s.inputs, seen) for r, row in zip(s.outputs, s.coeffs, strict=True)}
        seen.update(rows)
        call = s.call
        if call is None:
            continue
        noise = {k: v for a in call.args for k, v in seen.get(a, {}).items() if v}
        seen.update((r, {}) for r in call.outs)
        if call.kind == "noise" and call.hook == hook:
            seen[call.outs[0]] = {drawn: 1.0}
            drawn += 1
        elif call.kind == "state" and call.hook == hook:
            if any(k < first for k in noise):
                raise ValueError(
                    _no(plan, call.step, "uses noise that an earlier step drew, or bends its own")
                )
            steps.append(GaussianStep(tuple(noise.get(k, 0.0) for k in range(first, drawn))))
            first = drawn
            # what else holds this step's noise holds it apart from the state that is given
        elif noise:
            if call.kind == "net":
                raise ValueError(_no(plan, call.step, "asks the network after a draw and before its end"))
            seen.update((r, {-1: 1.0}) for r in call.outs)
    return tuple(steps)


def _row(row: object, inputs: tuple[int, ...], seen: dict[int, dict[int, float]]) -> dict[int, float]:
    total: dict[int, float] = {}
    for w, r in zip(row, inputs, strict=False):  # type: ignore[call-overload]
        for k, v in seen.get(r, {}).items():
            total[k] = total.get(k, 0.0) + float(w) * v
    return total


def _no(plan: Plan, step: int, why: str) -> str:
    return f"{plan.solver}: step {step} is no Gaussian given the states before it, for it {why}"
