// regression_loss: penalties of a chunk joined, slopes written on the way (core/regression_loss.h)
#pragma once
#include <type_traits>
#include "terms.inl"

namespace fd::FD_ISA {
namespace {

// d = y - a x, and the slopes where they are wanted
template <Rho kRho, class R>
FD_HD void distances(const R* y, R a, const R* x, int64_t m, R* d, R* __restrict to, R scale, R c) {
  if (to) {
    for (int64_t l = 0; l < m; ++l) d[l] = y[l] - a * x[l], to[l] = scale * slope(kRho, d[l], c);
  } else {
    for (int64_t l = 0; l < m; ++l) d[l] = y[l] - a * x[l];
  }
}

// m numbers round the caches to where only they belong
template <class R>
void stream_numbers(const R* from, R* to, int64_t m) {
  using V = std::conditional_t<sizeof(R) == sizeof(float), F, D>;
  constexpr int64_t kWidth = sizeof(V) / sizeof(R);
  int64_t l = 0;
  for (; l + kWidth <= m; l += kWidth) stream(to + l, load<V>(from + l));
  for (; l < m; ++l) to[l] = from[l];
}

template <class R, Rho kRho>
double loss_chunk(const Loss& s, const Piece& p) {
  alignas(64) R tile[kNormChunk], d[kNormChunk], x[kNormChunk], g[kNormChunk];
  const int64_t at = p.sample * s.E + p.e, m = p.m;
  const int n = s.terms.n_in + s.terms.n_noise;
  const R w = s.w ? static_cast<const R*>(s.w)[p.sample] : R(1), c = static_cast<R>(s.c);
  R* to = s.slope ? place<R>(s.slope_type, s.slope, at, g) : nullptr;
  if (w == R(0)) {
    for (int64_t l = 0; l < m && to; ++l) to[l] = R(0);
    if (to) put_numbers(s.slope_type, to, s.slope, at, m);
    return 0.0;
  }
  const R* C = static_cast<const R*>(s.C) + p.sample * s.C_step;
  const auto term = [&](int i) { return column(s.terms, i, p, s.E, tile); };
  const R* y = numbers(s.pred_type, s.pred, at, m, x);
  const R scale = kRho == Rho::pseudo_huber ? R(1) : static_cast<R>(quotient(static_cast<double>(w), s.count));
  const bool past = to && to != g && s.past_cache && reinterpret_cast<uintptr_t>(to) % kBytes == 0;
  R* const slopes = s.mask ? nullptr : past ? g : to;
  if (n == 1 && C[0] != R(0)) {
    distances<kRho>(y, C[0], term(0), m, d, slopes, scale, c);
  } else {
    combined(C, n, term, m, d);
    distances<kRho>(y, R(1), d, m, d, slopes, scale, c);
  }
  if (!s.mask) {
    if (past) stream_numbers(g, to, m);
    else if (to) put_numbers(s.slope_type, to, s.slope, at, m);
    return tree(m, [&](int64_t l) __attribute__((always_inline)) { return penalty(kRho, d[l], c); });
  }
  const R* k = numbers(s.mask_type, s.mask, s.mask_constant ? p.e : at, m, tile);
  for (int64_t l = 0; l < m && to; ++l) to[l] = k[l] == R(0) ? R(0) : k[l] * (scale * slope(kRho, d[l], c));
  if (to) put_numbers(s.slope_type, to, s.slope, at, m);
  return tree(m, [&](int64_t l) __attribute__((always_inline)) {
    return k[l] == R(0) ? 0.0 : static_cast<double>(k[l]) * penalty(kRho, d[l], c);
  });
}

template <class R>
void loss_chunks(const Loss& s, int64_t first, int64_t last) {
  for (int64_t g = first; g < last; ++g) {
    const Piece p = piece(s, g);
    double& to = joined(s, p, 0);
    switch (s.rho) {
      case Rho::l2:
        to = loss_chunk<R, Rho::l2>(s, p);
        break;
      case Rho::l1:
        to = loss_chunk<R, Rho::l1>(s, p);
        break;
      case Rho::huber:
        to = loss_chunk<R, Rho::huber>(s, p);
        break;
      default:
        to = loss_chunk<R, Rho::pseudo_huber>(s, p);
    }
  }
}

}  // namespace

void loss_range(const Loss& s, int64_t first, int64_t last) {
  s.wide ? loss_chunks<double>(s, first, last) : loss_chunks<float>(s, first, last);
  if (s.past_cache) stream_end();
}

}  // namespace fd::FD_ISA
