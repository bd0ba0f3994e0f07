// error_norm: the joined excess of each chunk of a sample (core/error_norm.h)
#pragma once
#include "../core/error_norm.h"
#include "../core/linear_step.h"
#include "kernels.h"
#include "lanes.inl"

namespace fd::FD_ISA {
namespace {

// m elements as numbers R: their own memory where that will do
template <class R>
const R* numbers(Dtype type, const void* p, int64_t at, int64_t m, R* tile) {
  if (type == (sizeof(R) == sizeof(float) ? Dtype::f32 : Dtype::f64)) return static_cast<const R*>(p) + at;
  widen(type, p, at, m, tile);
  return tile;
}

template <class R, bool kLargest>
double norm_chunk(const Norm& n, int64_t sample, int64_t at, int64_t m) {
  alignas(64) R x[kNormChunk], y[kNormChunk], e[kNormChunk];
  alignas(64) double q[kNormChunk];
  for (int i = 0; i < n.n_in; ++i) {
    const int64_t k = sample * n.C_step + i;
    const R c = n.C_wide ? static_cast<R>(static_cast<const double*>(n.C)[k])
                         : static_cast<R>(static_cast<const float*>(n.C)[k]);
    const R* from = c == R(0) ? nullptr : numbers(n.in_type[i], n.in[i], at, m, x);
    if (i == 0)
      for (int64_t l = 0; l < m; ++l) e[l] = from ? c * from[l] : R(0);
    else if (from)
      for (int64_t l = 0; l < m; ++l) e[l] = e[l] + c * from[l];
  }
  const R *a = numbers(n.a_type, n.a, at, m, x), *b = numbers(n.b_type, n.b, at, m, y);
  const R atol = static_cast<R>(n.atol), rtol = static_cast<R>(n.rtol);
  for (int64_t l = 0; l < m; ++l) q[l] = excess<kLargest>(e[l], allowed_error(a[l], b[l], atol, rtol));
  int64_t half = kNormChunk;
  while (half > 1 && half / 2 >= m) half /= 2;  // zeros that would be added to no effect
  for (int64_t l = m; l < half; ++l) q[l] = 0.0;
  for (half /= 2; half; half /= 2)
    for (int64_t l = 0; l < half; ++l) q[l] = join<kLargest>(q[l], q[l + half]);
  return q[0];
}

template <class R, bool kLargest>
void norm_chunks(const Norm& n, int64_t first, int64_t last) {
  const int64_t chunks = chunks_of(n.E);
  for (int64_t g = first; g < last; ++g) {
    const int64_t sample = g / chunks, e = g % chunks * kNormChunk;
    n.work[g] = norm_chunk<R, kLargest>(n, sample, sample * n.E + e, n.E - e < kNormChunk ? n.E - e : kNormChunk);
  }
}

}  // namespace

void norm_range(const Norm& n, int64_t first, int64_t last) {
  if (n.wide) n.largest ? norm_chunks<double, true>(n, first, last) : norm_chunks<double, false>(n, first, last);
  else n.largest ? norm_chunks<float, true>(n, first, last) : norm_chunks<float, false>(n, first, last);
}

}  // namespace fd::FD_ISA
