"""Training by rewards and preferences: a sampler's steps as a policy, and pairs of samples. One file, one
method."""

from .advantages import PromptStatistics, advantages
from .collect import Rollout, collect
from .ddpo import DDPO
from .diffusion_dpo import DiffusionDPO

__all__ = ["DDPO", "DiffusionDPO", "PromptStatistics", "Rollout", "advantages", "collect"]
