"""What may be chosen for one step of a solver schedule.

Source: Liu et al. 2024, arXiv:2312.07243, section 3 and table 1.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..core.errors import check_options
from ..core.solver import check_choice, check_range, choices


@dataclass(frozen=True)
class Step:
    """prediction  what the step is linear in
    order       how many predictions it takes, as far as there are so many
    method      "multistep": from steps before; "singlestep": from order - 1 calls at inner nodes
    estimator   "interpolation": derivatives of the polynomial through them; "difference": each derivative by
                the divided difference alone, as in Taylor's series
    scaling     of the derivative in rules of two predictions: "exact": E_1; "bh1", "bh2": h B / 2 with B = h,
                E_0, as `unipc`
    corrector   0, or how many predictions the corrector takes, that at the new node among them
    tau         noise level of the reverse SDE
    """

    key = "usf"  # as errors name it

    prediction: Literal["data", "noise"] = "data"
    order: Literal[1, 2, 3, 4] = 2
    method: Literal["multistep", "singlestep"] = "multistep"
    estimator: Literal["interpolation", "difference"] = "interpolation"
    scaling: Literal["exact", "bh1", "bh2"] = "exact"
    corrector: Literal[0, 2, 3, 4, 5] = 0
    tau: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in choices(type(self)).items():  # type: ignore[arg-type]
            check_choice(self, name, allowed)
        check_range(self, "tau", 0)
        if self.method == "singlestep" and (self.tau or self.order > 3):
            raise ValueError("solver 'usf': method='singlestep' takes order 1 to 3 and tau=0, got "
                             f"order={self.order!r}, tau={self.tau!r}")

    @property
    def reaches(self) -> int:
        """The order of a run of such steps: independent noise and mere differences end at 2."""
        return min(self.order, 2) if self.tau or self.estimator == "difference" else self.order


def reach(schedule: Sequence[Step]) -> int:
    """1 more than the history that a step may want."""
    nodes = max(1 if e.method == "singlestep" else e.order for e in schedule)
    corrector = max(e.corrector for e in schedule)
    return max(nodes + 1, corrector) if corrector else nodes


def schedule_of(given: Any) -> tuple[Step, ...]:
    """A tuple of Steps from Steps and dicts of their fields."""
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(f"solver 'usf': schedule must be a list of dicts, got {type(given).__name__}")
    made, known = [], [f.name for f in fields(Step)]
    for entry in given:
        if not isinstance(entry, (Step, Mapping)):
            raise TypeError(f"solver 'usf': an entry of schedule must be a dict, got {type(entry).__name__}")
        if isinstance(entry, Mapping):
            check_options("an entry of the schedule of solver 'usf'", entry, known)
            entry = Step(**entry)
        made.append(entry)
    if not made:
        raise ValueError("solver 'usf': schedule is empty; give one entry for each step, or one for all")
    return tuple(made)
