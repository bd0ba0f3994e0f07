#include "general.cuh"
#include "kernels.h"

namespace fd::cuda {
namespace {

template <class R, bool kShort>
__global__ void __launch_bounds__(kThreads, 2)
    general_kernel(const __grid_constant__ Step s, const __grid_constant__ Grid g) {
  general<R, kShort>(s, g, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
}

__global__ void __launch_bounds__(kThreads)
    fill_noise(const __grid_constant__ Fill f, const __grid_constant__ Grid g) {
  fill(f, g, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
}

__global__ void __launch_bounds__(kThreads)
    fill_positions(const __grid_constant__ MappedFill f, const __grid_constant__ Grid g) {
  fill_mapped(f, g, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
}

}  // namespace

Kernel& general_step(bool wide, bool short_parts) {
  static Kernel all[2][2] = {{{reinterpret_cast<const void*>(&general_kernel<float, false>)},
                              {reinterpret_cast<const void*>(&general_kernel<float, true>)}},
                             {{reinterpret_cast<const void*>(&general_kernel<double, false>)},
                              {reinterpret_cast<const void*>(&general_kernel<double, true>)}}};
  return all[wide][short_parts];
}

Kernel& fill_kernel(bool mapped) {
  static Kernel both[2] = {{reinterpret_cast<const void*>(&fill_noise)},
                           {reinterpret_cast<const void*>(&fill_positions)}};
  return both[mapped];
}

}  // namespace fd::cuda
