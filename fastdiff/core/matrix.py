"""Matrix and Vector: what lets a formula for one tensor be read for several, z = (x, v, ...).

A Matrix is a small table of numbers, a Vector a row of tensors; `(1 - f * dt) * z + w * m` is the same line
for both kinds of processes (next to a Matrix, a number c stands for c I). What is not known of a tensor, as
the score of a register that no noise enters, is None: a coefficient of exactly 0 does not ask for it, any
other makes None of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .gaussian_path import root
from .math import Number


class Vector:
    """Tensors (or Forms, or whatever adds and scales), one for each register."""

    __slots__ = ("parts",)
    __array_ufunc__ = None

    def __init__(self, parts: Iterable[Any]):
        self.parts = tuple(parts)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, k: int) -> Any:
        return self.parts[k]

    def map(self, f: Callable[[Any], Any]) -> Vector:
        return Vector(None if a is None else f(a) for a in self.parts)

    def __add__(self, o: Any) -> Vector:
        if not isinstance(o, Vector):
            return NotImplemented
        return Vector(_sum((a, b)) for a, b in zip(self.parts, o.parts, strict=True))

    def __radd__(self, o: Any) -> Vector:
        return self if type(o) is int and o == 0 else NotImplemented  # so that sum() works

    def __sub__(self, o: Any) -> Vector:
        return self + -o

    def __neg__(self) -> Vector:
        return self.map(lambda a: -a)

    def __mul__(self, w: Number) -> Vector:
        return self.map(lambda a: w * a)

    __rmul__ = __mul__

    def __truediv__(self, w: Number) -> Vector:
        return self.map(lambda a: a / w)


class Matrix:
    """Rows of numbers; a row of None gives an unknown."""

    __slots__ = ("rows",)
    __array_ufunc__ = None

    def __init__(self, rows: Any):
        rows = rows.tolist() if isinstance(rows, np.ndarray) else rows
        self.rows = tuple(None if row is None else tuple(row) for row in rows)

    @staticmethod
    def unit(size: int, value: Number = 1) -> Matrix:
        return Matrix([[value if i == j else 0 for j in range(size)] for i in range(size)])

    def _like(self, o: Any) -> Matrix:
        return o if isinstance(o, Matrix) else Matrix.unit(len(self.rows), o)

    def _map(self, f: Callable[[Any], Any]) -> Matrix:
        return Matrix(None if row is None else map(f, row) for row in self.rows)

    def __add__(self, o: Any) -> Matrix:
        pairs: Any = zip(self.rows, self._like(o).rows, strict=True)
        return Matrix([x + y for x, y in zip(a, b, strict=True)] for a, b in pairs)

    __radd__ = __add__

    def __neg__(self) -> Matrix:
        return self._map(lambda v: -v)

    def __sub__(self, o: Any) -> Matrix:
        return self + -o

    def __rsub__(self, o: Any) -> Matrix:
        return -self + o

    def __mul__(self, o: Any) -> Any:
        """Times a Matrix, a Vector or a number."""
        if isinstance(o, Vector):
            return Vector(None if row is None else _dot(row, o.parts) for row in self.rows)
        if isinstance(o, Matrix):
            columns = list(zip(*o.rows, strict=True))  # type: ignore[arg-type]
            return Matrix([_dot(row, column) for column in columns] for row in self.rows)
        return self._map(lambda v: v * o)

    def __rmul__(self, o: Number) -> Matrix:
        return self._map(lambda v: v * o)

    def __truediv__(self, o: Number) -> Matrix:
        return self._map(lambda v: v / o)

    def sqrt(self) -> Matrix:
        """Its lower root: L L^T, a column of 0 where a register gets no noise."""
        return Matrix(root(self.array()))

    def array(self) -> np.ndarray:
        return np.array([[float(v) for v in row or ()] for row in self.rows])


def _dot(row: Any, parts: Iterable[Any]) -> Any:
    return _sum([None if a is None else w * a for w, a in zip(row, parts, strict=True) if w != 0])


def _sum(terms: Iterable[Any]) -> Any:
    """None if any is; the number 0 of nothing."""
    total: Any = 0
    for a in terms:
        if a is None:
            return None
        if not (type(a) is int and a == 0):
            total = a if type(total) is int and total == 0 else total + a
    return total
