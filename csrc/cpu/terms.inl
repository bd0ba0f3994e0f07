// A chunk of a sample: its tensors and noise as numbers of the arithmetic, and the tree over its 1024 elements.
#pragma once
#include "../core/linear_step.h"
#include "../sums.h"
#include "lanes.inl"
#include "noise.inl"
#include "norm.inl"
#include "sums.h"

namespace fd::FD_ISA {
namespace {

struct Piece {  // elements e .. e + m of a sample
  int64_t sample, e, m;
};

template <class Job>
Piece piece(const Job& s, int64_t g) {
  const int64_t chunks = chunks_of(s.E), sample = g / chunks, e = g % chunks * kNormChunk;
  return {sample, e, s.E - e < kNormChunk ? s.E - e : kNormChunk};
}

// Where the sum p of a piece belongs
template <class Job>
double& joined(const Job& s, const Piece& c, int p) {
  return s.work[(c.sample * s.n + p) * chunks_of(s.E) + c.e / kNormChunk];
}

// Column i, tensors then noise; `tile` is where what needs one is put
template <class R>
const R* column(const Terms& t, int i, const Piece& c, int64_t E, R* tile) {
  if (i < t.n_in) return numbers(t.type[i], t.in[i], (t.constant[i] ? 0 : c.sample * E) + c.e, c.m, tile);
  const int64_t blocks = blocks_of(E), first = c.sample * blocks + c.e / 4;
  const Column noise{t.rng, blocks, t.draw[i - t.n_in], t.stream[i - t.n_in]};
  if constexpr (sizeof(R) == sizeof(float)) {
    draw_groups(noise, first, first + blocks_of(c.m), tile);
  } else {
    alignas(64) float z[kNormChunk];
    draw_groups(noise, first, first + blocks_of(c.m), z);
    for (int64_t l = 0; l < c.m; ++l) tile[l] = z[l];
  }
  return tile;
}

// sum_i C_i x_i in order; a zero coefficient reads nothing and adds +0
template <class R, class Columns>
void combined(const R* C, int n, const Columns& x, int64_t m, R* __restrict acc) {
  bool left_out = false;
  for (int i = 0; i < n; ++i) left_out = left_out || C[i] == R(0);
  bool begun = false;
  for (int i = 0; i < n; ++i) {
    const R c = C[i];
    if (c == R(0)) continue;
    const R* v = x(i);
    if (begun)
      for (int64_t l = 0; l < m; ++l) acc[l] = acc[l] + c * v[l];
    else if (left_out)
      for (int64_t l = 0; l < m; ++l) acc[l] = R(0) + c * v[l];
    else
      for (int64_t l = 0; l < m; ++l) acc[l] = c * v[l];
    begun = true;
  }
  if (!begun)
    for (int64_t l = 0; l < m; ++l) acc[l] = R(0);
}

constexpr int64_t kEighth = kNormChunk / 8, kPairs = kBytes / 8;  // doubles in a vector

// The tree of what its first three levels left
FD_HD double join_eighth(const double* q) {
  D v[kEighth / kPairs];
  for (int64_t i = 0; i < kEighth / kPairs; ++i) v[i] = load<D>(q + i * kPairs);
  FD_UNROLL
  for (int64_t half = kEighth / kPairs / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) v[i] = v[i] + v[i + half];
  double x[kPairs];
  store(x, v[0]);
  FD_UNROLL
  for (int64_t half = kPairs / 2; half; half /= 2)
    for (int64_t l = 0; l < half; ++l) x[l] = x[l] + x[l + half];
  return x[0];
}

// The tree of term(0) .. term(m - 1), zeros behind: a whole chunk's first three levels without memory
template <class Term>
FD_HD double tree(int64_t m, const Term& term) {
  alignas(64) double q[kNormChunk];
  if (m == kNormChunk) {
    for (int64_t l = 0; l < kEighth; ++l)
      q[l] = ((term(l) + term(l + 512)) + (term(l + 256) + term(l + 768))) +
             ((term(l + 128) + term(l + 640)) + (term(l + 384) + term(l + 896)));
    return join_eighth(q);
  }
  int64_t half = kNormChunk;
  while (half > 1 && half / 2 >= m) half /= 2;
  for (int64_t l = 0; l < m; ++l) q[l] = term(l);
  for (int64_t l = m; l < half; ++l) q[l] = 0.0;
  for (half /= 2; half; half /= 2)
    for (int64_t l = 0; l < half; ++l) q[l] = q[l] + q[l + half];
  return q[0];
}

template <class R>
void put_numbers(Dtype type, const R* x, void* p, int64_t at, int64_t m) {
  if (x != static_cast<R*>(p) + at) narrow(type, x, p, at, m);
}
// Where numbers of the arithmetic may be written: the tensor itself if it holds such
template <class R>
R* place(Dtype type, void* p, int64_t at, R* tile) {
  return type == (sizeof(R) == sizeof(float) ? Dtype::f32 : Dtype::f64) ? static_cast<R*>(p) + at : tile;
}

}  // namespace
}  // namespace fd::FD_ISA
