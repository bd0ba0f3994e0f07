// linear_step on the device: which kernel a call gets, and the one for every call that same_type.cuh is not
// made for.
#include "launch.h"
#include "same_type.cuh"

namespace fd::cuda {
namespace {

struct General {
  Step s;
  Divider sample, run;  // groups of a sample; elements under one matrix
  int64_t groups;
};

// A group of up to four elements of one sample a thread: any types, any length, any alignment. kWhole: groups
// are full and lie on their own width, and a matrix does not change inside one.
// Two blocks an SM are asked for because without it ptxas stops short and spills a register or two.
template <class R, int kOut, bool kNoise, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2) general(const __grid_constant__ General a) {
  const int columns = a.s.n_in + (kNoise ? a.s.n_noise : 0);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; g < a.groups; g += stride) {
    const int64_t b = a.sample.divide(g), block = g - b * a.sample.d, e = 4 * block, at = b * a.s.E + e;
    const int count = kWhole ? 4 : static_cast<int>(a.s.E - e < 4 ? a.s.E - e : 4);
    Coefficients<R> A[kWhole ? 1 : 4];
#pragma unroll
    for (int l = 0; l < (kWhole ? 1 : 4); ++l) A[l] = Coefficients<R>(a.s, a.run, b, l < count ? e + l : e);
    R y[kOut][4];
    const auto column = [&](int i, const R(&x)[4]) {
#pragma unroll
      for (int l = 0; l < 4; ++l) {
#pragma unroll
        for (int j = 0; j < kOut; ++j) {
          const R p = product(A[kWhole ? 0 : l][j * columns + i], x[l]);
          y[j][l] = i ? add(y[j][l], p) : p;
        }
      }
    };
#pragma unroll 2
    for (int i = 0; i < a.s.n_in; ++i) {
      R x[4];
      read_any<4, kWhole>(a.s.in_type[i], a.s.in[i], a.s.constant[i] ? e : at, count, x);
      column(i, x);
    }
    if constexpr (kNoise) {
      for (int n = 0; n < a.s.n_noise; ++n) {
        float z[4];
        draw(a.s.rng, b, a.s.draw[n], a.s.stream[n], block, Family::normal, z);
        const R x[4] = {z[0], z[1], z[2], z[3]};
        column(a.s.n_in + n, x);
      }
    }
#pragma unroll
    for (int j = 0; j < kOut; ++j) write_any<4, kWhole>(a.s.out_type, a.s.out[j], at, count, y[j]);
  }
}

template <class R, int kOut>
void launch_out(const General& a, bool whole, int blocks, cudaStream_t stream) {
  switch ((a.s.n_noise ? 2 : 0) + whole) {
    case 0:
      return general<R, kOut, false, false><<<blocks, kThreads, 0, stream>>>(a);
    case 1:
      return general<R, kOut, false, true><<<blocks, kThreads, 0, stream>>>(a);
    case 2:
      return general<R, kOut, true, false><<<blocks, kThreads, 0, stream>>>(a);
    case 3:
      return general<R, kOut, true, true><<<blocks, kThreads, 0, stream>>>(a);
  }
}
template <class R>
void launch_general(const General& a, bool whole, int blocks, cudaStream_t stream) {
  switch (a.s.n_out) {
    case 1:
      return launch_out<R, 1>(a, whole, blocks, stream);
    case 2:
      return launch_out<R, 2>(a, whole, blocks, stream);
    case 3:
      return launch_out<R, 3>(a, whole, blocks, stream);
    case 4:
      return launch_out<R, 4>(a, whole, blocks, stream);
  }
}

}  // namespace

int run(const Step& s, int device, void* stream_) {
  const int64_t elements = s.B * s.E;
  if (elements == 0) return cudaSuccess;
  const OnDevice on(device);
  if (on.error != cudaSuccess) return on.error;
  const auto stream = static_cast<cudaStream_t>(stream_);
  const int64_t run = s.sample_matrices ? s.E / s.sample_matrices : s.E;
  const int width = width_of(s.out_type), count = 16 / width;

  bool same = width <= 4 && !s.wide && s.n_in <= kKnownIn && s.E % count == 0 && run % count == 0,
       constants = false;
  bool whole = s.E % 4 == 0 && run % 4 == 0;
  for (int i = 0; i < s.n_in; ++i) {
    same = same && s.in_type[i] == s.out_type && aligned(s.in[i], 16);
    whole = whole && aligned(s.in[i], 4 * width_of(s.in_type[i]) < 16 ? 8 : 16);
    constants = constants || s.constant[i];
  }
  for (int j = 0; j < s.n_out; ++j) {
    same = same && aligned(s.out[j], 16);
    whole = whole && aligned(s.out[j], width == 2 ? 8 : 16);
  }
  if (same) {
    const int64_t vectors = elements / count;
    const SameType a{s, Divider(s.E / count), Divider(run), vectors,
                     s.n_noise || s.sample_matrices || constants};
    const int blocks = blocks_for(vectors, device);
    if (s.out_type == Dtype::f32) launch_f32(a, blocks, stream);
    else if (s.out_type == Dtype::f16) launch_f16(a, blocks, stream);
    else launch_bf16(a, blocks, stream);
  } else {
    const int64_t groups = s.B * blocks_of(s.E);
    const General a{s, Divider(blocks_of(s.E)), Divider(run), groups};
    const int blocks = blocks_for(groups, device);
    if (s.wide) launch_general<double>(a, whole, blocks, stream);
    else launch_general<float>(a, whole, blocks, stream);
  }
  return cudaGetLastError();
}

}  // namespace fd::cuda
