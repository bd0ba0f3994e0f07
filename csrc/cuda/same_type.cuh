// linear_step where all tensors have one type of at most 32 bits: 16 bytes of each input in registers, then
// the outputs.
#pragma once
#include "device.cuh"

namespace fd::cuda {

struct SameType {
  Step s;
  Divider sample, run;  // vectors of a sample; elements under one matrix
  int64_t vectors;
  bool local;  // something depends on the sample: noise, matrices, constants
};

template <class S, int kIn, int kOut, bool kNoise>
__global__ void __launch_bounds__(kThreads) same_type(const __grid_constant__ SameType a) {
  constexpr int kCount = 16 / sizeof(S);
  const int columns = kIn + (kNoise ? a.s.n_noise : 0);
  float c[kOut][kIn];
  uint32_t wanted = 0;  // inputs with a coefficient that is not zero: the others are not read
  const auto fetch = [&](const Coefficients<float>& A) {
    wanted = 0;
#pragma unroll
    for (int j = 0; j < kOut; ++j)
#pragma unroll
      for (int i = 0; i < kIn; ++i) {
        c[j][i] = A[j * columns + i];
        wanted |= (c[j][i] != 0.0f) << i;
      }
  };
  if (!a.s.sample_matrices) fetch(Coefficients<float>(a.s, a.run, 0, 0));

  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t v = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; v < a.vectors; v += stride) {
    const int64_t b = a.local ? a.sample.divide(v) : 0,
                  w = v - b * a.sample.d;  // w: the vector inside its sample
    Coefficients<float> A(a.s, a.run, b, w * kCount);
    if (a.s.sample_matrices) fetch(A);
    Pack<S, kCount> x[kIn];
#pragma unroll
    for (int i = 0; i < kIn; ++i)
      if (wanted >> i & 1) x[i] = static_cast<const Pack<S, kCount>*>(a.s.in[i])[a.s.constant[i] ? w : v];
      else x[i] = Pack<S, kCount>{};
    float y[kOut][kCount];
#pragma unroll
    for (int i = 0; i < kIn; ++i)
#pragma unroll
      for (int j = 0; j < kOut; ++j)
#pragma unroll
        for (int l = 0; l < kCount; ++l) {
          const float p = product(c[j][i], up(x[i].v[l]));
          y[j][l] = i ? add(y[j][l], p) : p;
        }
    if constexpr (kNoise) {
      for (int n = 0; n < a.s.n_noise; ++n) {
        float k[kOut];
        bool any = false;
#pragma unroll
        for (int j = 0; j < kOut; ++j) k[j] = A[j * columns + kIn + n], any |= k[j] != 0.0f;
#pragma unroll
        for (int q = 0; q < kCount / 4; ++q) {
          float z[4] = {};
          if (any) draw(a.s.rng, b, a.s.draw[n], a.s.stream[n], w * (kCount / 4) + q, Family::normal, z);
#pragma unroll
          for (int j = 0; j < kOut; ++j)
#pragma unroll
            for (int l = 0; l < 4; ++l) y[j][4 * q + l] = add(y[j][4 * q + l], product(k[j], z[l]));
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kOut; ++j) write<S, kCount, true>(a.s.out[j], v * kCount, kCount, y[j]);
  }
}

template <class S, int kIn, int kOut>
void launch_known(const SameType& a, int blocks, cudaStream_t stream) {
  if (a.s.n_noise) same_type<S, kIn, kOut, true><<<blocks, kThreads, 0, stream>>>(a);
  else same_type<S, kIn, kOut, false><<<blocks, kThreads, 0, stream>>>(a);
}
template <class S, int kIn>
void launch_in(const SameType& a, int blocks, cudaStream_t stream) {
  switch (a.s.n_out) {
    case 1:
      return launch_known<S, kIn, 1>(a, blocks, stream);
    case 2:
      return launch_known<S, kIn, 2>(a, blocks, stream);
    case 3:
      return launch_known<S, kIn, 3>(a, blocks, stream);
    case 4:
      return launch_known<S, kIn, 4>(a, blocks, stream);
  }
}
template <class S>
void launch_same(const SameType& a, int blocks, cudaStream_t stream) {
  switch (a.s.n_in) {
    case 1:
      return launch_in<S, 1>(a, blocks, stream);
    case 2:
      return launch_in<S, 2>(a, blocks, stream);
    case 3:
      return launch_in<S, 3>(a, blocks, stream);
    case 4:
      return launch_in<S, 4>(a, blocks, stream);
    case 5:
      return launch_in<S, 5>(a, blocks, stream);
    case 6:
      return launch_in<S, 6>(a, blocks, stream);
  }
}
constexpr int kKnownIn = 6;

// One file each, so that they compile side by side
void launch_f32(const SameType& a, int blocks, cudaStream_t stream);
void launch_f16(const SameType& a, int blocks, cudaStream_t stream);
void launch_bf16(const SameType& a, int blocks, cudaStream_t stream);

}  // namespace fd::cuda
