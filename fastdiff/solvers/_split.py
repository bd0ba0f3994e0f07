"""What the splitting methods of phase space share: the registers apart, x and all others v.

Going down from s to t, dt = s - t > 0, a register moves by  dz = -(F z - c N score) dt,  N = G G^T. `push` is
that rate for some registers, the others standing still.
"""

from __future__ import annotations

from typing import Any

from ..core.matrix import Matrix
from ..core.process import Node


def apart(s: Node) -> tuple[Matrix, Matrix]:
    """The identity on x, and that on all other registers."""
    count = len(s.process.registers)  # type: ignore[attr-defined]
    x = Matrix([[float(i == j == 0) for j in range(count)] for i in range(count)])
    return x, 1 - x


def middle(s: Node, t: Node) -> Node:
    return s.process.node((s.t + t.t) / 2)


def asks(some: Matrix, N: Any) -> bool:
    """Whether these registers move by the score."""
    return bool((some * N).array().any())
