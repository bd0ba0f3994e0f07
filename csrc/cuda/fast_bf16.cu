#include "fast.cuh"

namespace fd::cuda {
Kernel& fast_bf16(int n_in, int n_out, bool noise) { return fast_kernel<Dtype::bf16>(n_in, n_out, noise); }
}  // namespace fd::cuda
