"""FastScheduler writes into memory again that nobody holds, and into no other.

The oracle: a copy taken when the result came, and the addresses that the allocator gave.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastdiff.ops import empty_cache

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FastScheduler = pytest.importorskip("fastdiff.integrations.diffusers").FastScheduler

SHAPE = (2, 4, 64, 64)  # 128 KiB: above what is left to malloc
HISTORIES = [
    ("DPMSolverMultistep", {"solver_order": 3}),
    ("DPMSolverMultistep", {"thresholding": True}),
    ("UniPCMultistep", {"solver_order": 3}),
    ("LMSDiscrete", {}),
    ("DPMSolverSinglestep", {"solver_order": 3}),
    ("SASolver", {}),
    ("PNDM", {}),
    ("KDPM2Discrete", {}),
    ("HeunDiscrete", {"clip_sample": True}),
]
HOLD: dict[str, Any] = {
    "tensor": lambda y: y,
    "view": lambda y: y[1, 2],
    "numpy": lambda y: y.numpy(),
    "storage": lambda y: y.untyped_storage(),
    "detached": lambda y: y.detach(),
    "saved for backward": lambda y: torch.ones(SHAPE, requires_grad=True) * y,
    "dlpack": lambda y: torch.utils.dlpack.to_dlpack(y),
    "shared": lambda y: mapped(y),
}


def mapped(y: torch.Tensor) -> torch.Tensor:
    """The same memory as another process has it: a mapping that y's own storage does not know of."""
    handle = y.untyped_storage()._share_filename_cpu_()
    return torch.empty(0).set_(torch.UntypedStorage._new_shared_filename_cpu(*handle), 0, SHAPE)


def net(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(0.7 * x + 0.1)


def make(name: str, config: Any = None) -> Any:
    return FastScheduler.from_config({"_class_name": f"{name}Scheduler", **(config or {})}, seeds=0)


def loop(s: Any, x: torch.Tensor, steps: int = 8, keep: Any = None, **options: Any) -> Any:
    s.set_timesteps(steps)
    for t in s.timesteps:
        x = s.step(net(x), t, x, return_dict=False, **options)[0]
        if keep is not None:
            keep(x)
    return x


@pytest.mark.parametrize("name, config", HISTORIES)
def test_results_do_not_depend_on_what_is_held(name: str, config: Any) -> None:
    x, s, held = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), make(name, config), []
    loop(s, x)  # its blocks are there
    start = x.clone()
    free = loop(s, x).clone()
    kept = loop(s, x, keep=lambda y: held.append((y, y.clone())))
    assert torch.equal(free, kept) and torch.equal(x, start)
    assert all(torch.equal(y, was) for y, was in held)
    outputs = [s.step(net(y), t, y) for s, t, y in each(make(name, config), x)]
    late = [o.pred_original_sample for o in outputs]  # read only now
    early = [s.step(net(y), t, y).pred_original_sample.clone() for s, t, y in each(make(name, config), x)]
    assert all(torch.equal(a, b) for a, b in zip(late, early, strict=True))


def each(s: Any, x: torch.Tensor) -> Any:
    """One scheduler, the sample before each of its steps as a second run gives it."""
    other = s.session()
    s.set_timesteps(8), other.set_timesteps(8)
    for t, u in zip(s.timesteps, other.timesteps, strict=True):
        yield s, t, x
        x = other.step(net(x), u, x).prev_sample


@pytest.mark.parametrize("way", HOLD)
def test_what_is_held_stays(way: str) -> None:
    s, x, held = make("DPMSolverMultistep"), torch.randn(SHAPE), []

    def keep(y: torch.Tensor) -> None:
        held.append((HOLD[way](y), y.clone()))

    loop(s, x, keep=keep)
    loop(s, x)
    for thing, was in held:
        if way == "saved for backward":
            (grad,) = torch.autograd.grad(thing.sum(), thing.grad_fn.next_functions[0][0].variable)
            assert torch.equal(grad, was)
        elif way == "dlpack":
            assert torch.equal(torch.utils.dlpack.from_dlpack(thing), was)
        elif way == "storage":
            assert torch.equal(torch.empty(0).set_(thing, 0, SHAPE), was)
        elif way == "view":
            assert torch.equal(thing, was[1, 2])
        else:
            assert torch.equal(torch.as_tensor(thing), was)


def test_what_is_let_go_is_used_again() -> None:
    """20 steps of a two-step method in three blocks: two of the caller's and the history."""
    empty_cache()
    s, x, seen = make("DPMSolverMultistep"), torch.randn(SHAPE), set()
    for _ in range(3):
        loop(s, x, 20, keep=lambda y: seen.add(y.data_ptr()))
    assert len(seen) <= 3


def test_second_result_comes_with_the_first() -> None:
    """As a tuple it is made in the same pass; by name in one of its own: the same bits."""
    for name, options in (
        ("EulerDiscrete", {}),
        ("LMSDiscrete", {}),
        ("DDIM", {"eta": 0.5}),
        ("LCM", {}),
        ("TCD", {}),
    ):
        x, a = torch.randn(SHAPE), make(name)
        b = a.session()
        a.set_timesteps(4), b.set_timesteps(4)
        for t, u in zip(a.timesteps, b.timesteps, strict=True):
            pair = a.step(net(x), t, x, return_dict=False, **options)
            named = b.step(net(x), u, x, **options)
            assert all(torch.equal(v, w) for v, w in zip(pair, named.to_tuple(), strict=True))
            x = pair[0]
