"""Triton twins of the compiled kernels: the same names, arguments and bits.

They serve CUDA tensors where the package was built without a CUDA compiler. Under TRITON_INTERPRET=1 they
take CPU tensors.
"""

from .brownian import brownian_
from .error_norm import error_norm_
from .linear_step import linear_step_
from .noise import fill_

__all__ = ["brownian_", "error_norm_", "fill_", "linear_step_"]
