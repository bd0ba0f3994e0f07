"""How errors are worded: the call, what came, what is allowed, and the nearest names."""
from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a key or option that does not exist, with its near misses (or all names when few)."""
    known = sorted(known)
    near = get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known) or 'none'}"
    return ValueError(f"unknown {what} {name!r}; {hint}")


def check_options(what: str, options: Iterable[str], allowed: Iterable[str]) -> None:
    allowed = sorted(allowed)
    for name in options:
        if name not in allowed:
            raise unknown(f"option of {what}", name, allowed)


class NonFinite(FloatingPointError, ValueError):
    """A network's output held a NaN or an infinity where `check_finite=True` asked for it to be found."""
