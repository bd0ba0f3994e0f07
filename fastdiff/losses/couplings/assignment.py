"""Assignment: the pairing of the batch whose squared distances have the least sum, exact.

    pi = argmin over permutations of  sum_i |x0_i - x1_pi(i)|^2

Shortest augmenting paths from all free rows at once. With potentials u, v the reduced cost c - u - v is never
negative, and zero on matched pairs. A phase finds the distances d of all rows and columns from the free rows
(Bellman and Ford, a min over a matrix for each hop), adds them to the potentials, and augments along one path
for each tree of the forest that reaches a free column: the trees share nothing. What ends in a perfect
matching with such potentials is optimal. The first potentials are those of an entropic plan. All of it is on
the matrix's device in float64; the host waits for one number a hop.

Sources: Pooladian et al. 2023, arXiv:2304.14772; Tong et al. 2023, arXiv:2302.00482 (minibatches); Kuhn 1955,
Edmonds & Karp 1972 (the method).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._coupling import Coupling, square, squared_distances

NONE = -1
COOLING, SWEEPS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001), 10  # parts of the mean cost; sweeps at each


@dataclass(frozen=True)
class Assignment(Coupling):
    """The pairing of the batch whose squared distances have the least sum."""

    key = "assignment"

    def pair(self, x0: Tensor, x1: Tensor, rng: Tensor) -> Tensor:
        return x1[assign(squared_distances(x0, x1))]


@torch.no_grad()
def assign(cost: Tensor) -> Tensor:
    """The column of each row in the assignment of least cost: int64 (n,) for a matrix (n, n) of finite
    numbers.

    Exact to the rounding of float64 in sums of n costs. Raises TypeError and ValueError that name the
    argument.
    """
    c = square("assign", cost)
    n, device = c.shape[0], c.device
    if not bool(c.isfinite().all()):
        raise ValueError("assign: cost must be finite")
    v = _guess(c)
    u = (c - v).amin(1)
    numbers = torch.arange(n, device=device)
    column_of = torch.full((n,), NONE, device=device)  # of each row
    row_of = column_of.clone()  # of each column
    while True:
        free = column_of == NONE
        if not bool(free.any()):
            return column_of
        reduced = (c - u[:, None] - v).clamp_(min=0)
        rows, columns, parent = _distances(reduced, free, row_of)
        u, v = u - rows, v + columns
        root = _roots(parent, row_of, numbers)
        ends = _nearest(columns, root, row_of == NONE, numbers)
        _augment(ends, parent, column_of, row_of)


def _guess(c: Tensor) -> Tensor:
    """Potentials of the columns from a cooled entropic plan: any will do, these leave few rows free."""
    c = c - c.amin()
    mean = c.mean()
    mean = torch.where(mean > 0, mean, 1.0)
    v = torch.zeros_like(c[0])
    for part in COOLING:
        eps = part * mean
        k, g = -c / eps, v / eps
        for _ in range(SWEEPS):
            f = -(k + g).logsumexp(1)
            g = -(k + f[:, None]).logsumexp(0)
        v = g * eps
    return v


def _distances(reduced: Tensor, free: Tensor, row_of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shortest distances of rows and of columns from the free rows, and the row before each column."""
    columns = torch.full_like(reduced[0], torch.inf)
    rows = torch.where(free, 0.0, columns)
    parent = torch.zeros_like(row_of)
    moved = free.nonzero()[:, 0]  # the rows that have come nearer: the others have been looked at
    while len(moved):
        best, by = (rows[moved, None] + reduced[moved]).min(0)
        nearer = (best < columns).nonzero()[:, 0]
        columns[nearer], parent[nearer] = best[nearer], moved[by[nearer]]
        nearer = nearer[row_of[nearer] != NONE]
        moved = row_of[nearer]  # a row is reached through its own column, for nothing
        rows[moved] = columns[nearer]
    return rows, columns, parent


def _roots(parent: Tensor, row_of: Tensor, numbers: Tensor) -> Tensor:
    """The free row at which each column's path begins: pointers jump, twice as far each time."""
    column_of = torch.full_like(numbers, NONE)
    matched = row_of != NONE
    column_of[row_of[matched]] = numbers[matched]
    before = column_of[parent]  # the column before, or none
    at = torch.where(before == NONE, numbers, before)
    for _ in range(int(len(numbers)).bit_length()):
        at = at[at]
    return parent[at]


def _nearest(distance: Tensor, root: Tensor, open_: Tensor, numbers: Tensor) -> Tensor:
    """The free column nearest to each root, of those roots that have one."""
    n = len(numbers)
    ends, root, distance = numbers[open_], root[open_], distance[open_]
    least = torch.full((n,), torch.inf, dtype=distance.dtype, device=distance.device)
    least = least.scatter_reduce(0, root, distance, "amin")
    ends, root = (x[distance == least[root]] for x in (ends, root))
    first = torch.full_like(numbers, n).scatter_reduce(0, root, ends, "amin")  # of those equally near
    return first[first < n]


def _augment(ends: Tensor, parent: Tensor, column_of: Tensor, row_of: Tensor) -> None:
    """Match along the paths that end there, in place."""
    while len(ends):
        rows = parent[ends]
        before = column_of[rows]
        column_of[rows], row_of[ends] = ends, rows
        ends = before[before != NONE]
