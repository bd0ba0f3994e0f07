// regression_loss (core/regression_loss.h): penalties of a chunk joined, slopes written on the way.
#include "sums.cuh"

namespace fd::cuda {
namespace {

template <class R>
__global__ void __launch_bounds__(kThreads) loss_chunk(const __grid_constant__ Loss s, int64_t chunks, bool aligned) {
  __shared__ double shared[kNormChunk];
  const R c = static_cast<R>(s.c);
  for (int64_t g = blockIdx.x; g < s.B * chunks; g += gridDim.x) {
    const Piece p = piece(s, g, chunks, aligned);
    const int64_t at = p.sample * s.E + p.e;
    const R w = s.w ? table<R>(s.w, p.sample) : R(1);
    R d[kFour], x[kFour], slopes[kFour];
    double q[kFour];
    FD_UNROLL
    for (int l = 0; l < kFour; ++l) d[l] = R(0), slopes[l] = R(0), q[l] = 0.0;
    if (w != R(0)) {
#pragma unroll 1
      for (int i = 0; i < s.terms.n_in + s.terms.n_noise; ++i) {
        const R a = table<R>(s.C, p.sample * s.C_step + i);
        FD_UNROLL
        for (int l = 0; l < kFour; ++l) x[l] = R(0);
        if (a != R(0)) column(s.terms, i, p, s.E, x);
        FD_UNROLL
        for (int l = 0; l < kFour; ++l) d[l] = i ? add(d[l], product(a, x[l])) : product(a, x[l]);
      }
      numbers(s.pred_type, s.pred, at, p, x);
      const R scale = s.rho == Rho::pseudo_huber ? R(1) : static_cast<R>(quotient(static_cast<double>(w), s.count));
      FD_UNROLL
      for (int l = 0; l < kFour; ++l) {
        d[l] = add(x[l], -d[l]);
        q[l] = penalty(s.rho, d[l], c), slopes[l] = mul(scale, slope(s.rho, d[l], c));
      }
      if (s.mask) {
        numbers(s.mask_type, s.mask, s.mask_constant ? p.e : at, p, x);
        FD_UNROLL
        for (int l = 0; l < kFour; ++l) {
          q[l] = x[l] == R(0) ? 0.0 : mul(static_cast<double>(x[l]), q[l]);
          slopes[l] = x[l] == R(0) ? R(0) : mul(x[l], slopes[l]);
        }
      }
    }
    if (s.slope) store(s.slope_type, s.slope, at, p.count, p.whole, slopes);
    const double all = join_terms(q, p, shared);
    if (threadIdx.x == 0) s.work[g] = all;
  }
}

__global__ void __launch_bounds__(kThreads) loss_end(const __grid_constant__ Loss s, int64_t chunks, bool) {
  __shared__ double shared[kNormChunk];
  for (int64_t b = blockIdx.x; b < s.B; b += gridDim.x) {
    const double sum = s.E ? add(join_chunks(s.work + b * chunks, chunks, shared), 0.0) : 0.0;
    if (threadIdx.x) continue;
    double w = 1.0;
    if (s.w) w = s.wide ? table<double>(s.w, b) : table<float>(s.w, b);
    put(s, b, weighted(w, of_sample(s.rho, sum, s.c), s.count));
  }
}

}  // namespace

Kernel& loss_kernel(bool wide, bool end) {
  static Kernel all[3] = {{reinterpret_cast<const void*>(&loss_chunk<float>)},
                          {reinterpret_cast<const void*>(&loss_chunk<double>)},
                          {reinterpret_cast<const void*>(&loss_end)}};
  return all[end ? 2 : wide];
}

}  // namespace fd::cuda
