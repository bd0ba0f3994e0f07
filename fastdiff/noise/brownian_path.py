"""BrownianPath: one Brownian motion for each sample, asked for at any times, in any order, and never stored.

    path(t)                W(t) - W(t0)
    path.increment(s, t)   W(t) - W(s), by its own walk down a tree: nothing cancels, however short it is
    with levy=True         and H = 1 / (t - s) int_s^t (W_u - W_s - (u - s) / (t - s) (W_t - W_s)) du, the
                           space-time Levy area, N(0, (t - s) / 12) and independent of the increment

A value is a function of (seed, sample id, times) alone. The tree has 2^depth cells on [t0, t1]. snap=True
moves times to the nearest boundary of cells: every joint law is exact for these. snap=False interpolates
inside cells: the law of one query is exact, two inside a cell are not jointly Brownian. Backwards in time W
changes its sign and H does not. levy=True is another path than levy=False for the same seed.

Source: Foster, Lyons and Oberhauser 2020, arXiv:1905.08494; Li et al. 2020, arXiv:2001.01328.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .. import ops
from . import streams
from .seeds import SeedsLike, resolve

Time: TypeAlias = "float | np.ndarray | Tensor"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class _Piece(NamedTuple):
    """A stretch of the path on the unit horizon: its length (B,), W, and H-bar = length H."""

    length: Tensor
    W: Tensor
    H: Tensor | None


class BrownianPath:
    """A path for each sample of `shape` = (B, *) over [t0, t1].

    Times are numbers, or one for each sample: tensors or arrays (B,). A tensor on the CPU is checked; on a
    device nothing is waited for, and a time outside gives NaN. Times may lie outside [t0, t1] by the rounding
    of their own dtype. snap, levy: above. dtype, device, backend: as for fastdiff.noise.normal.
    """

    def __init__(
        self,
        shape: Sequence[int],
        seeds: SeedsLike,
        t0: float,
        t1: float,
        *,
        depth: int = 16,
        snap: bool = True,
        levy: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        backend: str | None = None,
    ):
        if not isinstance(shape, (list, tuple)) or len(shape) < 1:
            raise ValueError(
                f"BrownianPath: shape is {shape!r}; (B, *) is allowed, the first dimension counts the samples"
            )
        self.t0, self.t1 = _number("t0", t0), _number("t1", t1)
        if not self.t0 < self.t1:
            raise ValueError(f"BrownianPath: t0 is {self.t0:g} and t1 is {self.t1:g}; t0 < t1 is allowed")
        if not math.isfinite(self.t1 - self.t0):
            raise ValueError("BrownianPath: t1 - t0 overflows; a finite difference is allowed")
        if isinstance(depth, bool) or not isinstance(depth, int):
            raise TypeError(f"BrownianPath: depth is {depth!r}; an int is allowed")
        if not 1 <= depth <= 30:
            raise ValueError(f"BrownianPath: depth is {depth}; 1 .. 30 is allowed")
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        if self.dtype not in DTYPES:
            raise ValueError(
                f"BrownianPath: dtype is {dtype}; float32, float16, bfloat16 or float64 is allowed"
            )
        self.rng = resolve(seeds, shape[0], torch.empty(0).device if device is None else device)
        self.device, self.shape = self.rng.device, tuple(shape)
        self.depth, self.snap, self.levy, self.backend = depth, bool(snap), bool(levy), backend
        self._cells, self._length = 1 << depth, self.t1 - self.t0

    def __repr__(self) -> str:
        options = f"depth={self.depth}, snap={self.snap}, levy={self.levy}, dtype={self.dtype}"
        return f"BrownianPath({self.shape}, [{self.t0:g}, {self.t1:g}], {options})"

    def __call__(self, t: Time) -> Tensor:
        """W(t) - W(t0), of shape (B, *)."""
        return self._between("t0", self.t0, "t", t)[0]

    def increment(self, s: Time, t: Time) -> Any:
        """W(t) - W(s), of shape (B, *); with levy (that, H)."""
        out = self._between("s", s, "t", t)
        return tuple(out) if self.levy else out[0]

    def increments(self, times: Sequence[Time] | np.ndarray | Tensor) -> Any:
        """The increments between neighbours of `times`: (len(times) - 1, B, *); with levy (those, H).

        Each has the bits of `increment`, but times that go one way cost far less here. A tensor (n,) on a
        device holds increasing times.
        """
        if getattr(times, "ndim", 1) == 0 or len(times) < 2:
            raise ValueError(f"BrownianPath: times is {times!r}; a sequence of at least 2 is allowed")
        if self.snap and isinstance(times, Tensor) and times.dim() == 1 and not times.is_cpu:
            at = _nearest(self._positions("times", times, tuple(times.shape))[0])
            row = self._own(at, at.diff())
        else:
            row = self._row(list(times)) if self.snap else None
        if row is None:
            pairs = [
                self._between(f"times[{k}]", times[k], f"times[{k + 1}]", times[k + 1])
                for k in range(len(times) - 1)
            ]
            row = [torch.stack(column) for column in zip(*pairs, strict=True)]
        return tuple(row) if self.levy else row[0]

    # ---- times to positions: cells from t0 on, a float for all samples or float64 (B,) for each, and how far
    # the rounding of the times' dtype may have moved it

    def _position(self, name: str, t: Any) -> tuple[float | Tensor, float]:
        if isinstance(t, np.ndarray) and t.ndim > 0:
            t = torch.from_numpy(t)
        if isinstance(t, Tensor) and (t.dim() > 0 or not t.is_cpu):
            x, rounding = self._positions(name, t, () if t.dim() == 0 else (self.shape[0],))
            return x.expand(self.shape[0]), rounding
        if isinstance(t, Tensor):
            if t.requires_grad:
                self._refuse_gradient(name)
            eps = torch.finfo(t.dtype).eps if t.dtype.is_floating_point else 0.0
        else:
            kind = getattr(t, "dtype", np.dtype(np.float64))
            eps = float(np.finfo(kind).eps) if np.issubdtype(kind, np.floating) else 0.0
        x = (_number(name, t) - self.t0) / self._length * self._cells
        rounding = self._rounding(eps)
        if not -rounding <= x <= self._cells + rounding:
            self._outside(name, float(t))
        return min(max(x, 0.0), float(self._cells)), rounding

    def _positions(self, name: str, t: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, float]:
        if t.requires_grad:
            self._refuse_gradient(name)
        if t.dtype.is_complex or t.dtype == torch.bool:
            raise TypeError(f"BrownianPath: {name} is {t.dtype}; real numbers are allowed")
        if t.shape != shape:
            raise ValueError(
                f"BrownianPath: {name} has shape {tuple(t.shape)}; one time, or one for each of the "
                f"{self.shape[0]} samples, is allowed"
            )
        if not t.is_cpu and t.device != self.device:
            raise ValueError(f"BrownianPath: {name} is on {t.device}; the path is on {self.device}")
        x = (t.double() - self.t0) / self._length * self._cells
        rounding = self._rounding(torch.finfo(t.dtype).eps if t.dtype.is_floating_point else 0.0)
        inside = (x >= -rounding) & (x <= self._cells + rounding)
        if t.is_cpu and not inside.all():
            self._outside(name, float(t[~inside][0]))
        # what is outside and may not be looked at becomes NaN in the kernel
        return torch.where(inside, x.clamp(0, self._cells), -1.0), rounding

    def _rounding(self, eps: float) -> float:
        return eps * max(abs(self.t0), abs(self.t1)) / self._length * self._cells

    def _outside(self, name: str, t: float) -> None:
        raise ValueError(f"BrownianPath: {name} is {t:g}; {self.t0:g} .. {self.t1:g} is allowed")

    def _refuse_gradient(self, name: str) -> None:
        raise ValueError(f"BrownianPath: {name} requires a gradient and a path has no derivative; detach it")

    # ---- increments

    def _between(self, s_name: str, s: Any, t_name: str, t: Any) -> list[Tensor]:
        (x, rounding), (y, other) = self._position(s_name, s), self._position(t_name, t)
        rounding = max(rounding, other)
        if not self.snap:
            return self._interpolated(*(self._wide(p) for p in (x, y)))
        if isinstance(x, float) and isinstance(y, float):
            i, j = math.ceil(x - 0.5), math.ceil(y - 0.5)  # ties down
            if i == j:
                if abs(x - y) > rounding:
                    self._too_close(s_name, x, t_name, y)
                return [
                    torch.zeros(self.shape, dtype=self.dtype, device=self.device)
                    for _ in range(1 + self.levy)
                ]
            return [v[0] for v in self._ladder([min(i, j), max(i, j)], backwards=i > j)]
        if not any(isinstance(p, Tensor) and not p.is_cpu for p in (x, y)):
            a, b = (torch.as_tensor(p, dtype=torch.float64).expand(self.shape[0]) for p in (x, y))
            same = (_nearest(a) == _nearest(b)) & ((a - b).abs() > rounding)
            if same.any():
                self._too_close(s_name, float(a[same][0]), t_name, float(b[same][0]))
        i, j = (_nearest(self._wide(p)) for p in (x, y))
        at = torch.stack([torch.minimum(i, j), torch.maximum(i, j)], 1)
        return [v[0] for v in self._own(at, (i - j).abs(), torch.where(i > j, -1.0, 1.0))]

    def _wide(self, x: float | Tensor) -> Tensor:
        if isinstance(x, Tensor):
            return x.to(self.device)
        return torch.full((self.shape[0],), x, dtype=torch.float64, device=self.device)

    def _too_close(self, s_name: str, x: float, t_name: str, y: float) -> None:
        needed = math.ceil(self.depth - math.log2(abs(x - y)))
        s, t = (self.t0 + p / self._cells * self._length for p in (x, y))
        advice = f"depth={needed} tells them apart" if needed <= 30 else "snap=False interpolates"
        raise ValueError(
            f"BrownianPath: {s_name} = {s:.17g} and {t_name} = {t:.17g} differ but fall on the same point "
            f"of a grid of 2^{self.depth} cells; raise depth ({advice})"
        )

    def _row(self, times: list[Time]) -> list[Tensor] | None:
        """All increments by one ladder, where the snapped times go one way; None where they do not."""
        at: list[int] = []
        for k, t in enumerate(times):
            x, _ = self._position(f"times[{k}]", t)
            if isinstance(x, Tensor):
                return None
            at.append(math.ceil(x - 0.5))
        steps = {(b > a) - (b < a) for a, b in zip(at[:-1], at[1:], strict=True)}
        if steps == {1}:
            return self._ladder(at)
        if steps == {-1}:
            return [v.flip(0) for v in self._ladder(at[::-1], backwards=True)]
        return None

    def _ladder(self, at: list[int], backwards: bool = False) -> list[Tensor]:
        root, K = math.sqrt(self._length), len(at) - 1
        # made where they are used: a copy from the host would wait, and no graph could record it
        scale = torch.full((K,), -root if backwards else root, dtype=torch.float32, device=self.device)
        if self.levy:
            over = [root * self._cells / (b - a) for a, b in zip(at[:-1], at[1:], strict=True)]
            numbers = [torch.full((), x, dtype=torch.float32, device=self.device) for x in over]
            scale = torch.stack([scale, torch.stack(numbers)])
        return self._draw(torch.tensor(at, dtype=torch.int64, device="cpu"), scale)

    def _own(self, at: Tensor, cells: Tensor, sign: Tensor | float = 1.0) -> list[Tensor]:
        """Intervals that may lie on a device. W by sqrt(T), H is H-bar by sqrt(T) over the length."""
        root = torch.full_like(cells, math.sqrt(self._length), dtype=torch.float64)
        scale = torch.stack([root * sign, root * self._cells / cells]) if self.levy else root * sign
        return self._draw(at, scale.float())

    def _draw(self, at: Tensor, scale: Tensor) -> list[Tensor]:
        out = ops.brownian(
            self.shape,
            self.rng,
            at,
            self.depth,
            self.levy,
            None,
            scale,
            dtype=self.dtype,
            backend=self.backend,
        )
        return list(out)

    # ---- snap=False: inside cells

    def _interpolated(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Increments between any positions (B,): the rest of x's cell, whole cells, the part of y's cell."""
        lo, hi = torch.minimum(x, y), torch.maximum(x, y)
        first, last = lo.ceil(), hi.floor()  # the boundaries next to them, inside
        cell = lo.floor().clamp(0, self._cells - 1)
        leaf, before = self._leaf(cell), self._part(cell, lo - cell)
        nothing = _Piece(
            torch.zeros_like(lo),
            torch.zeros_like(leaf.W),
            None if leaf.H is None else torch.zeros_like(leaf.H),
        )
        head = _pick(lo < first, _rest(leaf, before), nothing)
        middle = self._whole(first, torch.maximum(first, last))
        tail_cell = last.clamp(0, self._cells - 1)
        tail = _pick(last < hi, self._part(tail_cell, hi - tail_cell), nothing)
        inside = _rest(self._part(cell, hi - cell), before)  # both in one cell
        piece = _pick(first > last, inside, _joined(_joined(head, middle), tail))
        root = torch.where(x > y, -1.0, 1.0).double() * math.sqrt(self._length)
        out = [_times(piece.W, root)]
        if piece.H is not None:
            out.append(_times(piece.H, root.abs() * self._cells / (hi - lo)))
        empty, outside = x == y, (lo < 0).view(-1, *[1] * (piece.W.dim() - 1))
        empty = empty.view(outside.shape)
        return [torch.where(outside, torch.nan, torch.where(empty, 0.0, v)).to(self.dtype) for v in out]

    def _whole(self, first: Tensor, last: Tensor) -> _Piece:
        at = torch.stack([first, last], 1).long()
        out = ops.brownian(self.shape, self.rng, at, self.depth, self.levy, backend=self.backend)
        return _Piece((last - first) / self._cells, out[0][0], out[1][0] if self.levy else None)

    def _leaf(self, cell: Tensor) -> _Piece:
        return self._whole(cell, cell + 1)

    def _part(self, cell: Tensor, f: Tensor) -> _Piece:
        """The first f of a cell: the bridge's mean and its own normals, keyed by the cell's node."""
        f = f.clamp(0, 1)
        g, L, leaf = 1 - f, 1 / self._cells, self._leaf(cell)
        key = torch.stack([*self.rng.unbind(1)[:2], cell.long() + self._cells], 1)

        def normal(stream: int) -> Tensor:
            return ops.normal(self.shape, key, 0, stream, backend=self.backend)

        z = normal(streams.BROWNIAN_LEAF_W)
        if leaf.H is None:
            return _Piece(f * L, _times(leaf.W, f) + _times(z, (f * g * L).sqrt()), None)
        e = (f**3 + g**3).sqrt()
        A, C = L**1.5 * f**3 * (f * g).sqrt() / (2 * e), L**1.5 * (3 * f**3 * g**3).sqrt() / (6 * e)
        W = _times(leaf.W, f) + _times(leaf.H, 6 * f * g / L) + _times(z, (L * f * g).sqrt() * e)
        H = _times(leaf.H, f**3) - _times(z, A) + _times(normal(streams.BROWNIAN_LEAF_H), C)
        return _Piece(f * L, W, H)


