"""The measured order of convergence."""
from __future__ import annotations

import math
from collections.abc import Sequence


def order_of(errors: Sequence[float], steps: Sequence[int], *, floor: float = 1e-12) -> float:
    """log(e_a / e_b) / log(n_b / n_a) on the finest pair of neighbours whose errors both stand above `floor`.

    `floor` is where rounding begins; errors below it would spoil the slope.
    """
    if len(errors) != len(steps) or len(steps) < 2:
        raise ValueError(f"order_of: need 2 errors or more and as many steps, "
                         f"got {len(errors)} and {len(steps)}")
    pairs = sorted((int(n), float(e)) for n, e in zip(steps, errors, strict=True))
    if any(not math.isfinite(e) for _, e in pairs):
        raise ValueError(f"order_of: errors must be finite, got {[e for _, e in pairs]}")
    for i in range(len(pairs) - 1, 0, -1):
        (n_a, e_a), (n_b, e_b) = pairs[i - 1], pairs[i]
        if n_a == n_b:
            raise ValueError(f"order_of: {n_a} steps stand twice")
        if min(e_a, e_b) > floor:
            return math.log(e_a / e_b) / math.log(n_b / n_a)
    came = [e for _, e in pairs]
    raise ValueError(f"order_of: no two neighbouring errors above {floor:g} in {came}; use fewer steps")
