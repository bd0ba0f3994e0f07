"""Triton twins of the compiled kernels: the same names, arguments and bits.

They serve CUDA tensors where the package was built without a CUDA compiler. Under TRITON_INTERPRET=1 they
take CPU tensors.
"""

from .brownian import brownian_
from .error_norm import error_norm_
from .linear_step import linear_step_
from .noise import fill_
from .sums import dots_, gaussian_kl_, regression_loss_

__all__ = ["brownian_", "dots_", "error_norm_", "fill_", "gaussian_kl_", "linear_step_", "regression_loss_"]
