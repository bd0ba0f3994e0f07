"""Linear processes on data whose answers are closed forms.

Data x_0 of a mixture of normals on the line, the other registers N(0, start) beside it, stay a mixture: of

    N(Phi (mu_k, 0, ..), Phi diag(s_k^2, start) Phi^T + Q)          K x K for each element

so that the score of all registers is known, and with one component every sampler is an affine map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.gaussian_path import root
from ..core.interpret import interpret
from ..core.linear import LinearProcess
from ..core.plan import Plan
from .mixture import GaussianMixture


class PhaseMixture:
    """The mixture's law under a linear process; every element is an independent draw. spread: the variances
    at t = 0 of the registers besides x, by default the process's own."""

    def __init__(
        self, mixture: GaussianMixture, process: LinearProcess, spread: Sequence[float] | None = None
    ):
        if mixture.event:
            raise ValueError(f"PhaseMixture: a mixture on the line is wanted, got event {mixture.event}")
        self.mixture, self.process = mixture, process
        self.spread = np.array(process.system.start[1:] if spread is None else spread, dtype=np.float64)
        self._known: dict[float, Any] = {}  # of the newest time

    def components(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means (k, K) and covariances (k, K, K) at t, and Phi."""
        Phi, Q = self.process.along(0.0, float(t))
        first = np.array([np.diag([s * s, *self.spread]) for s in self.mixture.stds.tolist()])
        means = np.array(self.mixture.means.tolist())[:, None] * Phi[:, 0]
        return means, Phi @ first @ Phi.T + Q, Phi

    def _expectations(self, z: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Of z (K, n)."""
        if t not in self._known:
            means, covs, Phi = self.components(t)
            logs = np.log(self.mixture.weights.numpy()) - np.linalg.slogdet(covs)[1] / 2
            self._known = {t: (means, np.linalg.inv(covs), logs, Phi, self.process.spread(t) if t else None)}
        means, back, logs, Phi, _ = self._known[t]
        off = z - means[:, :, None]
        pull = back @ off
        fit = logs[:, None] - (off * pull).sum(1) / 2
        r = np.exp(fit - fit.max(0))
        r = r / r.sum(0)
        data = self.mixture.means.numpy()[:, None] + self.mixture.stds.numpy()[:, None] ** 2 * (
            Phi[:, 0] @ pull
        )
        return -(r[:, None] * pull).sum(0), (r * data).sum(0)

    def expectations(self, z: Sequence[Tensor], t: float) -> tuple[list[Tensor], Tensor]:
        """The score of each register, and E[x_0 | z]; in float64."""
        point = np.stack([a.detach().cpu().double().reshape(-1).numpy() for a in z])
        made = [
            torch.from_numpy(a).reshape(z[0].shape) for a in np.vstack(self._expectations(point, float(t)))
        ]
        return made[:-1], made[-1]

    def outputs(self, z: Sequence[Tensor], t: float, predicts: str) -> list[Tensor]:
        """What the best possible network gives."""
        score, data = self.expectations(z, t)
        if predicts == "data":
            return [data]
        if predicts == "noise":
            R = torch.from_numpy(self._known[float(t)][4])
            score = list(-torch.tensordot(R.T, torch.stack(score), 1))
        return [score[k] for k in self.process.scored]

    def net(self, predicts: str = "noise") -> Callable[..., Any]:
        """net(x, v, .., t, **cond): one time for all samples, outputs of x's dtype."""

        def net(*args: Any, **cond: Any) -> Any:
            *z, t = args
            t = float(torch.as_tensor(t).reshape(-1)[0]) if torch.as_tensor(t).numel() else 1.0
            outs = [o.to(z[0].dtype) for o in self.outputs(z, t, predicts)]
            return outs[0] if len(outs) == 1 else tuple(outs)

        return net

    def flow(self, z: Sequence[Any], t0: float, t1: float, *, tol: float = 1e-12) -> list[np.ndarray]:
        """z carried along the probability flow by DOP853 in sqrt(t), good to about 100 tol. Needs scipy."""
        from scipy.integrate import solve_ivp

        start = np.stack([np.asarray(a, dtype=np.float64) for a in z])

        def slope(u: float, y: np.ndarray) -> np.ndarray:
            t, point = u * u, y.reshape(len(start), -1)
            F, N = self.process.f(t).array(), self.process.g2(t).array()
            return (2 * u * (F @ point - N / 2 @ self._expectations(point, t)[0])).reshape(-1)

        made = solve_ivp(slope, (t0**0.5, t1**0.5), start.reshape(-1), method="DOP853", rtol=tol, atol=tol)
        if not made.success:
            raise RuntimeError(f"PhaseMixture.flow: {made.message}")
        return list(made.y[:, -1].reshape(start.shape))


class PhaseLaw(NamedTuple):
    """Mean (n,) and covariance (n, n) of x, or of all registers; rows (n, 1 + K + draws) over (1, start,
    draws)."""

    mean: np.ndarray
    cov: np.ndarray
    rows: np.ndarray


def phase_law(
    plan: Plan,
    process: LinearProcess,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    shift: Sequence[float] = (),
    draws: int = 256,
    noise: Callable[[Any, int, int], Any] | None = None,
    whole: bool = False,
) -> PhaseLaw:
    """The exact law of a plan's result on data N(mean, std^2), from their law at times[0] with its mean moved
    by `shift`. noise(unit, step, column): another draw than unit(key), a new normal for each key.
    whole: of all registers."""
    data = PhaseMixture(GaussianMixture([1.0], [mean], [std]), process)
    K, keys = len(process.registers), {}
    eye = np.eye(1 + K + draws)
    (m,), (C,), _ = data.components(plan.times[0])
    m = m + (np.array(shift) if len(shift) else 0)
    start = [m[k] * eye[0] + root(C)[k] @ eye[1 : 1 + K] for k in range(K)]

    def net(z: Any, call: Any, branch: int) -> Any:
        means, (cov,), Phi = data.components(call.t)
        off = np.stack(list(z) if K > 1 else [z]) - means[0][:, None] * eye[0]
        score = -np.linalg.solve(cov, off)
        if plan.predicts == "data":
            outs = [mean * eye[0] - std**2 * Phi[:, 0] @ score]
        else:
            R = process.spread(call.t)
            score = -R.T @ score if plan.predicts == "noise" else score
            outs = [score[k] for k in process.scored]
        return outs if K > 1 else outs[0]

    def unit(key: Any) -> np.ndarray:
        return eye[1 + K + keys.setdefault(key, len(keys))]

    def draw(step: int, column: int) -> Any:
        return unit((step, column)) if noise is None else noise(unit, step, column)

    consts = dict(zip(process.registers[1:], start[1:], strict=True))
    emitted: dict[tuple[str, int], Any] = {}
    x = interpret(
        plan.with_trajectory() if whole else plan, net, start[0], noise=draw, consts=consts, emitted=emitted
    )
    rows = np.stack([x, *(emitted[n, plan.visits - 1] for n in (process.registers[1:] if whole else ()))])
    return PhaseLaw(rows[:, 0], rows[:, 1:] @ rows[:, 1:].T, rows[:, : 1 + K + len(keys)])
