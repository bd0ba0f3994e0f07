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
    classes = {key: package.registry.get(key) for key in package.names()}
    ours = {key: cls for key, cls in classes.items() if cls.__module__.startswith(package.__name__)}
    assert {key.replace("-", "_") for key in ours} == stems, "every file is a key, and every key a file"
    for key, cls in ours.items():
        assert cls.__module__.rpartition(".")[2] == key.replace("-", "_"), f"{key} is in {cls.__module__}"
        assert cls.__name__.lower() == key.replace("-", ""), f"key {key!r}, class {cls.__name__}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_says_what_it_is_and_where_it_is_from(folder: str) -> None:
    package = FOLDERS[folder]
    for key in package.names():
        module = inspect.getmodule(package.registry.get(key))
        doc = (module.__doc__ or "") if module else ""
        assert doc.strip(), f"{key}: no module docstring"
        assert len(doc.split("\n", 1)[0]) <= 120, f"{key}: tables show the first line; 120 characters"
        if folder == "solvers":
            assert "Source:" in doc, f"{key}: no 'Source:' line"


def test_public_names_exist() -> None:
    missing = [n for n in fd.__all__ if not hasattr(fd, n)]
    assert not missing
