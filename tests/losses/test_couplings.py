"""Couplings against scipy's assignment, against what characterises a plan, and against what they must
keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import chisquare

import fastdiff as fd
from fastdiff.losses import couplings
from fastdiff.losses.couplings._coupling import squared_distances
from fastdiff.noise import resolve

DOUBLE = torch.float64


def clouds(n: int, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    x0 = 2 + torch.randn(n, d, generator=g, dtype=DOUBLE) ** 3
    return x0, torch.randn(n, d, generator=g, dtype=DOUBLE)


@pytest.mark.parametrize("n", (1, 2, 7, 64, 150))
@pytest.mark.parametrize("kind", ("clouds", "uniform", "ties", "one column"))
def test_assignment_is_scipys(n: int, kind: str) -> None:
    """The same least cost, to rounding: a sum of n costs, each to 2^-53 of the largest."""
    g = torch.Generator().manual_seed(n)
    cost = {
        "clouds": torch.cdist(*clouds(n)) ** 2,
        "uniform": torch.rand(n, n, generator=g, dtype=DOUBLE) - 0.5,
        "ties": torch.randint(0, 4, (n, n), generator=g).double(),
        "one column": torch.arange(n, dtype=DOUBLE)[:, None] * torch.arange(n, dtype=DOUBLE) ** 2,
    }[kind]
    column = couplings.assign(cost)
    assert column.sort().values.tolist() == list(range(n))
    ours = cost[torch.arange(n), column].sum().item()
    rows, columns = linear_sum_assignment(cost.numpy())
    theirs = cost.numpy()[rows, columns].sum()
    assert abs(ours - theirs) <= n * 2**-52 * n * cost.abs().max().item()
    if kind in ("clouds", "uniform"):  # no ties: the optimum is one
        assert column.tolist() == columns.tolist()


def test_assignment_coupling_reorders_the_noise() -> None:
    x0, x1 = clouds(40)
    paired = couplings.registry.make("assignment").pair(
        x0.reshape(40, 2, 3), x1.reshape(40, 2, 3), resolve(0, 40)
    )
    _, columns = linear_sum_assignment(torch.cdist(x0, x1).square().numpy())
    assert torch.equal(paired.reshape(40, 6), x1[columns])
    near = (paired.reshape(40, 6) - x0).square().sum()
    assert near < (x1 - x0).square().sum()


def test_squared_distances() -> None:
    x0, x1 = clouds(9)
    torch.testing.assert_close(squared_distances(x0, x1), torch.cdist(x0, x1) ** 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eps", (3.0, 30.0))
def test_plan_is_sinkhorns(eps: float) -> None:
    """Right marginals, and ln P + c / eps a sum of a row's and a column's part: there is one such matrix."""
    cost = torch.cdist(*clouds(12)) ** 2
    plan = couplings.transport_plan(cost, eps, tol=1e-10, max_iterations=5000)
    for axis in (0, 1):
        torch.testing.assert_close(
            plan.logsumexp(axis), torch.full((12,), -math.log(12), dtype=DOUBLE), rtol=0, atol=1e-9
        )
    rank_one = plan + cost / eps
    mixed = rank_one - rank_one[:1] - rank_one[:, :1] + rank_one[0, 0]
    assert mixed.abs().max() < 1e-12 * (cost / eps).max()


def test_plan_ends() -> None:
    """Little entropy: the assignment. Much: independence."""
    cost = torch.cdist(*clouds(12)) ** 2
    sharp = couplings.transport_plan(cost, 1e-2 * cost.mean(), tol=1e-3)
    assert sharp.argmax(1).tolist() == linear_sum_assignment(cost.numpy())[1].tolist()
    flat = couplings.transport_plan(cost, 1e9)
    torch.testing.assert_close(flat.exp(), torch.full_like(flat, 1 / 144), rtol=1e-6, atol=0)


def test_sinkhorn_draws_from_its_plan() -> None:
    """One batch under 1500 seeds: how often row 0 took each column, chi-square."""
    x0, x1 = clouds(5, 2)
    coupling = couplings.registry.make("sinkhorn", scale=0.5, tol=1e-9)
    cost = squared_distances(x0, x1)
    p = 5 * couplings.transport_plan(cost, 0.5 * cost.mean(), tol=1e-9).exp()[0].numpy()
    counts = np.zeros(5)
    for seed in range(1500):
        row = coupling.pair(x0, x1, resolve(seed, 5))[0]
        counts[int((x1 == row).all(1).nonzero())] += 1
    assert chisquare(counts, p / p.sum() * 1500).pvalue > 1e-4


def test_errors() -> None:
    with pytest.raises(ValueError, match="cost must be finite"):
        couplings.assign(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"cost must be a matrix \(n, n\), n >= 1, got \(2, 3\)"):
        couplings.assign(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="cost must be a tensor of a float type, got torch.int64"):
        couplings.assign(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="eps must be a number > 0"):
        couplings.transport_plan(torch.zeros(2, 2), 0.0)
    with pytest.raises(ValueError, match="scale must be > 0, got -1"):
        couplings.registry.make("sinkhorn", scale=-1)
    with pytest.raises(ValueError, match="unknown coupling 'assignmnt'; did you mean"):
        fd.losses.FlowMatching(coupling="assignmnt")
