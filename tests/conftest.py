"""What every test has: the installed package, its own random state, and a skip where no GPU is."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# `python -m pytest` puts the repository root first on sys.path. Unless the package was installed in place,
# the folder fastdiff/ there has no compiled module, and would hide the installed one.
_root = Path(__file__).resolve().parent.parent
if not list((_root / "fastdiff").glob("_C.*")):
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != _root]

import torch  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def own_random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
