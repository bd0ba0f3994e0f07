#include "same_type.cuh"

namespace fd::cuda {
void launch_f32(const SameType& a, int blocks, cudaStream_t stream) { launch_same<float>(a, blocks, stream); }
}  // namespace fd::cuda
