#include "same_type.cuh"

namespace fd::cuda {
void launch_f16(const SameType& a, int blocks, cudaStream_t stream) {
  launch_same<__half>(a, blocks, stream);
}
}  // namespace fd::cuda
