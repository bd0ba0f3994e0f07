#include "fast.cuh"

namespace fd::cuda {
Kernel& fast_f32(int n_in, int n_out, bool noise) { return fast_kernel<Dtype::f32>(n_in, n_out, noise); }
}  // namespace fd::cuda
