"""Writes docs/losses.md, a row for each loss, likelihood and reward objective, and the tables of weightings
and laws of time in docs/training.md. All of it is read from docstrings and signatures.

python tools/loss_sheet.py            write them
python tools/loss_sheet.py --check    are they up to date?
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch.nn import Module

from fastdiff import distill, likelihood, losses, rl
from fastdiff.core.registry import Registry

DOCS = Path(__file__).parents[1] / "docs"
FAMILIES: dict[str, tuple[ModuleType, str]] = {
    "fd.losses": (losses, "Training losses, of a network and data."),
    "fd.distill": (distill, "For samplers of one or a few calls."),
    "fd.rl": (rl, "By rewards and preferences."),
    "fd.likelihood": (
        likelihood,
        "What a trained network gives to data. Functions and a hook, nothing to train.",
    ),
}
HEAD = """# Losses

Written by `python tools/loss_sheet.py` from docstrings and signatures; CI checks that it is fresh. How to use
them: [training](training.md), [flow matching](flow_matching.md), [few steps and rewards](few_steps.md),
[likelihoods](likelihood.md).

How a row is read: data, noise and states are (B, *), times t and all that is made of them (alpha, sigma, lam,
w) are (B,), what is in `cond` has the shape that the network wants. A loss is a scalar, the mean over the
batch, and `per_sample` the (B,) before it; the formula is that of the docstring, where `help(...)` shows the
rest. "called with" is what the built object takes, "options" what builds it; those after `+` are handed on to
`Denoising`. Sources are arXiv numbers.
"""
ALWAYS = ("x", "x0", "x1", "mu", "winner", "loser")  # like the data
TABLES: dict[str, tuple[Registry, str]] = {
    "weightings": (losses.weightings.registry, "| key | w_x | sources |"),
    "times": (losses.times.registry, "| key | law | sources |"),
}


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"


def papers(doc: str) -> str:
    return ", ".join(dict.fromkeys(re.findall(r"arXiv:(\d{4}\.\d{5})", doc))) or "-"


def headline(doc: str) -> str:
    """What stands behind the name at the top of a module."""
    return doc.split("\n\n")[0].replace("\n", " ").partition(": ")[2].rstrip(".")


def formula(doc: str) -> str:
    """The first display of a docstring, on one line."""
    display = next((p for p in doc.split("\n\n") if p.startswith("    ")), "")
    rows = [row.strip() for row in display.splitlines()]
    text = " ".join(f";  {row}" if k and re.match(r"[^\s=(]+ = ", row) else row for k, row in enumerate(rows))
    return re.sub(r",?(\s*;\s+|\s{3,})", "; ", text).rstrip(".").replace("`", "")


def named(f: Any, doc: str = "") -> str:
    """The names of what a function takes, with the shapes that `doc` gives them or that they always have."""
    names, rest = [], ""
    for p in inspect.signature(f).parameters.values():
        if p.kind == p.VAR_KEYWORD:
            rest = " + those of `Denoising`"
        elif p.name != "self":
            said = re.search(rf"\b{p.name} (\([BNKmn],?[^()]*\))", doc)
            shape = said[1] if said else "(B, *)" if doc and p.name in ALWAYS else ""
            names.append(f"{p.name} {shape}".strip())
    return (", ".join(names) or "-") + rest


def row(thing: Any, family: ModuleType) -> str:
    doc = inspect.getdoc(inspect.getmodule(thing)) or ""
    name = f"`{thing.__name__}`" + (f" `{thing.key}`" if family is losses else "")
    if inspect.isclass(thing):
        takes: Any = next((vars(c)["__call__"] for c in thing.__mro__ if "__call__" in vars(c)), None)
        if takes and "options" in inspect.signature(takes).parameters:  # handed on
            takes = thing.per_sample  # type: ignore[attr-defined]
        about = inspect.getdoc(thing) or ""
        given = [named(takes, about + doc) if takes else "a hook", named(thing)]
    else:
        given = [named(thing, (inspect.getdoc(thing) or "") + doc), "-"]
    return line([name, headline(doc), f"`{formula(doc)}`", *given, papers(doc)])


def members(family: ModuleType) -> list[Any]:
    """What has a row: each loss of the registry; elsewhere what its file is named after and has a formula,
    but for networks."""
    if family is losses:
        return [losses.registry.get(key) for key in losses.names()]
    found = []
    for name in family.__all__:
        thing = getattr(family, name)
        module = inspect.getmodule(thing)
        stem = module.__name__.rpartition(".")[2].replace("_", "")
        network = inspect.isclass(thing) and issubclass(thing, Module)
        if name.replace("_", "").lower() == stem and formula(inspect.getdoc(module) or "") and not network:
            found.append(thing)
    return found


def sheet() -> str:
    parts = [HEAD]
    for title, (family, what) in FAMILIES.items():
        head = "| name | what | formula | called with | options | sources |"
        rows = [row(thing, family) for thing in members(family)]
        parts.append("\n".join([f"## {title}", "", what, "", head, "|" + " --- |" * 6, *rows, ""]))
    return "\n".join(parts)


def table(name: str) -> str:
    registry, head = TABLES[name]
    rows = []
    for key in registry.names():
        doc = inspect.getdoc(inspect.getmodule(registry.get(key))) or ""
        rows.append(line([f"`{key}`", headline(doc), papers(doc)]))
    return "\n".join([head, "|" + " --- |" * (head.count("|") - 1), *rows])


def training(text: str) -> str:
    for name in TABLES:
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, name=name: f"{m[1]}{table(name)}\n{m[2]}", text, flags=re.S)
    return text


def main() -> None:
    pages = {DOCS / "losses.md": lambda old: sheet(), DOCS / "training.md": training}
    for page, write in pages.items():
        old = page.read_text() if page.exists() else ""
        new = write(old)
        if "--check" not in sys.argv[1:]:
            page.write_text(new)
        elif new != old:
            raise SystemExit(f"{page.name} is out of date: python tools/loss_sheet.py")


if __name__ == "__main__":
    main()
