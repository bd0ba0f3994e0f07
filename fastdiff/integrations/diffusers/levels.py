"""Noise and targets at many times at once: what training and image-to-image ask a scheduler for, and steps
of a batch whose samples stand at different timesteps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...noise.seeds import resolve
from ...ops.linear_step import linear_step
from .configs import PEERS
from .output import FastSchedulerOutput
from .schedule import Schedule


class Levelled:
    """Tables by timestep, on the device; nothing here waits for it."""

    config: Any
    peer: str
    timesteps: Any
    seeds: Any
    _schedule: Schedule | None
    _shared: Any

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma noise (x0 + rho noise where the class's sample is x / alpha), by sample."""
        A = self._levels(timesteps, original_samples, "noise")
        return linear_step([original_samples, noise.to(original_samples.dtype)], A)[0]

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor | None = None) -> Tensor:
        """`add_noise` as the flow classes call it."""
        if noise is None:
            raise ValueError("scale_noise: noise is missing")
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha noise - sigma x0, the target of a v_prediction network."""
        A = self._levels(timesteps, sample, "velocity")
        return linear_step([sample, noise.to(sample.dtype)], A)[0]

    def _levels(self, timesteps: Any, like: Tensor, what: str) -> Tensor:
        """(B, 1, 2): the weights of the samples' levels."""
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        begin = getattr(self, "_begin_index", None)
        table = self._rows(what, wide, like.device)
        if begin is not None and self._schedule is not None and PEERS[self.peer].table != "alphas":
            index = begin if getattr(self, "_step_index", None) is None else self._step_index  # type: ignore[attr-defined]
            return table[index].expand(like.shape[0], 1, 2).contiguous()
        t = torch.as_tensor(timesteps, device=like.device).reshape(-1)
        if PEERS[self.peer].table == "alphas":
            index = t.long()
        else:
            index = self._match(t)
        return table[index].expand(like.shape[0], 1, 2).contiguous()

    def _match(self, t: Tensor) -> Tensor:
        """The index in `timesteps` of each, the later of equal ones."""
        known = self.timesteps.to(t.device)
        return known.numel() - 1 - (t[:, None] == known.flip(0).to(t.dtype)).int().argmax(1)

    def _rows(self, what: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        key = ("rows", getattr(self, "_key", None), what, dtype, device)
        found = self._shared.legs.get(key)
        if found is None:
            found = torch.from_numpy(self._weights(what)).to(dtype).to(device)
            self._shared.legs[key] = found
        return found

    def _weights(self, what: str) -> np.ndarray:
        peer = PEERS[self.peer]
        if peer.table == "alphas" or self._schedule is None:
            if self.alphas_cumprod is None:  # type: ignore[attr-defined]
                raise ValueError("add_noise: call set_timesteps first")
            abar = self.alphas_cumprod.double().numpy()  # type: ignore[attr-defined]
            if peer.table != "alphas":
                abar = abar[::-1]  # the timesteps of a scheduler that has just been made
            alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
        else:
            times = [leg.t for leg in self._compiled(0, (None, False)).legs]  # type: ignore[attr-defined]
            process = self._schedule.process
            alpha = np.array([float(process.alpha(t)) for t in times])
            sigma = np.array([float(process.sigma(t)) for t in times])
        if what == "velocity":
            rows = np.stack([-sigma, alpha], 1)
        elif peer.scaled:
            rows = np.stack([np.ones_like(alpha), sigma / alpha], 1)
        else:
            rows = np.stack([alpha, sigma], 1)
        return rows[:, None, :]

    def _step_each(
        self,
        output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        settings: Any,
        generator: Any,
        seeds: Any,
        return_dict: bool,
    ) -> Any:
        """A step of every sample from a timestep of its own."""
        legs = self._compiled(0, settings)  # type: ignore[attr-defined]
        if not legs.memoryless:
            raise ValueError(
                f"step: {legs.solver} has a history, so a batch cannot stand at {len(timestep)} timesteps; "
                "take a session() for each request, or a solver of one step (ddim, euler, euler-a, ddpm)"
            )
        if len(timestep) != sample.shape[0]:
            raise ValueError(f"step: {len(timestep)} timesteps for a batch of {sample.shape[0]}")
        index = self._match(timestep.to(sample.device))
        wide = torch.float64 if torch.float64 in (sample.dtype, output.dtype) else torch.float32
        A = legs.stacked(wide, sample.device)[index]
        T, options = [sample, output], {}
        if A.shape[-1] > 2:
            seeds = self.seeds if seeds is None else seeds
            if seeds is None:
                from diffusers.utils.torch_utils import randn_tensor

                T.append(
                    randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
                )
            else:
                rng = resolve(seeds, sample.shape[0], sample.device)
                rng[:, 2] += index
                options = {"rng": rng, "draws": [0], "streams": [0]}
        result = linear_step(T, A, **options)[0]
        if not return_dict:
            return (result,)

        def make(jump: bool) -> Tensor:
            x0 = torch.as_tensor([leg.x0 for leg in legs.legs], dtype=wide, device=sample.device)
            return linear_step([sample, output], x0[index][:, None, :])[0]

        return FastSchedulerOutput(result, make, ("pred_original_sample",))
