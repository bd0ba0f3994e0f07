"""What a network predicts, and how one prediction is had from another.

Every prediction is a combination  a x0 + b eps  of the data and the noise in  x = alpha x0 + sigma eps.  So
the wanted one is  p x + q raw  with (p, q) from a 2 x 2 system, for every pair of kinds; the compiler folds
it into the solver's step.

    noise     eps
    data      x0
    velocity  alpha eps - sigma x0                     Salimans & Ho 2022, arXiv:2202.00512
    flow      alpha' x0 + sigma' eps                   dx/dt along the path, increasing t
    score     -eps / sigma
    edm       F in x0 = c_skip x/alpha + c_out F       Karras et al. 2022, arXiv:2206.00364, table 1
    slope     d(x/c) / d(sigma/c), c of Node.scale     what Euler integrates: eps, or eps - x0 if straight
"""

from __future__ import annotations

from collections.abc import Callable

from .errors import unknown
from .math import Number, has_zero, plain, sqrt
from .process import Node

SIGMA_DATA = 0.5  # of a process that does not name its own


def _edm(n: Node) -> tuple[Number, Number]:
    sd = getattr(n.process, "sigma_data", SIGMA_DATA)
    r = _edm_scale(n)
    return n.sigma / (sd * r), -sd * n.alpha / r


def _edm_scale(n: Node) -> Number:
    """alpha / c_in, in a form that holds at alpha = 0 too."""
    sd = getattr(n.process, "sigma_data", SIGMA_DATA)
    return sqrt(n.sigma * n.sigma + n.alpha * n.alpha * (sd * sd))


_rows: dict[str, Callable[[Node], tuple[Number, Number]]] = {
    "noise": lambda n: (0, 1),
    "data": lambda n: (1, 0),
    "velocity": lambda n: (-n.sigma, n.alpha),
    "flow": lambda n: (n.dalpha, n.dsigma),
    "score": lambda n: (0, -1 / n.sigma),
    "edm": _edm,
    "slope": lambda n: (-1, 1) if n.process.straight == "sum" else (0, 1),
}
PREDICTIONS = ("noise", "data", "velocity", "flow", "score")  # a user's; "edm" comes by precondition="edm"


def check_prediction(kind: str) -> str:
    if not isinstance(kind, str) or kind not in _rows or kind == "slope":
        raise unknown("prediction", kind, PREDICTIONS)
    return kind


def row(kind: str, node: Node) -> tuple[Number, Number]:
    """(a, b) of the prediction a x0 + b eps at `node`: what a network is trained to give."""
    return _rows[kind](node)


def convert(raw: str, wanted: str, node: Node, *, check: bool = True) -> tuple[Number, Number]:
    """(p, q) such that wanted = p x + q raw at `node`. Without check nobody looks whether they exist, for
    which a tensor's numbers would have to be waited for."""
    if node.process.kind == "linear":
        return node.convert(raw, wanted)  # type: ignore[attr-defined]
    if raw == wanted:
        return 0, 1
    (a, b), (c, d) = _rows[raw](node), _rows[wanted](node)
    det = node.alpha * b - node.sigma * a
    if check and has_zero(det):
        raise ValueError(
            f"a {raw} prediction cannot be turned into {wanted} at t={plain(node.t):g} "
            f"(alpha={plain(node.alpha):g}, sigma={plain(node.sigma):g}); "
            f"start or end elsewhere, or use another prediction"
        )
    return (c * b - d * a) / det, (node.alpha * d - node.sigma * c) / det


def input_scale(raw: str, node: Node) -> Number:
    """What x is multiplied by before the network sees it: c_in / alpha for EDM's raw network, else 1."""
    return 1 / _edm_scale(node) if raw == "edm" else 1
