// linear_step where all tensors have one type of 2 or 4 bytes and come in whole vectors of 16 bytes:
// everything in registers, the numbers of tensors known to the compiler.
//
// Outputs are stored the plain way: what reads them next is the network, and what fits stays in the second
// cache. An output may be an input: a thread has read all of a vector before it writes it, and no other
// thread looks there, which is also why inputs are not read through the read-only cache.
#pragma once
#include "elements.cuh"
#include "kernels.h"
#include "plan.h"

namespace fd::cuda {

// Vectors of each input that a thread has on the way before it uses the first: 64 to 128 bytes in all. Noise
// is work enough to hide one.
FD_HD constexpr int ahead_of(int n_in, bool noise) { return noise || n_in > 4 ? 1 : n_in > 2 ? 2 : 4; }

template <Dtype kType>
FD_HD void open4(const uint4& v, int half, float (&x)[4]) {
  if constexpr (kType == Dtype::f32) {
    x[0] = from_bits(v.x), x[1] = from_bits(v.y), x[2] = from_bits(v.z), x[3] = from_bits(v.w);
  } else {
    open<kType>(half ? v.z : v.x, x[0], x[1]);
    open<kType>(half ? v.w : v.y, x[2], x[3]);
  }
}
template <Dtype kType>
FD_HD void close4(const float (&y)[4], int half, uint4& v) {
  if constexpr (kType == Dtype::f32) {
    v = make_uint4(to_bits(y[0]), to_bits(y[1]), to_bits(y[2]), to_bits(y[3]));
  } else {
    (half ? v.z : v.x) = close<kType>(y[0], y[1]);
    (half ? v.w : v.y) = close<kType>(y[2], y[3]);
  }
}

template <int kOut, int kColumns>
FD_HD void read_matrix(const Step& s, int64_t m, float (&a)[kOut][kColumns]) {
  const float* from = static_cast<const float*>(s.A) + m * (kOut * kColumns);
  FD_UNROLL
  for (int j = 0; j < kOut; ++j) FD_UNROLL
  for (int i = 0; i < kColumns; ++i) a[j][i] = m < 0 ? nan_like(0.0f) : fixed(from + j * kColumns + i);
}

// What one thread does; g counts vectors, g.part too
template <Dtype kType, int kIn, int kOut, bool kNoise>
FD_HD void fast(const Step& s, const Grid& g, int64_t thread) {
  constexpr int kAhead = ahead_of(kIn, kNoise), kVector = lanes(kType), kColumns = kIn + kNoise;
  float a[kOut][kColumns];
  if (!s.sample_matrices) read_matrix<kOut, kColumns>(s, 0, a);
  for (Walk w(g, thread); w.more(g);) {
    uint4 x[kAhead][kIn];
    Walk first = w;
    FD_UNROLL
    for (int u = 0; u < kAhead; ++u) {
      if (first.more(g)) {
        FD_UNROLL
        for (int i = 0; i < kIn; ++i)
          x[u][i] = static_cast<const uint4*>(s.in[i])[s.constant[i] ? first.item : first.at];
      }
      first.next(g);
    }
    FD_UNROLL
    for (int u = 0; u < kAhead; ++u) {
      if (w.more(g)) {
        if (s.sample_matrices)
          read_matrix<kOut, kColumns>(
              s, matrix_of(s, w.sample, s.sample_matrices == 1 ? 0 : g.part.divide(w.item)), a);
        float z[kNoise ? kVector : 1];
        if constexpr (kNoise) {
          bool wanted = false;
          FD_UNROLL
          for (int j = 0; j < kOut; ++j) wanted = wanted || a[j][kIn] != 0.0f;
          FD_UNROLL
          for (int l = 0; l < kVector; ++l) z[l] = 0.0f;
          if (wanted)
            draw_blocks<kVector / 4>(Family::normal, source_of(s.rng, w.sample, s.draw[0], s.stream[0]),
                                     w.item * (kVector / 4), z);
        }
        uint4 y[kOut];
        FD_UNROLL
        for (int h = 0; h < kVector / 4; ++h) {
          float sum[kOut][4];
          FD_UNROLL
          for (int i = 0; i < kColumns; ++i) {
            float t[4];
            if (i < kIn) {
              open4<kType>(x[u][i < kIn ? i : 0], h, t);
            } else {
              FD_UNROLL
              for (int l = 0; l < 4; ++l) t[l] = z[(kNoise ? 4 * h + l : 0)];
            }
            FD_UNROLL
            for (int j = 0; j < kOut; ++j) FD_UNROLL
            for (int l = 0; l < 4; ++l) {
              const float p = product(a[j][i], t[l]);
              sum[j][l] = i ? add(sum[j][l], p) : p;
            }
          }
          FD_UNROLL
          for (int j = 0; j < kOut; ++j) close4<kType>(sum[j], h, y[j]);
        }
        FD_UNROLL
        for (int j = 0; j < kOut; ++j) static_cast<uint4*>(s.out[j])[w.at] = y[j];
      }
      w.next(g);
    }
  }
}

#ifdef __CUDACC__
template <Dtype kType, int kIn, int kOut, bool kNoise>
__global__ void __launch_bounds__(kThreads, 2)
    fast_step(const __grid_constant__ Step s, const __grid_constant__ Grid g) {
  fast<kType, kIn, kOut, kNoise>(s, g, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
}

template <Dtype kType, int kIn, int kOut>
Kernel& fast_kernel(bool noise) {
  static_assert(is_fast(kType, kIn, kOut));
  static Kernel both[] = {{reinterpret_cast<const void*>(&fast_step<kType, kIn, kOut, false>)},
                          {reinterpret_cast<const void*>(&fast_step<kType, kIn, kOut, true>)}};
  return both[noise];
}
template <Dtype kType, int kIn>
Kernel& fast_kernel(int n_out, bool noise) {
  if constexpr (is_fast(kType, kIn, 4)) {
    if (n_out == 4) return fast_kernel<kType, kIn, 4>(noise);
    if (n_out == 3) return fast_kernel<kType, kIn, 3>(noise);
  }
  return n_out == 2 ? fast_kernel<kType, kIn, 2>(noise) : fast_kernel<kType, kIn, 1>(noise);
}
template <Dtype kType>
Kernel& fast_kernel(int n_in, int n_out, bool noise) {
  switch (n_in) {
    case 1:
      return fast_kernel<kType, 1>(n_out, noise);
    case 2:
      return fast_kernel<kType, 2>(n_out, noise);
    case 3:
      return fast_kernel<kType, 3>(n_out, noise);
    case 4:
      return fast_kernel<kType, 4>(n_out, noise);
    case 5:
      return fast_kernel<kType, 5>(n_out, noise);
    case 6:
      return fast_kernel<kType, 6>(n_out, noise);
    case 7:
      return fast_kernel<kType, 7>(n_out, noise);
    default:
      return fast_kernel<kType, 8>(n_out, noise);
  }
}
#endif

}  // namespace fd::cuda
