// Sums over a sample (core/error_norm.h has the tree): a block of threads joins a chunk, then one joins a sample's
// chunks. Thread t reads the elements 4 t .. 4 t + 3, one block of the noise, in one access where samples begin
// on a vector's boundary; the tree wants t, t + 256, t + 512, t + 768, so terms change hands in shared memory.
#pragma once
#include "../core/linear_step.h"
#include "../sums.h"
#include "general.cuh"
#include "kernels.h"

namespace fd::cuda {
namespace {

constexpr int kFour = kNormChunk / kThreads;
static_assert(kFour == 4, "");

struct Piece {  // of a thread: `count` elements from e on of a sample
  int64_t sample, chunk, e;
  int count;
  bool whole;
};

template <class Job>
__device__ Piece piece(const Job& s, int64_t g, int64_t chunks, bool aligned) {
  Piece p;
  p.sample = g / chunks, p.chunk = g - p.sample * chunks;
  p.e = p.chunk * kNormChunk + kFour * static_cast<int64_t>(threadIdx.x);
  const int64_t left = s.E - p.e;
  p.count = left < 0 ? 0 : left < kFour ? static_cast<int>(left) : kFour;
  p.whole = aligned && p.count == kFour;
  return p;
}

template <class R>
__device__ void numbers(Dtype type, const void* data, int64_t at, const Piece& p, R (&x)[kFour]) {
  Raw<R> raw;
  bool taken = false;
  if constexpr (sizeof(R) == sizeof(float)) {  // said so: the compiler was seen to cut the plain access into four
    taken = p.whole && type == Dtype::f32;
    if (taken) take(raw.w, fixed(reinterpret_cast<const uint4*>(static_cast<const float*>(data) + at)));
  }
  if (!taken) load(type, data, at, p.count, p.whole, raw);
  widen(type, raw, x);
}

// Column i of the terms, tensors then noise
template <class R>
__device__ void column(const Terms& t, int i, const Piece& p, int64_t E, R (&x)[kFour]) {
  if (i < t.n_in) return numbers(t.type[i], t.in[i], (t.constant[i] ? 0 : p.sample * E) + p.e, p, x);
  float z[kFour];
  draw_blocks<1>(Family::normal, source_of(t.rng, p.sample, t.draw[i - t.n_in], t.stream[i - t.n_in]), p.e / kFour, z);
  FD_UNROLL
  for (int l = 0; l < kFour; ++l) x[l] = z[l];
}

// The tree over a block's terms; what is past the end is zero. Of thread 0.
__device__ inline double join_terms(const double (&q)[kFour], const Piece& p, double* shared) {
  const int t = threadIdx.x;
  FD_UNROLL
  for (int l = 0; l < kFour; ++l) shared[kFour * t + l] = l < p.count ? q[l] : 0.0;
  __syncthreads();
  double x = add(add(shared[t], shared[t + 2 * kThreads]), add(shared[t + kThreads], shared[t + 3 * kThreads]));
  __syncthreads();
  shared[t] = x;
  __syncthreads();
  for (int half = kThreads / 2; half >= 32; half /= 2) {
    if (t < half) shared[t] = add(shared[t], shared[t + half]);
    __syncthreads();
  }
  x = t < 32 ? shared[t] : 0.0;
  if (t < 32)
    for (int half = 16; half; half /= 2) x = add(x, __shfl_down_sync(0xffffffffu, x, half));
  __syncthreads();
  return x;
}

// What is left of n partial results, of thread 0
__device__ inline double join_chunks(double* x, int64_t n, double* shared) {
  for (; n > 1; n = chunks_of(n))
    for (int64_t c = 0; c < chunks_of(n); ++c) {
      double q[kFour];
      const int64_t first = c * kNormChunk + kFour * static_cast<int64_t>(threadIdx.x);
      const int64_t left = n - first;
      Piece p{};
      p.count = left < 0 ? 0 : left < kFour ? static_cast<int>(left) : kFour;
      FD_UNROLL
      for (int l = 0; l < kFour; ++l) q[l] = l < p.count ? x[first + l] : 0.0;
      const double all = join_terms(q, p, shared);  // all have read before one writes
      if (threadIdx.x == 0) x[c] = all;
      __syncthreads();
    }
  return x[0];
}

__device__ inline void put(const Sums& s, int64_t at, double x) {
  if (s.wide) static_cast<double*>(s.out)[at] = x;
  else static_cast<float*>(s.out)[at] = static_cast<float>(x);
}

template <class R>
FD_HD R table(const void* p, int64_t at) {
  return fixed(static_cast<const R*>(p) + at);
}

}  // namespace
}  // namespace fd::cuda
