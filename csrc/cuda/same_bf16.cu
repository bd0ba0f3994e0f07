#include "same_type.cuh"

namespace fd::cuda {
void launch_bf16(const SameType& a, int blocks, cudaStream_t stream) {
  launch_same<__nv_bfloat16>(a, blocks, stream);
}
}  // namespace fd::cuda
