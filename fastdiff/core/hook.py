"""Hook: what stands between the network and the solver without being either.

A hook acts at one or more of six points. What is affine is best said by `weights`: it costs no stage at all.

    1 inputs      `branches` further network calls in one batch, combined by `weights` (CFG)
    2 predict     xhat' = f(xhat): a change of the data prediction                   (thresholds, rescaling)
    3 noise       xi' = f(xi): a change of a draw                                    (replay, colour, mask)
    4 state       x' = f(x) after a step                                             (replacement, filters)
    5 population  x', history' = f(x, history) across samples                        (resampling)
    6 route       which steps are taken; decided when the plan is compiled           (time travel)

A hook that is not there inserts nothing: the executor has no branch per method. Subclasses override the
methods of their points, and only those; `active` thins them out over the times and is asked at compile time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .math import Number

POINTS = ("predict", "noise", "state", "population")  # those that insert call stages


class Hook:
    branches: int = 0  # network calls besides the plain one
    grad: ClassVar[str] = "none"  # "input": `ctx.vjp` is used, so the network call keeps its graph until then
    adjoint: ClassVar[str] = "autograd"  # "stop": gradients through a run take what it does as constant
    trains: bool = False  # its weights carry gradients, where they are asked for at plain numbers
    history: ClassVar[str] = "keep"  # "reset": what a state or population hook does spoils the history

    def acts(self, point: str) -> bool:
        return getattr(type(self), point) is not getattr(Hook, point)

    def plan_key(self) -> Any:
        """What of the hook decides a plan's stages, hashable; hooks with equal keys share one compilation."""
        return self

    def active(self, node: Any, step: int) -> bool:
        """Does the hook act at this node and step? Asked at compile time; where not, it leaves no stages."""
        return True

    def weights(self, node: Any, step: int) -> Sequence[Number]:
        """Weights of the plain output and of each extra branch's; they fold into the step's coefficients."""
        return (1, *(0,) * self.branches)

    def inputs(self, ctx: Any) -> Sequence[dict[str, Any]]:
        """Keyword arguments of the network for each extra branch."""
        return ({},) * self.branches

    def predict(self, ctx: Any, xhat: Any) -> Any:
        return xhat

    def noise(self, ctx: Any, xi: Any) -> Any:
        return xi

    def state(self, ctx: Any, x: Any) -> Any:
        return x

    def population(self, ctx: Any, x: Any, history: Sequence[Any]) -> Any:
        return x, history

    def route(self, nodes: Sequence[Any]) -> Sequence[int] | None:
        """Indices of the nodes to visit, 0 1 2 1 2 3 say: back up by fresh noise. None: straight down."""
        return None
