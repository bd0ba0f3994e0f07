"""linear_step under torch.compile, torch.export, opcheck, fake tensors, checkpointing and subclasses."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from fastdiff.noise import normal, resolve
from fastdiff.ops import linear_step, linear_step_

LAYOUTS = ("table", "sample", "group")
OP = torch.ops.fastdiff.linear_step.default


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def step(case, **changes):
    """(A, *T) -> outputs, as a function of tensors alone."""
    return lambda A, *T: linear_step(list(T), A, **case.options | changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout, make_case):
    case = make_case(layout, wild=False)
    o = case.options
    args = (case.T, case.A, o.get("index"), o["rng"], o["draws"], o["streams"])
    torch.library.opcheck(
        OP, ([t.clone().requires_grad_() for t in case.T], *args[1:]), {"dtype": torch.bfloat16}
    )
    torch.library.opcheck(OP, (case.T, case.A.clone().requires_grad_(), *args[2:]))
    out = [torch.empty_like(case.T[0]) for _ in range(2)]
    torch.library.opcheck(torch.ops.fastdiff.linear_step_.default, args, {"out": out})


def test_twenty_seeds_and_draws_are_two_graphs():
    """The first call specialises on its numbers, the second makes them symbols, and there it ends."""

    def f(x, y, seed, draw):
        rng = resolve(seed, x.shape[0], x.device)
        a, b = linear_step([x, y], A, rng=rng, draws=[draw], streams=[0])
        return a + 1, b + normal(x.shape, seed, draw=draw)

    A, x, y = torch.randn(2, 3), torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(f, fullgraph=True, backend=counter)
    for k in range(20):
        seed = k * 0x7123456789ABCD % 2**63
        for a, b in zip(compiled(x, y, seed, k), f(x, y, seed, k), strict=True):
            assert torch.equal(a, b)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compile_with_backward(layout, make_case, same_bits):
    case = make_case(layout, (torch.float32, torch.bfloat16), wild=False)
    results = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")):
        tensors = [t.clone().requires_grad_() for t in (case.A, *case.T)]
        y = wrap(step(case))(*tensors)
        results.append([*y, *torch.autograd.grad([v.float().sum() for v in y], tensors)])
    for a, b in zip(*results, strict=True):
        same_bits(a, b)


def test_inductor_and_a_loop_of_steps(make_case, same_bits):
    """Ten steps, one graph, no break; inductor gets no arithmetic of ours, so the bits are those of eager."""
    case = make_case(wild=False, n_out=1, noise=1)

    def f(x, y, c, A):
        for k in range(10):
            (x,) = linear_step([x, y, c], A, rng=case.options["rng"], draws=[k], streams=[0])
        return x

    with torch.no_grad():
        same_bits(torch.compile(f, fullgraph=True)(*case.T, case.A), f(*case.T, case.A))


def test_compile_in_place(same_bits):
    A = torch.randn(2, 2)

    def f(x, y, out):
        linear_step_([x, y], A, out)
        return out[0] * 2

    x, y = torch.randn(2, 3), torch.randn(2, 3)
    expected = linear_step([x, y], A)
    for out in (
        [torch.empty(2, 3), torch.empty(2, 3)],
        [x, torch.empty(2, 3)],
    ):  # the second overwrites an input
        same_bits(torch.compile(f, fullgraph=True, backend="aot_eager")(x, y, out), expected[0] * 2)
        for a, b in zip(out, expected, strict=True):
            same_bits(a, b)


def test_export_with_any_batch(same_bits):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.A = torch.nn.Parameter(torch.randn(2, 3))

        def forward(self, x, y):
            return linear_step([x, y], self.A, rng=resolve(3, x.shape[0], x.device), draws=[0], streams=[1])

    net, batch = Net(), torch.export.Dim("batch", min=2)
    program = torch.export.export(
        net, (torch.randn(4, 3), torch.randn(4, 3)), dynamic_shapes=({0: batch}, {0: batch})
    )
    program.run_decompositions()
    x, y = torch.randn(7, 3), torch.randn(7, 3)
    for a, b in zip(program.module()(x, y), net(x, y), strict=True):
        same_bits(a, b)


def test_checkpoint_and_fake_tensors(make_case, same_bits):
    case = make_case(wild=False)
    tensors = [t.clone().requires_grad_() for t in (case.A, *case.T)]
    f = step(case)
    expected = torch.autograd.grad(sum(y.sum() for y in f(*tensors)), tensors)
    y = torch.utils.checkpoint.checkpoint(f, *tensors, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(sum(v.sum() for v in y), tensors), expected, strict=True):
        same_bits(a, b)
    mode = torch._subclasses.FakeTensorMode()
    fake = [mode.from_tensor(t.detach()) for t in (case.A, *case.T)]
    with mode:
        y, _ = step(case, rng=mode.from_tensor(case.options["rng"]))(*fake)
        assert y.shape == case.T[0].shape and type(y) is torch._subclasses.FakeTensor


def test_subclasses_pass_through_the_dispatcher():
    class Logged(torch.Tensor):
        seen: list[str] = []

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.seen.append(str(func))
            return super().__torch_function__(func, types, args, kwargs or {})

    (y,) = linear_step([torch.ones(1, 2).as_subclass(Logged)], torch.ones(1, 1))
    assert type(y) is Logged and "fastdiff.linear_step.default" in Logged.seen
