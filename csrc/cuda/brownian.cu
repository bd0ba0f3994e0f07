#include "brownian.cuh"
#include "kernels.h"

namespace fd::cuda {
namespace {

template <bool kArea>
__global__ void __launch_bounds__(kThreads, 2)
    brownian(const __grid_constant__ Leg leg, const __grid_constant__ Grid g) {
  walk<kArea>(leg, g, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
}

}  // namespace

Kernel& brownian_kernel(bool area) {
  static Kernel both[2] = {{reinterpret_cast<const void*>(&brownian<false>)},
                           {reinterpret_cast<const void*>(&brownian<true>)}};
  return both[area];
}

}  // namespace fd::cuda
