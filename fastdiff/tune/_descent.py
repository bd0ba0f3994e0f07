"""Adam over a few numbers, the best of which on samples held out are kept; and what a search remembers in a
file, so that it goes on where it was stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

EVERY = 10  # iterations from one look at the held-out samples to the next


class Notes:
    """A search's state in a file (path None: nowhere); `of` says in words what is searched."""

    def __init__(self, path: str | os.PathLike[str] | None, of: str):
        self.path, self.of = None if path is None else Path(path), of

    def read(self) -> dict[str, Any]:
        if self.path is None or not self.path.exists():
            return {}
        held = torch.load(self.path, weights_only=True)
        if not isinstance(held, dict) or held.get("of") != self.of:
            came = held.get("of") if isinstance(held, dict) else type(held).__name__
            raise ValueError(f"resume: {self.path} is of another search: {came}; this is {self.of}")
        return held

    def write(self, **state: Any) -> None:
        if self.path is not None:
            part = self.path.with_name(self.path.name + ".part")  # an interruption leaves the old file whole
            torch.save({"of": self.of, **state}, part)
            part.replace(self.path)


def bar(numbers: Sequence[int] | range, progress: bool, name: str) -> Iterator[int]:
    if not progress:
        return iter(numbers)
    try:
        from tqdm.auto import tqdm
    except ImportError as e:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from e
    return iter(tqdm(numbers, desc=name))


def descend(
    values: Sequence[Tensor],
    loss: Callable[[int], Tensor],
    score: Callable[[], float],
    *,
    iterations: int,
    rate: float,
    progress: bool,
    notes: Notes,
) -> float:
    """Leave in `values` the numbers with the least score that were seen, the ones that came among them.

    loss(k)  of iteration k: all that is random in it follows from k
    """
    leaves = [v.requires_grad_() for v in values]
    adam = torch.optim.Adam(leaves, lr=rate)
    held = notes.read()
    first, least, best = 0, float("inf"), [v.detach().clone() for v in leaves]
    if held:
        first, least, best = held["iteration"], held["least"], held["best"]
        adam.load_state_dict(held["adam"])
        with torch.no_grad():
            for v, known in zip(leaves, held["values"], strict=True):
                v.copy_(known)

    def look(done: int) -> None:
        nonlocal least, best
        with torch.no_grad():
            found = score()
        now = [v.detach().clone() for v in leaves]
        if found < least:
            least, best = found, now
        notes.write(iteration=done, least=least, best=best, values=now, adam=adam.state_dict())

    if not held:
        look(0)
    for k in bar(range(first, iterations), progress, notes.of.partition(" ")[0]):
        adam.zero_grad()
        with torch.enable_grad():
            found = loss(k)
        if bool(torch.isfinite(found)):  # else the numbers stay; the next batch may be milder
            grads = torch.autograd.grad(found, leaves, allow_unused=True)
            for v, g in zip(leaves, grads, strict=True):
                v.grad = None if g is None else g.nan_to_num(0.0, 0.0, 0.0)
            adam.step()
        if (k + 1) % EVERY == 0 or k + 1 == iterations:
            look(k + 1)
    with torch.no_grad():
        for v, known in zip(leaves, best, strict=True):
            v.requires_grad_(False).copy_(known)
    return least


def chosen(k: int, count: int, batch: int) -> Tensor:
    """The samples of iteration k."""
    if batch >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(k))[:batch]


def picked(cond: Mapping[str, Any] | None, index: Tensor, batch: int) -> dict[str, Any]:
    """The network's arguments of some samples."""

    def of(v: Any) -> Any:
        if isinstance(v, Mapping):
            return {n: of(w) for n, w in v.items()}
        own = isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == batch
        return v[index.to(v.device)] if own else v

    return {n: of(v) for n, v in (cond or {}).items()}
