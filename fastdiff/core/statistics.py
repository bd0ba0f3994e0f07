"""ModelStatistics: what DPM-Solver-v3 knows of a network beforehand, of each element or group of elements.

    l, s, b     functions of lambda = log(alpha / sigma), straight between the nodes at which they are given

and the integrals over them that its steps are made of, to rounding: Gauss-Legendre in pieces on which
everything is smooth.
"""
from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

POINTS, WIDTH = 6, 0.25  # of a piece: Gauss points, and lambdas at most; e^{3 u} is integrated to 1e-16
MOMENTS = 4


class Walk(NamedTuple):
    """What lies between lambda_s and lambda_c, every number for each group; u = lambda - lambda_s.

    decay     e^{-(L_c - L_s)},  L = int l
    slope     e^{-(S_c - S_s)},  S = int s
    shift     int e^{-(S - S_s)} b
    moments   M_k = decay int e^{(L - L_s) + (S - S_s)} u^k / k!
    offset    decay int e^{(L - L_s) + (S - S_s)} shift(u)
    """

    decay: Any
    slope: Any
    shift: Any
    moments: list[Any]
    offset: Any


class Curves:
    """l, s and b of some groups of elements, (nodes, groups). like: what a number for each group becomes."""

    def __init__(self, lam: np.ndarray, lsb: np.ndarray, like: Callable[[np.ndarray], Any]):
        self.lam, self.lsb, self.like = lam, lsb, like
        self.constant = not lsb[2].any()  # b = 0: steps have no offset
        self._walks: dict[tuple[float, float], Walk] = {}

    def within(self, lam: Any) -> float:
        v, (low, high) = float(lam), self.lam[[0, -1]]
        if not low - 1e-9 * (high - low) <= v <= high + 1e-9 * (high - low):
            raise ValueError(f"statistics reach from lambda {low:g} to {high:g}; the times ask for {v:g}. "
                             "Make them over a wider range, or end the grid within it")
        return min(max(v, low), high)

    def l(self, lam: Any) -> Any:  # noqa: E743 - the paper's letter
        return self.like(self._at(np.array([self.within(lam)]))[0][0])

    def walk(self, start: Any, end: Any) -> Walk:
        key = self.within(start), self.within(end)
        if key not in self._walks:
            self._walks[key] = self._walk(*key)
        return self._walks[key]

    def _at(self, lam: np.ndarray) -> np.ndarray:
        """(3, *lam.shape, groups)"""
        i = np.clip(np.searchsorted(self.lam, lam, side="right") - 1, 0, len(self.lam) - 2)
        w = ((lam - self.lam[i]) / (self.lam[i + 1] - self.lam[i]))[..., None]
        low, high = self.lsb[:, i], self.lsb[:, i + 1]
        return low + w * (high - low)

    def _walk(self, start: float, end: float) -> Walk:
        inner = self.lam[(self.lam > min(start, end)) & (self.lam < max(start, end))]
        ends = np.array([start, *(inner if end > start else inner[::-1]), end])
        pieces = [np.linspace(a, b, max(1, math.ceil(abs(b - a) / WIDTH)), endpoint=False)
                  for a, b in zip(ends[:-1], ends[1:], strict=True)]
        edges = np.array([*np.concatenate(pieces), end])
        x, weights, partial = _gauss()
        half = np.diff(edges)[:, None] / 2
        lam = edges[:-1, None] + half * (1 + x)

        def integral(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Of (pieces, points, groups): up to every point, and the whole."""
            whole = half * np.einsum("j,cjg->cg", weights, v)
            before = np.cumsum(whole, 0) - whole
            return before[:, None] + half[..., None] * np.einsum("ij,cjg->cig", partial, v), whole.sum(0)

        l, s, b = self._at(lam)  # noqa: E741
        (L, L_end), (S, S_end) = integral(l), integral(s)
        shift, shift_end = integral(np.exp(-S) * b)
        growth, u = np.exp(L + S - L_end), (lam - start)[..., None]
        moments = [integral(growth * u**k / math.factorial(k))[1] for k in range(MOMENTS)]
        found = np.exp(-L_end), np.exp(-S_end), shift_end, integral(growth * shift)[1]
        decay, slope, shift_end, offset = map(self.like, found)
        return Walk(decay, slope, shift_end, [self.like(m) for m in moments], offset)


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """Made by `fd.tune.model_statistics`, or of one's own numbers.

    lam       (N + 1,): lambda = log(alpha / sigma) of the nodes, increasing
    l, s, b   (N + 1, *shape): shape is () (one number for all elements), or has a sample's axes, each of its
              size or 1: (C, 1, 1) is per channel, (C, H, W) per element
    process   repr of the process they hold for; "": nobody asks

    Raises ValueError or TypeError for arrays that do not fit together or are not finite.
    """

    lam: np.ndarray
    l: np.ndarray  # noqa: E741
    s: np.ndarray
    b: np.ndarray
    process: str = ""

    def __post_init__(self) -> None:
        for name in ("lam", "l", "s", "b"):
            try:
                v = np.array(getattr(self, name), dtype=np.float64)
            except (TypeError, ValueError) as e:
                raise TypeError(f"ModelStatistics: {name} must be an array of numbers") from e
            if not np.isfinite(v).all():
                raise ValueError(f"ModelStatistics: {name} must be finite")
            v.setflags(write=False)
            object.__setattr__(self, name, v)
        if self.lam.ndim != 1 or len(self.lam) < 2 or not (np.diff(self.lam) > 0).all():
            raise ValueError("ModelStatistics: lam must be an increasing sequence of 2 numbers or more, got "
                             f"{self.lam.shape}")
        for name in ("l", "s", "b"):
            v = getattr(self, name)
            if v.shape[:1] != self.lam.shape or v.shape != self.l.shape:
                raise ValueError(f"ModelStatistics: {name} is {v.shape}; l is {self.l.shape}, and each needs "
                                 f"{len(self.lam)} rows, one for each lam")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.l.shape[1:]

    @cached_property
    def _lsb(self) -> np.ndarray:
        return np.stack([v.reshape(len(self.lam), -1) for v in (self.l, self.s, self.b)])

    def curves(self, like: Callable[[np.ndarray], Any] = lambda v: v) -> Curves:
        return Curves(self.lam, self._lsb, like)

    @cached_property
    def typical(self) -> Curves:
        """Of one element that stands for all where it is decided which coefficients there are: a weighted
        mean, so that what is 0 there is 0 everywhere."""
        weights = np.random.default_rng(0).uniform(0.5, 1.5, self._lsb.shape[2])
        mean = self._lsb @ (weights / weights.sum()) if self._lsb.shape[2] > 1 else self._lsb[..., 0]
        return Curves(self.lam, mean[..., None], lambda v: float(v[0]))

    def check(self, process: Any) -> None:
        if self.process and self.process != repr(process):
            raise ValueError(f"these statistics are of a network on {self.process}, not on {process!r}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; an interruption leaves an older one whole."""
        arrays = {n: getattr(self, n) for n in ("lam", "l", "s", "b")}
        head: dict[str, Any] = {"__metadata__": {"process": self.process}}
        at = 0
        for name, v in arrays.items():
            head[name] = {"dtype": "F64", "shape": v.shape, "data_offsets": [at, at + v.nbytes]}
            at += v.nbytes
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 8)
        body = b"".join(v.astype("<f8").tobytes() for v in arrays.values())
        path = Path(path)
        part = path.with_name(path.name + ".part")
        part.write_bytes(len(text).to_bytes(8, "little") + text + body)
        part.replace(path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> ModelStatistics:
        """Read what `save` wrote."""
        data = Path(path).read_bytes()
        try:
            start = 8 + int.from_bytes(data[:8], "little")
            head = json.loads(data[8:start])
            found = {}
            for name in ("lam", "l", "s", "b"):
                first, last = head[name]["data_offsets"]
                if head[name]["dtype"] != "F64":
                    raise ValueError("not float64")
                found[name] = np.frombuffer(data[start:][first:last], "<f8").reshape(head[name]["shape"])
            return ModelStatistics(**found, process=head["__metadata__"]["process"])
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f"{os.fspath(path)}: not saved ModelStatistics") from e

    def __repr__(self) -> str:
        low, high = self.lam[[0, -1]]
        return f"ModelStatistics({len(self.lam)} nodes, lambda {low:.3g} .. {high:.3g}, {self.shape})"


@cache
def _gauss() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights on [-1, 1], and the matrix that integrates from -1 up to every node."""
    legendre = np.polynomial.legendre
    x, w = legendre.leggauss(POINTS)
    P = legendre.legvander(x, POINTS)
    k = np.arange(1, POINTS)
    up = np.concatenate([x[:, None] + 1, (P[:, 2:] - P[:, :-2]) / (2 * k + 1)], 1)
    return x, w, up @ np.linalg.inv(P[:, :-1])
