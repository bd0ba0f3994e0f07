// Random numbers of one draw and stream: a block of four a thread.
#include "device.cuh"
#include "launch.h"

namespace fd::cuda {
namespace {

struct Filling {
  Fill f;
  Divider sample;
  int64_t groups;
};

template <class S, Family kFamily, bool kWhole>
__global__ void __launch_bounds__(kThreads) fill(const __grid_constant__ Filling a) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; g < a.groups; g += stride) {
    const int64_t b = a.sample.divide(g), block = g - b * a.sample.d, e = 4 * block;
    float z[4];
    draw(a.f.rng, b, a.f.draw, a.f.stream, block, kFamily, z);
    write<S, 4, kWhole>(a.f.out, b * a.f.E + e, static_cast<int>(a.f.E - e < 4 ? a.f.E - e : 4), z);
  }
}

template <class S>
void launch(const Filling& a, bool whole, int blocks, cudaStream_t stream) {
  switch ((a.f.family == Family::uniform ? 2 : 0) + whole) {
    case 0:
      return fill<S, Family::normal, false><<<blocks, kThreads, 0, stream>>>(a);
    case 1:
      return fill<S, Family::normal, true><<<blocks, kThreads, 0, stream>>>(a);
    case 2:
      return fill<S, Family::uniform, false><<<blocks, kThreads, 0, stream>>>(a);
    case 3:
      return fill<S, Family::uniform, true><<<blocks, kThreads, 0, stream>>>(a);
  }
}

}  // namespace

int run(const Fill& f, int device, void* stream_) {
  const int64_t groups = f.B * blocks_of(f.E);
  if (groups == 0) return cudaSuccess;
  const OnDevice on(device);
  if (on.error != cudaSuccess) return on.error;
  const Filling a{f, Divider(blocks_of(f.E)), groups};
  const bool whole = f.E % 4 == 0 && aligned(f.out, width_of(f.out_type) == 2 ? 8 : 16);
  const int blocks = blocks_for(groups, device);
  const auto stream = static_cast<cudaStream_t>(stream_);
  switch (f.out_type) {
    case Dtype::f32:
      launch<float>(a, whole, blocks, stream);
      break;
    case Dtype::f16:
      launch<__half>(a, whole, blocks, stream);
      break;
    case Dtype::bf16:
      launch<__nv_bfloat16>(a, whole, blocks, stream);
      break;
    default:
      launch<double>(a, whole, blocks, stream);
      break;
  }
  return cudaGetLastError();
}

const char* message(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int device_count(int& error) {
  int n = 0;
  error = cudaGetDeviceCount(&n);
  return error == cudaSuccess ? n : 0;
}

}  // namespace fd::cuda