def _number(name: str, t: Any) -> float:
    try:
        if isinstance(t, (bool, str)):
            raise TypeError
        x = float(t)
    except (TypeError, ValueError):
        raise TypeError(f"BrownianPath: {name} is {t!r}; a real number is allowed") from None
    if not math.isfinite(x):
        raise ValueError(f"BrownianPath: {name} is {x:g}; finite times are allowed")
    return x


def _nearest(x: Tensor) -> Tensor:
    """Ties down."""
    return torch.ceil(x - 0.5).long()


def _times(v: Tensor, c: Tensor) -> Tensor:
    """v (B, *) by a number for each sample, rounded to float32 once."""
    return v * c.float().view(-1, *[1] * (v.dim() - 1))


def _pick(condition: Tensor, p: _Piece, r: _Piece) -> _Piece:
    c = condition.view(-1, *[1] * (p.W.dim() - 1))
    H = None if p.H is None or r.H is None else torch.where(c, p.H, r.H)
    return _Piece(torch.where(condition, p.length, r.length), torch.where(c, p.W, r.W), H)


def _joined(p: _Piece, r: _Piece) -> _Piece:
    """Two pieces in the order of time (Chen's relation)."""
    H = None
    if p.H is not None and r.H is not None:
        H = p.H + r.H + 0.5 * (_times(p.W, r.length) - _times(r.W, p.length))
    return _Piece(p.length + r.length, p.W + r.W, H)


def _rest(whole: _Piece, first: _Piece) -> _Piece:
    """What follows `first` in `whole`."""
    W, length, H = whole.W - first.W, whole.length - first.length, None
    if whole.H is not None and first.H is not None:
        H = whole.H - first.H - 0.5 * (_times(first.W, length) - _times(W, first.length))
    return _Piece(length, W, H)
