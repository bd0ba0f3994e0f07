"""Sampling over ranks: what they give together is what one process gives, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

import fastdiff as fd

SHAPE = (7, 3, 5)


def net(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    return torch.tanh(x + shift) * t[:, None, None]  # elementwise: the same bits in any batch


def run(distributed: str | None, seeds: object, x: Tensor | None = None, **options: object) -> Tensor:
    denoiser = fd.Denoiser(net, fd.processes.VP(), predicts="noise")
    cond = {"shift": torch.arange(7.0)[:, None, None]}
    return fd.sample(
        denoiser, SHAPE if x is None else x, solver="ddpm", steps=5, seeds=seeds, cond=cond,
        distributed=distributed, **options,
    )  # fmt: skip


def rank(number: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{ranks}", rank=number, world_size=ranks)
    x = torch.linspace(-2, 2, 105).view(SHAPE)
    whole = {
        "drawn": run("batch", 3),
        "given": run("batch", [5, 1, 4, 1, 9, 2, 6], x),
        "chunked": run("batch", 3, chunk=2),
        "by chance": run("batch", None),
    }
    sizes = {k: len(v) for k, v in whole.items()}
    gathered = {k: fd.gather(v) for k, v in whole.items()}
    torch.save((sizes, gathered), f"{folder}/{ranks}.{number}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_give_what_one_process_gives(ranks: int, tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, __file__, str(number), str(ranks), str(tmp_path)])
        for number in range(ranks)
    ]
    assert [p.wait(120) for p in started] == [0] * ranks
    x = torch.linspace(-2, 2, 105).view(SHAPE)
    alone = run(None, 3)
    expected = {"drawn": alone, "given": run(None, [5, 1, 4, 1, 9, 2, 6], x), "chunked": alone}
    shares, chance = [], []
    for number in range(ranks):
        sizes, got = torch.load(tmp_path / f"{ranks}.{number}.pt")
        shares.append(sizes["drawn"])
        for name, want in expected.items():
            assert torch.equal(got[name], want), name
        chance.append(got["by chance"])
    assert sum(shares) == 7 and max(shares) - min(shares) <= 1
    assert all(torch.equal(c, chance[0]) for c in chance)  # every rank took the first one's seed


def test_without_a_group_it_is_said() -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        run("batch", 0)
    with pytest.raises(ValueError, match="init_process_group"):
        fd.gather(torch.zeros(1))
    with pytest.raises(ValueError, match="'batch'"):
        run("ranks", 0)


if __name__ == "__main__":
    rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
