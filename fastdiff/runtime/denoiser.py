"""Denoiser: a network, what it predicts, and how it is to be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.linear import LinearProcess
from ..core.math import exp
from ..core.matrix import Vector
from ..core.predict import PREDICTIONS, convert, input_scale
from ..core.process import Process

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
VARIANCES = ("learned-range", "learned")
TIMES = ("t", "sigma", "lambda", "c_noise")


def const_of(process: Process, consts: Mapping[str, Tensor] | None, what: str) -> Tensor:
    """The tensor that a process pulls to."""
    c = (consts or {}).get(str(process.const))
    if not isinstance(c, Tensor):
        came = sorted(consts or {})
        raise ValueError(f"{what}: {process!r} wants consts={{{process.const!r}: tensor like x}}, got {came}")
    return c


class Denoiser:
    """A network with the process it was trained on.

    net           net(x, t, **cond) -> a tensor like x, a tuple that starts with one, or what has a `.sample`
    process       a Process
    predicts      "noise" | "data" | "velocity" | "flow" | "score"; not needed with `precondition`
    time          what the network is given: "t" | "sigma" (sigma/alpha) | "lambda" (log alpha/sigma) |
                  "c_noise" (log(sigma/alpha)/4), or ("index", N) for a network trained on N discrete steps.
                  A (B,) tensor on x's device, float32 (float64 for float64 x), int64 for an index.
                  Default "t", with `precondition` "c_noise".
    precondition  "edm": the network is Karras' raw F in  x0 = c_skip x/alpha + c_out F(c_in x/alpha, c_noise)
    variance      "learned-range" | "learned": the network gives 2C channels, first the prediction, then what
                  `ddpm` makes its variance of; other solvers ignore the second half
    x_dtype       dtype in which the network wants x (default: x's own)

    A linear process (CLD, PSLD, ...) has several registers: net(x, v, t, **cond) -> the tensors of
    `process.registers` that noise enters, a pair say, or one tensor where that is v alone; predicts "noise",
    "score", or "data" (one tensor); time "t" or an index; no preconditioning, no variance.

    Raises TypeError and ValueError for anything else. `denoiser(x, t)` gives the data prediction. The network
    may keep neither x nor t, nor write to them: their memory is used again.
    Source of the preconditioning: Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        process: Process,
        *,
        predicts: str | None = None,
        time: str | tuple[str, int] | None = None,
        precondition: str | None = None,
        variance: str | None = None,
        x_dtype: torch.dtype | None = None,
    ):
        if not callable(net):
            raise TypeError(f"Denoiser: net must be callable as net(x, t, **cond), got {type(net).__name__}")
        if not isinstance(process, Process):
            came = type(process).__name__
            raise TypeError(f"Denoiser: process must be a Process (see fd.processes), got {came}")
        if precondition not in (None, "edm"):
            raise unknown("precondition", precondition, ("edm",))
        if predicts is None and precondition is None:
            raise TypeError("Denoiser: say what the network predicts, e.g. predicts='noise'")
        if variance not in (None, *VARIANCES):
            raise unknown("variance", variance, VARIANCES)
        if predicts is not None and not isinstance(predicts, str):
            came = type(predicts).__name__
            raise TypeError(f"Denoiser: predicts must be a name such as 'noise', got {came}")
        if predicts is not None and predicts not in PREDICTIONS and not (predicts == "edm" and precondition):
            raise unknown("prediction (predicts)", predicts, PREDICTIONS)
        if precondition is not None and predicts not in (None, "data", "edm"):
            raise ValueError(
                "Denoiser: precondition='edm' makes a data prediction of a raw network, "
                f"so predicts={predicts!r} cannot hold"
            )
        if time is None:
            time = "c_noise" if precondition else "t"
        if isinstance(time, tuple):
            if len(time) != 2 or time[0] != "index" or type(time[1]) is not int or time[1] < 1:
                raise ValueError(f'Denoiser: time={time!r}; a discrete time is written ("index", 1000)')
        elif time not in TIMES:
            raise unknown("time", time, TIMES)
        if isinstance(process, LinearProcess):
            for name, value in (("precondition", precondition), ("variance", variance)):
                if value is not None:
                    raise ValueError(f"Denoiser: {name}={value!r} does not go with {process!r}")
            process.check(str(predicts), ())
            if isinstance(time, str) and time != "t":
                raise ValueError(f'Denoiser: time={time!r}, but {process!r} has t alone, or ("index", N)')
        if x_dtype is not None and x_dtype not in DTYPES:
            kinds = "float32, float16, bfloat16 or float64"
            raise TypeError(f"Denoiser: x_dtype must be {kinds}, got {x_dtype!r}")
        self.net, self.process, self.time, self.variance, self.x_dtype = net, process, time, variance, x_dtype
        self.predicts: str = "edm" if precondition else str(predicts)

    def model_times(self, t: Any) -> Any:
        """What the network is given at times t: float64, or int64 for an index; an array, or on the device of
        a tensor t."""
        if not isinstance(t, Tensor):
            t = np.asarray(t, dtype=np.float64)
        if isinstance(self.time, tuple):
            last = self.time[1] - 1
            index = self.process.model_index(t, self.time[1])
            if isinstance(index, Tensor):
                return index.round().clamp(0, last).long()
            return np.clip(np.rint(index), 0, last).astype(np.int64)
        if self.time == "t":
            return t
        lam = self.process.lam(t)
        return {"lambda": lam, "sigma": exp(-lam), "c_noise": -lam / 4}[self.time]

    def times_tensor(self, t: Any, like: Tensor) -> Tensor:
        """model_times on x's device, in the dtype the network gets."""
        v = self.model_times(t)
        v = v if isinstance(v, Tensor) else torch.tensor(v)
        real = torch.float64 if (self.x_dtype or like.dtype) == torch.float64 else torch.float32
        return v.to(device=like.device, dtype=torch.int64 if v.dtype == torch.int64 else real)

    def several(self, xs: Sequence[Tensor], t: Tensor, cond: Mapping[str, Any]) -> list[Tensor]:
        """One call of a network of several registers, its outputs checked."""
        assert isinstance(self.process, LinearProcess)
        if self.x_dtype is not None:
            xs = [x.to(self.x_dtype) for x in xs]
        out, count = self.net(*xs, t, **cond), self.process.outputs(self.predicts)
        if count == 1:
            return [self.take(out, xs[0])]
        if not isinstance(out, (tuple, list)) or len(out) != count:
            came = f"{len(out)} of them" if isinstance(out, (tuple, list)) else type(out).__name__
            of = ", ".join(self.process.registers)
            raise TypeError(f"the network of ({of}) must return {count} tensors, got {came}")
        return [self.take(o, xs[0]) for o in out]

    def raw(self, x: Tensor, t: Tensor, cond: Mapping[str, Any], whole: bool = False) -> Tensor:
        """One call of the network, its output checked: a tensor of x's shape on x's device; whole: with the
        channels of a learned variance."""
        if self.x_dtype is not None and x.dtype != self.x_dtype:
            x = x.to(self.x_dtype)
        return self.take(self.net(x, t, **cond), x, whole)

    def take(self, out: Any, x: Tensor, whole: bool = False) -> Tensor:
        """The prediction inside whatever the network returned."""
        if not isinstance(out, Tensor):
            if isinstance(out, (tuple, list)) and out:
                out = out[0]
            else:
                out = getattr(out, "sample", out)
            if not isinstance(out, Tensor):
                raise TypeError(
                    "the network must return a tensor, a tuple whose first is one, or an object with "
                    f".sample; got {type(out).__name__}"
                )
        want = tuple(x.shape)
        allowed = [] if whole else [want]
        if self.variance is not None and x.dim() > 1:
            allowed.append((want[0], 2 * want[1], *want[2:]))
        if not allowed:
            raise ValueError(
                "this solver reads a learned variance: say Denoiser(..., variance='learned-range')"
            )
        if tuple(out.shape) not in allowed:
            need = " or ".join(map(str, allowed))
            raise ValueError(
                f"the network returned shape {tuple(out.shape)} for x of shape {want}; need {need}"
            )
        if out.dtype not in DTYPES:
            raise TypeError(f"the network returned {out.dtype}; need float32, float16, bfloat16 or float64")
        if out.device != x.device:
            raise ValueError(f"the network returned a tensor on {out.device} for x on {x.device}")
        if out.layout != torch.strided:
            raise TypeError(f"the network returned a tensor of layout {out.layout}; need a dense one")
        return out if whole or tuple(out.shape) == want else out[:, : want[1]]

    def __call__(
        self,
        x: Tensor,
        t: Any,
        cond: Mapping[str, Any] | None = None,
        consts: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The data prediction at time t (a number, or one per sample), like x; differentiable. consts: what
        the process pulls to, by name, where it does; the other registers of a linear process, which takes one
        t for all."""
        if isinstance(self.process, LinearProcess):
            return self._of_registers(self.process, x, t, cond or {}, consts or {})
        batch, shape = x.shape[0], (-1, *[1] * (x.dim() - 1))
        t = np.asarray(t.tolist() if isinstance(t, Tensor) else t, dtype=np.float64)
        if t.shape not in ((), (batch,)):
            raise ValueError(f"Denoiser: t has shape {t.shape}; need one number or ({batch},)")
        t = np.broadcast_to(t, (batch,))
        node = self.process.node(t)
        wide = x if x.dtype == torch.float64 else x.float()

        def column(v: Any) -> Tensor:
            full = np.array(np.broadcast_to(v, t.shape), dtype=np.float64)  # torch wants what it may write
            return torch.from_numpy(full).to(x.device, wide.dtype).reshape(shape)

        p, q = convert(self.predicts, "data", node)
        scaled = wide * column(input_scale(self.predicts, node))
        raw = self.raw(scaled.to(x.dtype), self.times_tensor(t, x), cond or {}).to(wide.dtype)
        if self.process.const is not None:
            c = const_of(self.process, consts, "Denoiser").to(wide.dtype)
            wide = wide - column(self.process.offset(t)) * c
            if self.predicts == "flow":
                raw = raw - column(self.process.doffset(t)) * c
        return (column(p) * wide + column(q) * raw).to(x.dtype)

    def _of_registers(self, process: LinearProcess, x: Tensor, t: Any, cond: Any, consts: Any) -> Tensor:
        if getattr(t, "ndim", 0) or isinstance(t, (list, tuple)):
            raise ValueError(f"Denoiser: one t for all samples on {process!r}, got {t!r}")
        lost = [name for name in process.registers[1:] if not isinstance(consts.get(name), Tensor)]
        if lost:
            raise ValueError(f"Denoiser: {process!r} wants consts={{{lost[0]!r}: tensor like x}}")
        z = [x, *(consts[name] for name in process.registers[1:])]
        p, q = convert(self.predicts, "data", process.node(float(t)))
        clock = self.times_tensor(np.full(x.shape[0], float(t)), x)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        made: Any = Vector(o.to(wide) for o in self.several(z, clock, cond))
        if not isinstance(q, int):
            made = p * Vector(a.to(wide) for a in z) + q * made
        return made[0].to(x.dtype)

    def __repr__(self) -> str:
        name = type(self.net).__name__
        if not isinstance(self.net, torch.nn.Module):
            name = getattr(self.net, "__name__", name)
        return f"Denoiser({name}, {self.process!r}, predicts={self.predicts!r}, time={self.time!r})"
