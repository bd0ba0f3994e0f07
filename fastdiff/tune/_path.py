"""The cheapest way over a row of nodes in a given number of jumps, by dynamic programming."""

from __future__ import annotations

import numpy as np


def cheapest(cost: np.ndarray, jumps: int, discount: float = 1.0) -> list[int]:
    """Indices 0 = i_0 < i_1 < ... < i_jumps = M - 1 with the least  sum_k discount^k cost[i_k, i_{k+1}].

    cost (M, M): of a jump from row to column, used above the diagonal. The first of equal ways wins.
    """
    m = len(cost)
    if cost.shape != (m, m) or not 1 <= jumps < m:
        raise ValueError(
            f"cheapest: {jumps} jumps over a cost of shape {cost.shape}; 1 .. {m - 1} are allowed"
        )
    allowed = np.where(np.triu(np.ones((m, m), dtype=bool), 1), cost, np.inf)
    value, choice = allowed[:, -1], []  # of the last jump, which must reach the end
    for _ in range(jumps - 1):
        total = allowed + discount * value
        choice.append(total.argmin(1))
        value = total.min(1)
    way = [0]
    for best in reversed(choice):
        way.append(int(best[way[-1]]))
    return [*way, m - 1]
