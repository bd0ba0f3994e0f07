// dots: products of a chunk's rows joined. Tensors are read once, into shared memory, one vector a thread each.
#include "sums.cuh"

namespace fd::cuda {
namespace {

// A vector or row of the thread's four elements; which ones are needed was worked out on the host
template <class R>
__device__ void vector(const Dots& s, int i, const Piece& p, R (&x)[kFour]) {
  const int n_in = s.terms.n_in;
  FD_UNROLL
  for (int l = 0; l < kFour; ++l) x[l] = R(1);
  if (i != n_in) column(s.terms, i < n_in ? i : i - 1, p, s.E, x);
}

template <class R>
__device__ void row(const Dots& s, int i, const Piece& p, R (&u)[kFour]) {
  if (!s.R) return vector(s, i, p, u);
  const int n = s.terms.n_in + 1 + s.terms.n_noise;
  R x[kFour];
  FD_UNROLL
  for (int l = 0; l < kFour; ++l) u[l] = R(0);
#pragma unroll 1
  for (int k = 0; k < n; ++k) {
    const R a = table<R>(s.R, p.sample * s.R_step + i * n + k);
    FD_UNROLL
    for (int l = 0; l < kFour; ++l) x[l] = R(0);
    if (a != R(0)) vector(s, k, p, x);
    FD_UNROLL
    for (int l = 0; l < kFour; ++l) u[l] = k ? add(u[l], product(a, x[l])) : product(a, x[l]);
  }
}

// Rows lie in shared memory, four elements of a thread together, where only that thread looks
template <class R>
__global__ void __launch_bounds__(kThreads) dots_chunk(const __grid_constant__ Dots s, int64_t chunks, bool aligned) {
  __shared__ double shared[kNormChunk];
  extern __shared__ __align__(16) unsigned char memory[];
  R* rows = reinterpret_cast<R*>(memory);
  uint32_t needed = 0;
  for (int k = 0; k < s.n; ++k) needed |= 1u << s.first[k] | 1u << s.second[k];
  for (int64_t g = blockIdx.x; g < s.B * chunks; g += gridDim.x) {
    const Piece p = piece(s, g, chunks, aligned);
    R* own = rows + kFour * threadIdx.x;
#pragma unroll 1
    for (int i = 0, at = 0; i < s.rows; ++i) {
      if (!(needed >> i & 1)) continue;
      R u[kFour];
      row(s, i, p, u);
      FD_UNROLL
      for (int l = 0; l < kFour; ++l) own[at * kNormChunk + l] = u[l];
      ++at;
    }
#pragma unroll 1
    for (int k = 0; k < s.n; ++k) {
      const R* a = own + __popc(needed & ((1u << s.first[k]) - 1)) * kNormChunk;
      const R* b = own + __popc(needed & ((1u << s.second[k]) - 1)) * kNormChunk;
      double q[kFour];
      FD_UNROLL
      for (int l = 0; l < kFour; ++l) {
        q[l] = mul(static_cast<double>(a[l]), static_cast<double>(b[l]));
        if (s.size[k]) q[l] = magnitude(q[l]);
      }
      const double all = join_terms(q, p, shared);
      if (threadIdx.x == 0) s.work[(p.sample * s.n + k) * chunks + p.chunk] = all;
    }
  }
}

__global__ void __launch_bounds__(kThreads) dots_end(const __grid_constant__ Dots s, int64_t chunks, bool) {
  __shared__ double shared[kNormChunk];
  for (int64_t b = blockIdx.x; b < s.B; b += gridDim.x)
    for (int k = 0; k < s.n; ++k) {
      const double sum = s.E ? add(join_chunks(s.work + (b * s.n + k) * chunks, chunks, shared), 0.0) : 0.0;
      if (threadIdx.x) continue;
      if (s.out) put(s, b * s.n + k, sum);
      if (s.total) s.total[b] = add(s.total[b], mul(s.weights[b * s.weights_step + k], sum));
    }
}

}  // namespace

Kernel& dots_kernel(bool wide, bool end) {
  static Kernel all[3] = {{reinterpret_cast<const void*>(&dots_chunk<float>)},
                          {reinterpret_cast<const void*>(&dots_chunk<double>)},
                          {reinterpret_cast<const void*>(&dots_end)}};
  return all[end ? 2 : wide];
}

}  // namespace fd::cuda
