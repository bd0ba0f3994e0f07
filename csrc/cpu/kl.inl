// gaussian_kl: nats of a chunk joined, slopes by the prediction and by the variance written on the way
#pragma once
#include "terms.inl"

namespace fd::FD_ISA {
namespace {

template <bool kBin>
double kl_chunk(const Kl& s, const Piece& p) {
  alignas(64) double tile[4][kNormChunk], nats[kNormChunk], g[2][kNormChunk];
  const int64_t at = p.sample * s.E + p.e, m = p.m;
  const double w = s.w ? s.w[p.sample] : 1.0, *C = s.C + 6 * p.sample;
  if (w == 0.0) {
    for (int64_t l = 0; l < m; ++l) g[0][l] = 0.0;
    for (int k = 0; k < 2; ++k)
      if (s.slope[k]) narrow(s.slope_type[k], g[0], s.slope[k], at, m);
    return 0.0;
  }
  const double* x[4] = {};
  for (int i = 0; i < 4; ++i) {
    const bool read = i == 0 ? C[2] != 0.0 : i == 1 ? s.in[1] && C[5] != 0.0 : i == 2 ? kBin || C[1] != 0.0 : C[0] != 0.0;
    if (read) x[i] = numbers(s.type[i], s.in[i], at, m, tile[i]);
    else
      for (int64_t l = 0; l < m; ++l) tile[i][l] = 0.0;
    if (!read) x[i] = tile[i];
  }
  const double c0 = C[0], c1 = C[1], c2 = C[2], l1 = C[3], low = C[4], span = s.in[1] ? C[5] : 0.0;
  const double scale = quotient(w, s.count), half = s.half, end = 1.0 - 0.5 * half;
  for (int64_t l = 0; l < m; ++l) {
    const double delta = add(add(mul(c0, x[3][l]), mul(c1, x[2][l])), mul(c2, x[0][l]));
    const double log_var = add(low, mul(span, x[1][l]));
    const Nats n = kBin ? bin_of(delta, log_var, half, x[2][l] < -end, x[2][l] > end) : kl_of(delta, l1, log_var);
    nats[l] = n.value;
    g[0][l] = mul(scale, mul(c2, n.by_delta)), g[1][l] = mul(scale, mul(span, n.by_log_var));
  }
  for (int k = 0; k < 2; ++k)
    if (s.slope[k]) narrow(s.slope_type[k], g[k], s.slope[k], at, m);
  return tree(m, [&](int64_t l) __attribute__((always_inline)) { return nats[l]; });
}

}  // namespace

void kl_range(const Kl& s, int64_t first, int64_t last) {
  for (int64_t g = first; g < last; ++g) {
    const Piece p = piece(s, g);
    joined(s, p, 0) = s.is_bin && s.is_bin[p.sample] ? kl_chunk<true>(s, p) : kl_chunk<false>(s, p);
  }
}

}  // namespace fd::FD_ISA
