// dots: products of a chunk's rows joined, all pairs while the rows are in the first cache
#pragma once
#include "terms.inl"

namespace fd::FD_ISA {
namespace {

template <class R>
void dots_chunks(const Dots& s, int64_t first, int64_t last) {
  const int n_in = s.terms.n_in, n = n_in + 1 + s.terms.n_noise;
  alignas(64) R tile[kMaxVectors][kNormChunk], row[kMaxRows][kNormChunk];
  for (int64_t g = first; g < last; ++g) {
    const Piece c = piece(s, g);
    const R* vector[kMaxVectors] = {};
    const auto fetch = [&](int i) {
      if (vector[i]) return vector[i];
      if (i == n_in)
        for (int64_t l = 0; l < c.m; ++l) tile[i][l] = R(1);
      vector[i] = i == n_in ? tile[i] : column(s.terms, i < n_in ? i : i - 1, c, s.E, tile[i]);
      return vector[i];
    };
    const R* u[kMaxVectors] = {};
    const R* coefficients = s.R ? static_cast<const R*>(s.R) + c.sample * s.R_step : nullptr;
    const auto need = [&](int i) {
      if (u[i]) return;
      if (!s.R) {
        u[i] = fetch(i);
        return;
      }
      combined(coefficients + i * n, n, fetch, c.m, row[i]);
      u[i] = row[i];
    };
    for (int p = 0; p < s.n; ++p) {
      need(s.first[p]), need(s.second[p]);
      const R *a = u[s.first[p]], *b = u[s.second[p]];
      joined(s, c, p) =
          s.size[p] ? tree(c.m, [&](int64_t l) __attribute__((always_inline)) {
            return magnitude(static_cast<double>(a[l]) * static_cast<double>(b[l]));
          })
                    : tree(c.m, [&](int64_t l) __attribute__((always_inline)) {
                        return static_cast<double>(a[l]) * static_cast<double>(b[l]);
                      });
    }
  }
}

}  // namespace

void dots_range(const Dots& s, int64_t first, int64_t last) {
  s.wide ? dots_chunks<double>(s, first, last) : dots_chunks<float>(s, first, last);
}

}  // namespace fd::FD_ISA
