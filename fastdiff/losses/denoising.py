"""Denoising: every weighted regression on a Gaussian path.

    x_t = alpha(t) x0 + sigma(t) eps          loss = E  w(t) rho(F(x_t, t) - (a x0 + b eps))

a and b are those of `predicts`, t from a law of times, w from a weighting (each said once for all
predictions: `weightings`), rho the square by default. Noising is one pass, loss with its gradient another;
nothing waits for a GPU.

Sources: Ho et al. 2020, arXiv:2006.11239; Salimans & Ho 2022, arXiv:2202.00512; Karras et al. 2022,
arXiv:2206.00364; Kingma & Gao 2023, arXiv:2303.00848; Lipman et al. 2023, arXiv:2210.02747; IADB is
`FlowMatching` with predicts="flow": Heitz et al. 2023, arXiv:2305.03486.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.predict import input_scale, row
from ..core.process import Node, Process
from ..noise.streams import BERNOULLI, TRAINING, training_column_stream
from ..ops.normal import normal, uniform
from ..ops.perturb import perturb
from ..ops.regression_loss import regression_loss
from ..runtime.denoiser import Denoiser, const_of
from ._loss import Loss, Net, Terms, begin, wide
from .times import Times
from .weightings import Weighting
from .weightings import registry as weightings
from .weightings._weighting import error_factor, inside

OFFSET_COLUMN = 1  # of the training noise: one number for a channel


@dataclass(frozen=True)
class Noised:
    """A batch on its way: what the network was given, what it said, and what it should have said."""

    node: Node  # at the times of the samples, float64 (B,)
    importance: Tensor | None  # of the law of times
    rng: Tensor
    x_t: Tensor
    xi: Tensor | None  # the noise, where it was stored
    output: Any
    pred: Tensor  # the prediction inside the output
    extra: Tensor | None  # beside x0 and the noise in the target: noise of one's own, a const
    target: dict[str, Tensor]  # coefficients of regression_loss


class Denoising(Loss):
    """E w(t) rho(net(x_t, t, **cond) - target), the mean over elements and samples.

    process       a Process (kind "gaussian")
    predicts      "noise" | "data" | "velocity" | "flow" | "score"; not with precondition="edm", whose raw
                  network F is trained by (F - (x0 - c_skip x) / c_out)^2
    time          what the network is given, as in fd.Denoiser
    weighting     a key of fd.losses.weightings.names() (default "constant": 1 in the network's own space), a
                  Weighting, or a callable(t, process) -> (B,), the weight of the squared error of x0_hat
    time_sampler  a key of fd.losses.times.names() (default "uniform"), or a Times
    t_min, t_max  between which times are drawn; default 1e-5 of the way (a discrete process: its steps) and
                  the process's end
    steps         draw t among n / steps; default the process's own steps, or those of time=("index", N)
    rho           "l2" | "l1" | "huber" | "pseudo_huber", the last two with their `c`; the last is that of the
                  whole sample, sqrt(||d||^2 + c^2) - c, as consistency models have it
    drop          {name: null}: with probability `p_drop` a sample's cond[name] is null, a number or a tensor
                  like one sample's (classifier-free guidance)
    offset_noise  deviation of a further normal that all elements of a channel share (Guttenberg 2023)
    noise         callable(like, rng) -> tensor like x0, unit variance: coloured or heavy-tailed noise

    `loss(net, x0, cond=None, seeds=None, consts=None)` is the scalar, `.per_sample` the `Terms`. consts: what
    the process pulls to, by name, where it does. Raises ValueError and TypeError before anything runs.
    """

    key = "denoising"

    def __init__(
        self,
        process: Process,
        predicts: str | None = None,
        weighting: str | Weighting | Callable[[Tensor, Process], Tensor] = "constant",
        time_sampler: str | Times = "uniform",
        *,
        time: str | tuple[str, int] | None = None,
        precondition: str | None = None,
        t_min: float | None = None,
        t_max: float | None = None,
        steps: int | None = None,
        rho: str = "l2",
        c: float | None = None,
        drop: Mapping[str, Any] | None = None,
        p_drop: float = 0.1,
        offset_noise: float = 0.0,
        noise: Callable[[Tensor, Tensor], Tensor] | None = None,
        x_dtype: torch.dtype | None = None,
    ):
        self.model = Denoiser(
            _nothing, process, predicts=predicts, time=time, precondition=precondition, x_dtype=x_dtype
        )
        self.process, self.predicts = process, self.model.predicts
        self.weighting = weightings.make(weighting) if isinstance(weighting, str) else weighting
        self.times = Times.of("Denoising", time_sampler)
        if not callable(self.weighting) and not isinstance(self.weighting, Weighting):
            raise TypeError(
                f"Denoising: weighting must be a key, a Weighting or a callable, got {weighting!r}"
            )
        self.steps = steps if steps is not None else self._own_steps()
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise ValueError(f"Denoising: steps must be a whole number >= 1, got {steps!r}")
        zero, end = process.t_zero, process.t_max
        self.t_max = float(end if t_max is None else t_max)
        near = zero if self.steps else zero + 1e-5 * (end - zero)
        self.t_min = float(near if t_min is None else t_min)
        if not zero <= self.t_min < self.t_max <= end * (1 + 1e-12):
            raise ValueError(
                f"Denoising: t_min={self.t_min:g} and t_max={self.t_max:g} must be increasing in "
                f"[{zero:g}, {end:g}]"
            )
        if rho in ("huber", "pseudo_huber") and c is None:
            raise ValueError(f"Denoising: rho={rho!r} needs its c")
        if drop is not None and not isinstance(drop, Mapping):
            raise TypeError(f"Denoising: drop must be a dict name -> null value, got {type(drop).__name__}")
        if not 0 <= p_drop <= 1:
            raise ValueError(f"Denoising: p_drop must lie in [0, 1], got {p_drop!r}")
        if not (isinstance(offset_noise, (int, float)) and 0 <= offset_noise < math.inf):
            raise ValueError(f"Denoising: offset_noise must be a number >= 0, got {offset_noise!r}")
        if noise is not None and not callable(noise):
            raise TypeError(
                f"Denoising: noise must be callable as noise(like, rng), got {type(noise).__name__}"
            )
        self.rho, self.c, self.drop, self.p_drop = rho, c, dict(drop or {}), p_drop
        self.offset_noise, self.noise = float(offset_noise), noise

    def _own_steps(self) -> int | None:
        return self.model.time[1] if isinstance(self.model.time, tuple) else self.process.train_steps

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        consts: Mapping[str, Tensor] | None = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`; t (B,): times of your own instead of drawn ones."""
        made, weight = self._made(net, x0, cond, seeds, consts, t)
        terms = Terms(self.compare(made, x0, None), weight, made.node.t, made.x_t, made.output)
        if torch.is_grad_enabled():
            self.times.observe(terms.t, terms.loss)
        return terms

    def __call__(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        consts: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The batch's mean, a scalar: weights and 1 / B lie in the one pass that gives the loss and its
        slope."""
        if type(self.times).observe is not Times.observe:
            return self.per_sample(net, x0, cond=cond, seeds=seeds, consts=consts).weighted.mean()
        made, weight = self._made(net, x0, cond, seeds, consts, None)
        return self.compare(made, x0, weight, "mean")

    def _made(
        self, net: Net, x0: Tensor, cond: Any, seeds: Any, consts: Any, t: Tensor | None
    ) -> tuple[Noised, Tensor]:
        """What is compared, and the weight of each sample."""
        made = self.noised("Denoising", net, x0, cond, seeds, consts, t)
        weight = self.weigh(made.node)
        return made, (weight if made.importance is None else weight * made.importance).to(wide(x0))

    def noised(
        self, what: str, net: Net, x0: Tensor, cond: Any, seeds: Any, consts: Any = None, t: Any = None
    ) -> Noised:
        """Times, x_t and what the network says to it: all of a loss but the comparison."""
        cond, rng = begin(what, net, x0, cond, seeds)
        dtype = wide(x0)
        t, importance = self._times(rng, t)
        node = self.process.node(t)
        scale, (a, b) = input_scale(self.predicts, node), row(self.predicts, node)
        seen = {"a": node.alpha * scale, "s": node.sigma * scale}  # of x_t, as the network wants it
        target: dict[str, Any] = {"p": a, "q": b}
        noise, extra = self._noise(x0, rng), None
        if noise is not None:  # it takes the place of the endpoint and of `extra`
            seen |= {"e": seen["s"], "s": torch.zeros_like(t)}
            extra, target = noise, {"p": a, "e": b}
        given: dict[str, Any] = {"endpoint": noise}
        if self.process.const is not None:
            given["mu"] = c = const_of(self.process, consts, what)
            seen["k"] = self.process.offset(t) * scale
            if self.predicts == "flow":
                slope = _column(self.process.doffset(t), c) * c
                extra = slope if noise is None else _column(b, noise) * noise + slope
                target["e"] = torch.ones_like(t)
        stored = noise is None and not x0.is_cuda  # to read the noise back is quicker on a CPU
        made = perturb(x0, rng=rng, noise=stored, **given, **_like(seen, t, dtype))
        x_t, xi = made if isinstance(made, tuple) else (made, None)
        asked = x_t if self.model.x_dtype is None else x_t.to(self.model.x_dtype)
        output = net(asked, self.model.times_tensor(t, x0), **self._dropped(cond, x0, rng))
        pred = self.model.take(output, asked)
        return Noised(node, importance, rng, x_t, xi, output, pred, extra, _like(target, t, dtype))

    def compare(self, made: Noised, x0: Tensor, w: Tensor | None, batch: str | None = None) -> Tensor:
        """rho of the prediction less its target, (B,), times w; with `batch` of all."""
        return regression_loss(
            made.pred,
            x0,
            extra=made.extra,
            noise=made.xi,
            rng=made.rng if "q" in made.target and made.xi is None else None,
            w=w,
            rho=self.rho,
            c=self.c,
            reduction="sum" if self.rho == "pseudo_huber" else "mean",
            batch=batch,
            **made.target,  # type: ignore[arg-type]
        )

    def _times(self, rng: Tensor, t: Any) -> tuple[Tensor, Tensor | None]:
        """(t, importance weight), float64 (B,); of a discrete process among its steps."""
        found, importance = self.times.at("Denoising", t, self.process, rng, self.t_min, self.t_max)
        if t is None and self.steps is not None:
            found = (found * self.steps).ceil().clamp(min=1) / self.steps
        return found, importance

    def weigh(self, node: Any) -> Tensor:
        """Of the squared error of this prediction, float64 (B,)."""
        if isinstance(self.weighting, Weighting):
            return self.weighting.weight(node, self.predicts)
        off_ends = inside(node)
        weight = self.weighting(node.t, self.process)
        if not isinstance(weight, Tensor) or weight.shape != node.t.shape:
            came = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(
                f"Denoising: weighting(t, process) must give a tensor {tuple(node.t.shape)}, got {came}"
            )
        return weight / error_factor(self.predicts, off_ends)

    def _noise(self, x0: Tensor, rng: Tensor) -> Tensor | None:
        """The whole noise, where it is not the plain normal that the passes make themselves."""
        if self.noise is None and not self.offset_noise:
            return None
        if self.noise is None:
            noise = normal(x0.shape, rng, 0, TRAINING, dtype=x0.dtype)
        else:
            noise = self.noise(x0, rng)
            if not isinstance(noise, Tensor) or noise.shape != x0.shape:
                came = tuple(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
                raise ValueError(
                    f"Denoising: noise(like, rng) must give a tensor {tuple(x0.shape)}, got {came}"
                )
        if self.offset_noise:
            channels = x0.shape[:2]
            shared = normal(channels, rng, 0, training_column_stream(OFFSET_COLUMN), dtype=noise.dtype)
            noise = noise + self.offset_noise * shared.reshape(*channels, *[1] * (x0.dim() - len(channels)))
        return noise

    def _dropped(self, cond: dict[str, Any], x0: Tensor, rng: Tensor) -> dict[str, Any]:
        """cond with the null values of those samples whose coin says so; one coin for all names."""
        if not self.drop:
            return cond
        coin = uniform((x0.shape[0],), rng, 0, BERNOULLI, dtype=torch.float32) < self.p_drop
        for name, null in self.drop.items():
            value = cond.get(name)
            if not isinstance(value, Tensor) or not value.dim() or value.shape[0] != x0.shape[0]:
                raise ValueError(
                    f"Denoising: drop names {name!r}, which must be a tensor ({x0.shape[0]}, *) in cond"
                )
            null = torch.as_tensor(null, dtype=value.dtype, device=value.device)
            cond[name] = torch.where(_column(coin, value), null, value)
        return cond

    def __repr__(self) -> str:
        weighting = self.weighting if isinstance(self.weighting, Weighting) else "weighting=callable"
        return f"Denoising({self.process!r}, predicts={self.predicts!r}, {weighting}, {self.times})"


def _nothing(*_: Any) -> None:
    """A Denoiser is used here for how networks are called; the network itself comes with each call."""


def _column(v: Tensor, like: Tensor) -> Tensor:
    """(B,) beside (B, *)."""
    wanted = v if v.dtype == torch.bool else v.to(wide(like))
    return wanted.reshape(-1, *[1] * (like.dim() - 1))


def _like(weights: Mapping[str, Any], t: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """Coefficients, some of which are plain numbers, as tensors like t."""
    return {k: (v if isinstance(v, Tensor) else torch.full_like(t, v)).to(dtype) for k, v in weights.items()}
