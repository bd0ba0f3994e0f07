// gaussian_kl (core/gaussian_kl.h): nats of a chunk joined, slopes written on the way.
#include "sums.cuh"

namespace fd::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) kl_chunk(const __grid_constant__ Kl s, int64_t chunks, bool aligned) {
  __shared__ double shared[kNormChunk];
  const double end = 1.0 - 0.5 * s.half;
  for (int64_t g = blockIdx.x; g < s.B * chunks; g += gridDim.x) {
    const Piece p = piece(s, g, chunks, aligned);
    const int64_t at = p.sample * s.E + p.e;
    const double w = s.w ? fixed(s.w + p.sample) : 1.0;
    const double* C = s.C + 6 * p.sample;
    const bool bin = s.is_bin && fixed(s.is_bin + p.sample);
    double delta[kFour], log_var[kFour], value[kFour], x[kFour], q[kFour], slopes[2][kFour];
    FD_UNROLL
    for (int l = 0; l < kFour; ++l) delta[l] = value[l] = x[l] = q[l] = slopes[0][l] = slopes[1][l] = 0.0;
    if (w != 0.0) {
      const double c0 = C[0], c1 = C[1], c2 = C[2], l1 = C[3], low = C[4], span = s.in[1] ? C[5] : 0.0;
      const double scale = quotient(w, s.count);
      if (c0 != 0.0) numbers(s.type[3], s.in[3], at, p, x);
      if (bin || c1 != 0.0) numbers(s.type[2], s.in[2], at, p, value);
      FD_UNROLL
      for (int l = 0; l < kFour; ++l) delta[l] = add(mul(c0, x[l]), mul(c1, value[l])), x[l] = 0.0;
      if (c2 != 0.0) numbers(s.type[0], s.in[0], at, p, x);
      FD_UNROLL
      for (int l = 0; l < kFour; ++l) delta[l] = add(delta[l], mul(c2, x[l])), x[l] = 0.0;
      if (span != 0.0) numbers(s.type[1], s.in[1], at, p, x);
      FD_UNROLL
      for (int l = 0; l < kFour; ++l) log_var[l] = add(low, mul(span, x[l]));
      FD_UNROLL
      for (int l = 0; l < kFour; ++l) {
        const Nats n = bin ? bin_of(delta[l], log_var[l], s.half, value[l] < -end, value[l] > end)
                           : kl_of(delta[l], l1, log_var[l]);
        q[l] = n.value;
        slopes[0][l] = mul(scale, mul(c2, n.by_delta)), slopes[1][l] = mul(scale, mul(span, n.by_log_var));
      }
    }
    FD_UNROLL
    for (int k = 0; k < 2; ++k)
      if (s.slope[k]) store(s.slope_type[k], s.slope[k], at, p.count, p.whole, slopes[k]);
    const double all = join_terms(q, p, shared);
    if (threadIdx.x == 0) s.work[g] = all;
  }
}

__global__ void __launch_bounds__(kThreads) kl_end(const __grid_constant__ Kl s, int64_t chunks, bool) {
  __shared__ double shared[kNormChunk];
  for (int64_t b = blockIdx.x; b < s.B; b += gridDim.x) {
    const double sum = s.E ? add(join_chunks(s.work + b * chunks, chunks, shared), 0.0) : 0.0;
    if (threadIdx.x == 0) put(s, b, weighted(s.w ? fixed(s.w + b) : 1.0, sum, s.count));
  }
}

}  // namespace

Kernel& kl_kernel(bool end) {
  static Kernel all[2] = {{reinterpret_cast<const void*>(&kl_chunk)}, {reinterpret_cast<const void*>(&kl_end)}};
  return all[end];
}

}  // namespace fd::cuda
