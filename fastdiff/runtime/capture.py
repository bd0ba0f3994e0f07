"""CapturedSampler: a whole run as one CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..noise.seeds import resolve
from .checks import check_consts, check_x
from .executor import Executor
from .run import Run


class CapturedSampler:
    """A run recorded as one CUDA graph. Inputs are copied into its own tensors; the result is copied out."""

    def __init__(self, executor: Executor, x: Tensor, cond: dict[str, Any], noise: Any = None):
        self.executor, self.noise = executor, noise
        self.x = x.clone(memory_format=torch.contiguous_format)
        self.registers = {0: self.x, **check_consts(executor.plan, None, self.x)}
        self.rng = resolve(0, x.shape[0], x.device)
        self.cond = {k: v.clone() if isinstance(v, Tensor) else v for k, v in cond.items()}
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):  # kernels are loaded and the allocator is warm before capture
            for _ in range(2):
                self._run()
        torch.cuda.current_stream(x.device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = self._run()

    def _run(self) -> Tensor:
        with torch.no_grad():
            run = Run(self.executor, self.registers, self.rng, self.cond, noise=self.noise)
            run.go(0, len(self.executor.plan.stages))
        return run.registers[self.executor.plan.out]

    def __call__(self, x: Tensor, *, seeds: Any = None, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Replay with another x, other seeds and other tensors in cond (of the captured shapes)."""
        check_x(x)
        if x.shape != self.x.shape or x.dtype != self.x.dtype or x.device != self.x.device:
            made, came = (f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (self.x, x))
            raise ValueError(f"captured for x {made}, got {came}")
        self.x.copy_(x)
        if self.executor.random:
            self.rng.copy_(resolve(seeds, x.shape[0], x.device))
        for k, v in (cond or {}).items():
            if (
                k not in self.cond
                or not isinstance(v, Tensor)
                or not isinstance(self.cond[k], Tensor)
                or v.shape != self.cond[k].shape
            ):
                raise ValueError(f"cond[{k!r}] was not captured as a tensor of this shape")
            self.cond[k].copy_(v)
        self.graph.replay()
        return self.out.clone()
