"""Writes the tables of docs/training.md: losses, weightings and laws of time, each from its own docstring.

python tools/loss_sheet.py            write them
python tools/loss_sheet.py --check    are they up to date?
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from fastdiff import losses
from fastdiff.core.registry import Registry

PAGE = Path(__file__).parents[1] / "docs" / "training.md"
TABLES: dict[str, tuple[Registry, str]] = {
    "losses": (losses.registry, "| key | class | loss | sources |"),
    "weightings": (losses.weightings.registry, "| key | w_x | sources |"),
    "times": (losses.times.registry, "| key | law | sources |"),
}


def row(cls: type, key: str, columns: int) -> str:
    doc = inspect.getdoc(inspect.getmodule(cls)) or ""
    _, _, what = doc.split("\n\n")[0].replace("\n", " ").partition(": ")
    papers = ", ".join(dict.fromkeys(re.findall(r"arXiv:(\d{4}\.\d{5})", doc)))
    cells = [f"`{key}`", *([f"`{cls.__name__}`"] if columns == 4 else []), what.rstrip("."), papers or "-"]
    return "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"


def table(name: str) -> str:
    registry, head = TABLES[name]
    columns = head.count("|") - 1
    lines = [head, "|" + " --- |" * columns]
    return "\n".join([*lines, *(row(registry.get(key), key, columns) for key in registry.names())])


def page(text: str) -> str:
    for name in TABLES:
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, name=name: f"{m[1]}{table(name)}\n{m[2]}", text, flags=re.S)
    return text


def main() -> None:
    old = PAGE.read_text()
    new = page(old)
    if "--check" in sys.argv[1:]:
        raise SystemExit(0 if new == old else f"{PAGE.name} is out of date: python tools/loss_sheet.py")
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
