"""PC: a predictor's step to each level, then Langevin sweeps at that level; a wrapper of any solver.

    x <- x + e score + sqrt(2 e) z
    "langevin"   e = 2 a (snr |z| / |score|)^2 for each sample,      "ald"   e = 2 a (snr sigma)^2
    a = (alpha_s / alpha_t)^2 of the step from s to t: 1 - beta of a discrete chain, 1 where variance explodes

Each sweep is one more network call. Sweeps of finite e keep a bias that no number of steps removes (on
Gaussian data of variance V they tend to V / (1 - e / (2 V))), hence order 0. The norms of "langevin" are each
sample's own; the released code takes the mean over the batch, so that samples depend on their neighbours.

Source: Song et al. 2021, arXiv:2011.13456, algorithms 2 to 5.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import sqrt
from ..core.process import Node
from ..core.solver import Past, check_range
from ._wrapper import Wrapper


@dataclass(frozen=True)
class PC(Wrapper):
    key = "pc"
    order = 0  # type: ignore[assignment]
    source = "Song et al. 2021, arXiv:2011.13456"

    inner: Any = "reverse-diffusion"
    corrector: Literal["langevin", "ald"] = "langevin"
    snr: float = 0.16
    sweeps: int = 1

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return True

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.corrector == "ald"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "snr", 0)
        if type(self.sweeps) is not int or self.sweeps < 0:
            raise ValueError(f"solver 'pc': sweeps must be a whole number, 0 or more, got {self.sweeps!r}")

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = self.made.step(p, s, t, past)
        a = (s.alpha / t.alpha) ** 2
        for _ in range(self.sweeps):
            eps, z = p.model(p.x, t, "noise"), p.noise()
            if self.corrector == "langevin":
                p.x = p.call("langevin", t, p.x, eps, z, params=(a, self.snr, t.sigma))
            else:
                k = 2 * a * self.snr**2  # e / sigma^2; score = -eps / sigma
                p.x = p.x + t.sigma * (sqrt(2 * k) * z - k * eps)
            past = []
        return past
