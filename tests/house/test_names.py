"""One stem everywhere: solvers/dpmpp_2m.py <-> key "dpmpp-2m" <-> class DPMpp2M, for every keyed folder."""
from __future__ import annotations

import inspect
import pkgutil

import pytest

import fastdiff as fd

FOLDERS = {"solvers": fd.solvers, "grids": fd.grids, "processes": fd.processes}


@pytest.mark.parametrize("folder", FOLDERS)
def test_stem_is_key_is_class(folder: str) -> None:
    package = FOLDERS[folder]
    stems = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}
    keys = {k: c for k, c in ((k, package.registry.get(k)) for k in package.names()) if c.__module__.startswith("fastdiff.")}
    assert {k.replace("-", "_") for k in keys} == stems, "every file is a key, and every key a file"
    for key, cls in keys.items():
        assert cls.__module__ == f"fastdiff.{folder}.{key.replace('-', '_')}", f"{key} stands in {cls.__module__}"
        assert cls.__name__.lower() == key.replace("-", ""), f"key {key!r}, class {cls.__name__}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_says_what_it_is_and_where_it_is_from(folder: str) -> None:
    package = FOLDERS[folder]
    for key in package.names():
        module = inspect.getmodule(package.registry.get(key))
        doc = (module.__doc__ or "") if module else ""
        assert doc.strip(), f"{key}: no module docstring"
        assert len(doc.split("\n", 1)[0]) <= 120, f"{key}: the first line is what tables show; keep it to 120 characters"
        if folder == "solvers":
            assert "Source:" in doc, f"{key}: no 'Source:' line"


def test_public_names_exist() -> None:
    missing = [n for n in fd.__all__ if not hasattr(fd, n)]
    assert not missing
