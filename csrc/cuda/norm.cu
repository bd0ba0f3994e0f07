// error_norm: a block of threads joins a chunk of a sample, then one joins the chunks (core/error_norm.h).
// Thread t has the elements t, t + 256, t + 512, t + 768: the first two halvings are its own.
#include "../core/convert.h"
#include "../core/linear_step.h"
#include "elements.cuh"
#include "kernels.h"

namespace fd::cuda {
namespace {

constexpr int kOwn = kNormChunk / kThreads;
static_assert(kOwn == 4, "");

template <class R>
FD_HD R number(Dtype type, const void* p, int64_t at) {
  if (type == Dtype::f32) return static_cast<const float*>(p)[at];
  if (type == Dtype::bf16) return from_bf16(static_cast<const uint16_t*>(p)[at]);
  if (type == Dtype::f16) return from_half(static_cast<const uint16_t*>(p)[at]);
  if constexpr (sizeof(R) == 8) return static_cast<const double*>(p)[at];
  return R(0);
}

// The thread's elements of a tensor; past the end, anything
template <class R>
FD_HD void numbers(Dtype type, const void* p, int64_t at, int thread, int count, R (&x)[kOwn]) {
  FD_UNROLL
  for (int k = 0; k < kOwn; ++k) {
    const int l = thread + k * kThreads;
    x[k] = l < count ? number<R>(type, p, at + l) : R(0);
  }
}

template <bool kLargest>
__device__ double join_block(double own, double* shared) {
  const int t = threadIdx.x;
  shared[t] = own;
  __syncthreads();
  for (int half = kThreads / 2; half >= 32; half /= 2) {
    if (t < half) shared[t] = join<kLargest>(shared[t], shared[t + half]);
    __syncthreads();
  }
  double x = t < 32 ? shared[t] : 0.0;
  if (t < 32)
    for (int half = 16; half; half /= 2) x = join<kLargest>(x, __shfl_down_sync(0xffffffffu, x, half));
  __syncthreads();
  return x;  // of thread 0
}

template <class R, bool kLargest>
__global__ void __launch_bounds__(kThreads) norm_chunk(const __grid_constant__ Norm n, int64_t chunks) {
  __shared__ double shared[kThreads];
  const R atol = static_cast<R>(n.atol), rtol = static_cast<R>(n.rtol);
  for (int64_t g = blockIdx.x; g < n.B * chunks; g += gridDim.x) {
    const int64_t sample = g / chunks, e = (g - sample * chunks) * kNormChunk, at = sample * n.E + e;
    const int t = threadIdx.x;
    const int count = n.E - e < kNormChunk ? static_cast<int>(n.E - e) : kNormChunk;
    R sum[kOwn], x[kOwn], y[kOwn];
#pragma unroll 1
    for (int i = 0; i < n.n_in; ++i) {
      const int64_t k = sample * n.C_step + i;
      R c;
      if constexpr (sizeof(R) == 8) c = n.C_wide ? static_cast<const double*>(n.C)[k] : static_cast<const float*>(n.C)[k];
      else c = static_cast<const float*>(n.C)[k];
      numbers(n.in_type[i], n.in[i], at, t, count, x);
      FD_UNROLL
      for (int l = 0; l < kOwn; ++l) sum[l] = i ? add(sum[l], product(c, x[l])) : product(c, x[l]);
    }
    numbers(n.a_type, n.a, at, t, count, x);
    numbers(n.b_type, n.b, at, t, count, y);
    double q[kOwn];
    FD_UNROLL
    for (int l = 0; l < kOwn; ++l) {
      q[l] = 0.0;
      if (t + l * kThreads < count) q[l] = excess<kLargest>(sum[l], allowed_error(x[l], y[l], atol, rtol));
    }
    const double own = join<kLargest>(join<kLargest>(q[0], q[2]), join<kLargest>(q[1], q[3]));
    const double all = join_block<kLargest>(own, shared);
    if (t == 0) n.work[g] = all;
  }
}

template <bool kLargest>
__global__ void __launch_bounds__(kThreads) norm_end(const __grid_constant__ Norm n, int64_t chunks) {
  __shared__ double shared[kThreads];
  const int t = threadIdx.x;
  for (int64_t b = blockIdx.x; b < n.B; b += gridDim.x) {
    double* x = n.work + b * chunks;
    for (int64_t left = chunks; left > 1; left = chunks_of(left))
      for (int64_t c = 0; c < chunks_of(left); ++c) {
        double q[kOwn];
        FD_UNROLL
        for (int l = 0; l < kOwn; ++l) {
          const int64_t i = c * kNormChunk + t + l * kThreads;
          q[l] = i < left ? x[i] : 0.0;
        }
        const double own = join<kLargest>(join<kLargest>(q[0], q[2]), join<kLargest>(q[1], q[3]));
        const double all = join_block<kLargest>(own, shared);  // all have read before one writes
        if (t == 0) x[c] = all;
        __syncthreads();
      }
    if (t == 0) n.out[b] = norm_of<kLargest>(x[0], n.E);
  }
}

}  // namespace

Kernel& norm_kernel(bool wide, bool largest) {
  static Kernel all[2][2] = {{{reinterpret_cast<const void*>(&norm_chunk<float, false>)},
                              {reinterpret_cast<const void*>(&norm_chunk<float, true>)}},
                             {{reinterpret_cast<const void*>(&norm_chunk<double, false>)},
                              {reinterpret_cast<const void*>(&norm_chunk<double, true>)}}};
  return all[wide][largest];
}

Kernel& norm_finish(bool largest) {
  static Kernel all[2] = {{reinterpret_cast<const void*>(&norm_end<false>)},
                          {reinterpret_cast<const void*>(&norm_end<true>)}};
  return all[largest];
}

}  // namespace fd::cuda
