"""The state of one run, and `step`: the part of FastScheduler that works while a pipeline runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...noise.seeds import resolve
from ...ops._backends import fresh
from ...ops._library import EAGER, route
from ...ops.linear_step import linear_step
from ...runtime.noise import Source, walk_of
from ...runtime.operators import OPERATORS
from .configs import PEERS
from .legs import JUMP, NEXT, Leg, Legs, Pass
from .output import EXTRAS, FastSchedulerOutput, data

Settings = tuple[float | None, bool]  # eta, use_clipped_model_output
PLAIN: Settings = (None, False)
WITH_ETA = ("DDIMScheduler", "DDIMParallelScheduler", "TCDScheduler")


class Stepping:
    """What FastScheduler is while it runs. The attributes below are the scheduler's."""

    peer: str
    seeds: Any
    noise: str | None
    _takes_eta: bool
    config: Any
    timesteps: Any
    _values: list[float]
    _base: int

    _compiled: Callable[[int, Settings], Legs]
    _plan_schedule: Any  # raises where set_timesteps is missing
    _step_each: Callable[..., Any]
    _step_tokens: Callable[..., Any]
    _churned: Callable[..., Any]
    _step_churned: Callable[..., Any]

    def _reset(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._legs: Legs | None = None
        self._offset = self._before = 0  # timesteps and steps that the legs leave out
        self._settings = PLAIN
        self._forget()

    def _forget(self) -> None:
        self._registers: dict[int, Tensor] = {}
        self._versions: dict[int, int] = {}
        self._ours: set[int] = set()  # registers whose memory nobody else has seen
        self._drawn: dict[tuple[int, int], Tensor] = {}
        self._rng: Tensor | None = None
        self._source: Source | None = None

    @property
    def step_index(self) -> int | None:
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Where a run enters its timesteps: later than 0 for image-to-image."""
        self._reset()
        self._begin_index = int(begin_index)

    def previous_timestep(self, timestep: Any) -> Any:
        """The timestep after this one, -1 after the last."""
        index = self.index_for_timestep(timestep) + 1
        return self.timesteps[index] if index < len(self._values) else torch.tensor(-1)

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Any = None) -> int:
        """The index of a timestep; of equal ones the second, as diffusers. It waits for a tensor on a device,
        so `step` calls it at the first step alone, and only for a timestep that is no element of
        `timesteps`."""
        values = self._values if schedule_timesteps is None else schedule_timesteps.tolist()
        t = float(timestep)
        found = [i for i, v in enumerate(values) if abs(v - t) <= 1e-6 * max(1.0, abs(t))]
        if not found:
            raise ValueError(
                f"timestep {t:g} is none of scheduler.timesteps ({values[0]:g} .. {values[-1]:g})"
            )
        return found[min(1, len(found) - 1)]

    def _begin(self, index: int, settings: Settings) -> None:
        """Start at an index of the timesteps: at a step's first network call."""
        whole = self._compiled(0, settings)
        if not 0 <= index < len(whole.legs):
            raise ValueError(f"index {index} is outside of the {len(whole.legs)} timesteps")
        self._legs, self._offset, self._before = whole, 0, 0
        if index and not whole.memoryless:
            while index < len(whole.legs) and not (whole.early or whole.legs[index].opens):
                index += 1  # from the middle of a step to the next
            if index == len(whole.legs):
                raise ValueError("a run cannot begin in the middle of its last step")
            node = index if whole.early else whole.legs[index].step
            self._legs, self._offset, self._before = self._compiled(node, settings), index, node
        self._step_index, self._settings = index, settings
        self._forget()

    def _place(self, timestep: Any) -> int | None:
        """The index that an element of `timesteps` has, without looking at its value."""
        if isinstance(timestep, Tensor) and timestep.numel() == 1:
            if timestep.untyped_storage().data_ptr() == self._base:
                return int(timestep.storage_offset())
        return None

    def _expects(self, timestep: Any, index: int) -> bool:
        """Whether it is the element that is next: `_place` in short."""
        if type(timestep) is not Tensor or timestep.dim():
            return False
        return timestep.storage_offset() == index and timestep.untyped_storage().data_ptr() == self._base

    def _enter(self, timestep: Any, settings: Settings) -> int:
        """The index at which the step stands; begins a run, or begins anew where the caller has jumped."""
        index, place = self._step_index, self._place(timestep)
        if index is None:
            self._plan_schedule  # noqa: B018 - says that set_timesteps is missing
            index = self._begin_index
            if index is None:
                index = self.index_for_timestep(timestep) if place is None else place
            self._begin(index, settings)
        else:
            over = index >= len(self._values)
            if (
                place is None
                and isinstance(timestep, (int, float))
                and (over or self._values[index] != timestep)
            ):
                place = self.index_for_timestep(timestep)
            if place is not None and place != index:
                self._begin(place, settings)
            elif over:
                self._begin(self.index_for_timestep(timestep), settings)
            elif settings != self._settings:
                self._begin(index, settings)
        assert self._step_index is not None
        return self._step_index

    def _read(self, eta: float | None, clipped: bool | None) -> Settings:
        """eta and use_clipped_model_output, which pipelines hand to every scheduler."""
        if not self._takes_eta:
            if eta or clipped:
                raise ValueError(
                    f"step: eta={eta!r}, use_clipped_model_output={clipped!r} are read by DDIM's and TCD's "
                    "configurations; a solver's own options go to from_config, s_churn and its kin by name"
                )
            return PLAIN
        if not eta:  # a pipeline's default
            eta = dict(self.config.solver_options).get("eta", eta)
        return eta, bool(clipped)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float | None = None,
        use_clipped_model_output: bool | None = None,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        *,
        seeds: Any = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        per_token_timesteps: Tensor | None = None,
    ) -> Any:
        """From the sample and the network's output at it to the next sample.

        timestep        one of `timesteps` (any but the next begins a run there), or one for each sample
        eta             of DDIM and TCD; others take the 0 that pipelines hand to every scheduler
        generator       noise as diffusers makes it: torch.randn
        seeds           noise by sample: each draws from its own (seed, id), whatever its batch
        variance_noise  the noise itself
        s_churn         of EulerDiscrete and EDMEuler, with s_tmin, s_tmax and s_noise: noise before the step
        per_token_timesteps  of FlowMatchEuler: (B, tokens), each goes down to the next level

        Returns FastSchedulerOutput, or with return_dict=False the tuple that diffusers' class returns.
        """
        if eta is not None and isinstance(
            eta, (torch.Generator, list)
        ):  # where diffusers' class takes no eta
            eta, generator = None, eta
        plain = not (eta or use_clipped_model_output or self._takes_eta)
        settings = PLAIN if plain else self._read(eta, use_clipped_model_output)
        if s_churn or per_token_timesteps is not None:
            given = (model_output, timestep, sample, settings, generator, seeds, variance_noise, return_dict)
            if per_token_timesteps is not None:
                if s_churn:
                    raise ValueError("step: give one of s_churn and per_token_timesteps")
                return self._step_tokens(per_token_timesteps, *given)
            weights = self._churned(timestep, settings, s_churn, s_tmin, s_tmax, s_noise)
            if weights is not None:
                return self._step_churned(weights, *given)
        index = self._step_index
        if index is None or settings != self._settings or not self._expects(timestep, index):
            if isinstance(timestep, Tensor) and timestep.dim() == 1 and len(timestep) > 1:
                return self._step_each(
                    model_output, timestep, sample, settings, generator, seeds, return_dict
                )
            index = self._enter(timestep, settings)
        legs, registers, peer = self._legs, self._registers, PEERS[self.peer]
        assert legs is not None
        k = index - self._offset
        leg = legs.legs[k]
        if model_output.shape != sample.shape:
            model_output, further = halves(model_output, sample)
            if leg.further >= 0:
                registers[leg.further] = further
        elif leg.further >= 0:
            raise ValueError(
                "step: a learned variance is in the second half of the network's channels; the output "
                f"has shape {tuple(model_output.shape)} for a sample of {tuple(sample.shape)}"
            )
        for r in leg.held:
            held = registers[r]
            if held.is_inference() or held._version == self._versions[r]:
                continue
            raise ValueError(
                "step: the network wrote over an earlier output that is still needed; let it return a new "
                "tensor (out.clone())"
            )
        for r in leg.samples:
            registers[r] = sample
        registers[leg.output] = model_output
        if self._ours:
            self._ours.difference_update((*leg.samples, leg.output, leg.further))
        if leg.output not in leg.drop and not model_output.is_inference():
            self._versions[leg.output] = model_output._version
        dtype = model_output.dtype if peer.cast else sample.dtype
        both = not return_dict and legs.extra != NEXT
        result, x0 = self._run(legs, k, dtype, generator, seeds, variance_noise, both)
        self._step_index = index + 1
        bent = registers[leg.x0] if isinstance(leg.x0, int) else None
        for r in leg.drop:
            registers.pop(r, None)
        if not return_dict and not both:
            return (result,)
        if x0 is not None:
            return result, x0

        def make(jump: bool) -> Tensor:
            return data(legs, leg, sample, model_output, bent, jump)

        if return_dict:
            return FastSchedulerOutput(result, make, EXTRAS[peer.extra])
        return result, make(legs.extra == JUMP)

    def _run(
        self,
        legs: Legs,
        k: int,
        dtype: torch.dtype,
        generator: Any,
        seeds: Any,
        given: Tensor | None,
        both: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The passes of leg k; its result, and the second one where a pass makes it on its way."""
        leg, registers, x0 = legs.legs[k], self._registers, None
        like = registers[leg.samples[0]]
        by_sample = seeds is not None or self.seeds is not None or self._rng is not None
        if leg.new or leg.last or leg.spends:
            self._noise(legs, leg, like, generator, seeds, given, by_sample)
        double = torch.float64 in (like.dtype, registers[leg.output].dtype)
        both = both and dtype == like.dtype
        tables = legs.tables(torch.float64 if double else torch.float32, like.device, both)[k]
        for p, A in zip(leg.passes, tables, strict=True):
            if p.table is None:
                self._act(legs, p)
                continue
            assert A is not None
            T = [registers[r] for r in p.inputs]
            draws: Sequence[int] = p.counters
            streams: Sequence[int] = p.streams
            if draws and not (by_sample and self._source is None):
                T, draws, streams = [*T, *(self._draw(d, p, d not in leg.last) for d in p.draws)], (), ()
            elif draws:
                draws = draws if not self._before else [d + self._before for d in draws]
            if route(T) == EAGER:
                outs = [
                    self._into(r, over, leg, like, dtype) for r, over in zip(p.outputs, p.over, strict=True)
                ]
                if len(outs) < len(A):
                    outs.append(fresh(like.shape, dtype, like.device))
                linear_step(T, A, rng=self._rng, draws=draws, streams=streams, out=outs)
            else:
                outs = linear_step(T, A, rng=self._rng, draws=draws, streams=streams, dtype=dtype)
            for r, y in zip(p.outputs, outs, strict=False):
                registers[r] = y
            if len(outs) > len(p.outputs):
                x0 = outs[-1]
        for d in leg.last:
            self._drawn.pop(d, None)
        return registers[leg.result], x0

    def _into(self, r: int, over: int, leg: Leg, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory for register r: that of `over`, which this pass reads for the last time, if it is ours."""
        if r == leg.result:
            return fresh(like.shape, dtype, like.device)
        ours, y = self._ours, None
        if over in ours:
            ours.discard(over)
            y = self._registers.pop(over)
        ours.add(r)
        return fresh(like.shape, dtype, like.device) if y is None or y.dtype != dtype else y

    def _act(self, legs: Legs, p: Pass) -> None:
        assert p.act is not None
        kind, hook, t, params = p.act
        args = [self._registers[r] for r in p.inputs]
        if kind == "hook":
            out = legs.hooks[hook].predict(None, args[0])
        else:
            out = OPERATORS[kind[5:]](*args, t=t, params=params).to(args[0].dtype)
        self._registers[p.outputs[0]] = out

    # noise

    def _noise(
        self, legs: Legs, leg: Leg, like: Tensor, generator: Any, seeds: Any, given: Tensor | None, own: bool
    ) -> None:
        """The draws of a leg, or the keys of those that the pass makes itself."""
        if given is not None and (generator is not None or own):
            raise ValueError("step: give one of generator, seeds and variance_noise")
        if own or self.noise == "path":
            if generator is not None:
                raise ValueError("step: give one of generator and seeds")
            if self._rng is None:
                self._rng = resolve(self.seeds if seeds is None else seeds, like.shape[0], like.device)
                self._source = None
                if self.noise == "path":
                    walk = walk_of(legs.plan, legs.process)
                    self._source = Source(legs.plan, "path", walk, like, self._rng, None)
            return
        for d in leg.new:
            if given is not None:
                self._drawn[d] = given
            else:
                self._drawn[d] = self._normal(like, generator)
        if leg.spends and not leg.new and given is None:
            self._normal(like, generator)

    def _normal(self, like: Tensor, generator: Any) -> Tensor:
        return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)

    def _draw(self, d: tuple[int, int], p: Pass, later: bool) -> Tensor:
        if self._source is not None:
            return self._source.of(-1 if later else 1 << 30, [d], [p.spans[p.draws.index(d)]])[0]
        return self._drawn[d]


def halves(output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction and learned variance of an output with 2C channels."""
    want = tuple(sample.shape)
    if output.dim() < 2 or tuple(output.shape) != (want[0], 2 * want[1], *want[2:]):
        raise ValueError(
            f"step: model_output has shape {tuple(output.shape)}, the sample {want}; they must agree"
        )
    return output[:, : want[1]], output[:, want[1] :]
