"""k-diffusion's and ComfyUI's samplers: change the import, keep the call.

    from fastdiff.integrations import kdiffusion as K
    x = K.sample_dpmpp_2m_sde(model, x, K.get_sigmas_karras(20, 0.03, 14.6))

Signatures and numbers are theirs; docs/kdiffusion.md has the table, and what legacy=False mends.
"""

from . import samplers as _samplers
from .dpm import sample_dpm_adaptive, sample_dpm_fast
from .samplers import *  # noqa: F403
from .sigmas import (
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_laplace,
    get_sigmas_polyexponential,
    get_sigmas_vp,
)

__all__ = [
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_laplace",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    *_samplers.__all__,  # type: ignore[attr-defined]
]
