// linear_step over a range of groups. Three ways through, by what the call needs:
//   runs      one matrix over a run of elements: fused over inputs and outputs in registers, straight from and to the tensors
//             when all have one type, or through tiles that stay in the first cache (other types, constants, noise)
//   elements  matrices that change every few elements: coefficients are gathered per element
#pragma once
#include "../core/linear_step.h"
#include "kernels.h"
#include "lanes.inl"
#include "noise.inl"

namespace fd::FD_ISA {
namespace {

// One matrix as the loops want it: columns that some output uses, in order, and for each a bit per output that does.
template <class R> struct Matrix {
  int columns;
  bool full;  // no zero in any column left
  int column[kMaxColumns];
  uint32_t uses[kMaxColumns];
  R a[kMaxColumns][kMaxOut];
  R start[kMaxOut];
  int64_t number = -1;

  Matrix() : columns(0), full(false) {}
  void set(const Step& s, int64_t which) {
    if (which == number) return;
    number = which;
    const int n = s.n_in + s.n_noise;
    const int64_t base = which * s.n_out * n;
    uint32_t left_out = 0;
    columns = 0;
    for (int i = 0; i < n; ++i) {
      uint32_t bits = 0;
      for (int j = 0; j < s.n_out; ++j) {
        const int64_t k = base + j * n + i;
        R v = s.A_wide ? static_cast<R>(static_cast<const double*>(s.A)[k]) : static_cast<R>(static_cast<const float*>(s.A)[k]);
        if (v != v) v = static_cast<R>(__builtin_nanf(""));  // a NaN with a payload would upset the rounding of bfloat16
        a[columns][j] = v;
        bits |= (v != R(0)) << j;
      }
      left_out |= ~bits;
      if (!bits) continue;
      uses[columns] = bits;
      column[columns++] = i;
    }
    for (int j = 0; j < s.n_out; ++j) start[j] = fd::start<R>(left_out >> j & 1);
    full = !(left_out & ((1u << s.n_out) - 1)) && columns > 0;
  }
};

// y_j = start_j + sum over columns, for m elements. Outputs may be inputs: every pair of vectors is read before it is written.
// kColumns = 0 takes their number from the matrix.
template <class T, int kOut, bool kFull, int kColumns = 0>
void combine(const Matrix<typename T::R>& A, const void* const* in, void* const* out, int64_t m, bool past) {
  using S = typename T::S;
  using V = typename T::V;
  const int columns = kColumns ? kColumns : A.columns;
  constexpr int kKnown = kColumns ? kColumns : kMaxColumns;
  typename T::R a[kKnown][kOut];  // copies: a store through `to` could otherwise change the matrix, for all the compiler knows
  uint32_t uses[kKnown];
  for (int i = 0; i < columns; ++i) {
    uses[i] = A.uses[i];
    for (int j = 0; j < kOut; ++j) a[i][j] = A.a[i][j];
  }
  const auto body = [&](const S* const* from, S* const* to, int64_t l) __attribute__((always_inline)) {
    V x[kOut], y[kOut];
    const auto column = [&](int i) __attribute__((always_inline)) {
      V u, v;
      T::get(from[i] + l, u, v);
      FD_UNROLL
      for (int j = 0; j < kOut; ++j) {
        if constexpr (!kFull && kColumns && T::kMasked) {
          x[j] = x[j] + T::masked(uses[i] >> j & 1, u, a[i][j]), y[j] = y[j] + T::masked(uses[i] >> j & 1, v, a[i][j]);
        } else if (kFull && i == 0) {
          x[j] = u * a[i][j], y[j] = v * a[i][j];
        } else if (kFull || (uses[i] >> j & 1)) {
          x[j] = x[j] + u * a[i][j], y[j] = y[j] + v * a[i][j];
        }
      }
    };
    if constexpr (!kFull)
      for (int j = 0; j < kOut; ++j) x[j] = y[j] = A.start[j] - V{};
    if constexpr (kColumns) {
      FD_UNROLL
      for (int i = 0; i < kColumns; ++i) column(i);
    } else {
      if (kFull) column(0);
      for (int i = kFull; i < columns; ++i) column(i);
    }
    FD_UNROLL
    for (int j = 0; j < kOut; ++j) {
      if (past) T::put_past(to[j] + l, x[j], y[j]);
      else T::put(to[j] + l, x[j], y[j]);
    }
  };
  const S* from[kKnown];
  S* to[kOut];
  for (int i = 0; i < columns; ++i) from[i] = static_cast<const S*>(in[i]);
  for (int j = 0; j < kOut; ++j) to[j] = static_cast<S*>(out[j]);
  int64_t l = 0;
  for (; l + T::kStep <= m; l += T::kStep) body(from, to, l);
  if (l == m) return;
  alignas(64) S tail_in[kKnown][T::kStep] = {}, tail_out[kOut][T::kStep];
  const size_t bytes = static_cast<size_t>(m - l) * sizeof(S);
  for (int i = 0; i < columns; ++i) __builtin_memcpy(tail_in[i], from[i] + l, bytes), from[i] = tail_in[i];
  S* back[kOut];
  for (int j = 0; j < kOut; ++j) back[j] = to[j] + l, to[j] = tail_out[j];
  past = false;
  body(from, to, 0);
  for (int j = 0; j < kOut; ++j) __builtin_memcpy(back[j], tail_out[j], bytes);
}

template <class T>
void combine_any(int n_out, const Matrix<typename T::R>& A, const void* const* in, void* const* out, int64_t m, bool past) {
  if constexpr (T::kBound) {
    switch (n_out <= 2 ? A.full * 32 + n_out * 8 + A.columns : 0) {
      case 18: return combine<T, 2, false, 2>(A, in, out, m, past);
      case 19: return combine<T, 2, false, 3>(A, in, out, m, past);
      case 20: return combine<T, 2, false, 4>(A, in, out, m, past);
      case 42: return combine<T, 1, true, 2>(A, in, out, m, past);
      case 43: return combine<T, 1, true, 3>(A, in, out, m, past);
      case 44: return combine<T, 1, true, 4>(A, in, out, m, past);
      case 50: return combine<T, 2, true, 2>(A, in, out, m, past);
      case 51: return combine<T, 2, true, 3>(A, in, out, m, past);
      case 52: return combine<T, 2, true, 4>(A, in, out, m, past);
    }
  }
  switch (n_out * 2 + A.full) {
    case 2: return combine<T, 1, false>(A, in, out, m, past);
    case 3: return combine<T, 1, true>(A, in, out, m, past);
    case 4: return combine<T, 2, false>(A, in, out, m, past);
    case 5: return combine<T, 2, true>(A, in, out, m, past);
    case 6: return combine<T, 3, false>(A, in, out, m, past);
    case 7: return combine<T, 3, true>(A, in, out, m, past);
    case 8: return combine<T, 4, false>(A, in, out, m, past);
    case 9: return combine<T, 4, true>(A, in, out, m, past);
  }
}

inline int64_t matrix_of(const Step& s, int64_t sample, int64_t part) {
  if (s.index) return s.index[sample * s.index_step + part];
  return s.sample_matrices ? sample : 0;
}

inline int bytes_of(Dtype t) { return t == Dtype::f32 || t == Dtype::i32 ? 4 : t == Dtype::f64 || t == Dtype::i64 ? 8 : 2; }
inline const void* shift(const void* p, Dtype t, int64_t n) { return static_cast<const char*>(p) + n * bytes_of(t); }
inline void* shift(void* p, Dtype t, int64_t n) { return static_cast<char*>(p) + n * bytes_of(t); }

constexpr int64_t kTile = 256;     // groups in a tile: 4 KiB of float32 a column
constexpr int64_t kShortRun = 32;  // elements under one matrix below which setting it up costs more than gathering

// Straight: every tensor has type T, there is no noise, and no constant that a run could wrap round.
template <class T> void straight(const Step& s, int64_t at, int64_t end) {
  Matrix<typename T::R> A;
  const int64_t run = s.sample_matrices ? s.E / s.sample_matrices : end;
  while (at < end) {
    int64_t stop = end;
    if (s.sample_matrices) {
      const int64_t number = at / run;
      A.set(s, matrix_of(s, number / s.sample_matrices, number % s.sample_matrices));
      if ((number + 1) * run < stop) stop = (number + 1) * run;
    } else {
      A.set(s, 0);
    }
    const void* in[kMaxColumns];
    void* out[kMaxOut];
    for (int i = 0; i < A.columns; ++i) in[i] = static_cast<const typename T::S*>(s.in[A.column[i]]) + at;
    bool aligned = s.past_cache;
    for (int j = 0; j < s.n_out; ++j) {
      out[j] = static_cast<typename T::S*>(s.out[j]) + at;
      aligned = aligned && reinterpret_cast<uintptr_t>(out[j]) % kBytes == 0;
    }
    combine_any<T>(s.n_out, A, in, out, stop - at, aligned);
    at = stop;
  }
}

// y_j for m elements whose matrix changes every `run`: coefficients gathered per element, the products selected, not skipped.
template <class R, class C>
void elements(const Step& s, const C* A, int64_t at, int64_t m, int64_t run, const R* const* column, R (*y)[4 * kTile]) {
  const int n = s.n_in + s.n_noise;
  int64_t origin[4 * kTile];
  int64_t number = at / run, left = (number + 1) * run - at, sample = number / s.sample_matrices, part = number % s.sample_matrices;
  for (int64_t l = 0; l < m;) {
    const int64_t stop = l + left < m ? l + left : m, from = matrix_of(s, sample, part) * s.n_out * n;
    for (; l < stop; ++l) origin[l] = from;
    left = run;
    if (++part == s.sample_matrices) part = 0, ++sample;
  }
  for (int j = 0; j < s.n_out; ++j) {
    R* __restrict acc = y[j];
    for (int i = 0; i < n; ++i) {
      const R* t = column[i];
      const C* a = A + j * n + i;
      for (int64_t l = 0; l < m; ++l) {
        const R v = static_cast<R>(a[origin[l]]), p = product(v, t[l]);
        acc[l] = i ? acc[l] + p : p;
      }
    }
  }
}

// Through tiles of the arithmetic type R (T is R in memory).
template <class T> void tiled(const Step& s, int64_t first, int64_t last) {
  using R = typename T::R;
  const int64_t blocks = blocks_of(s.E), matrices = s.sample_matrices, run = matrices ? s.E / matrices : 0;
  constexpr int64_t kMost = 4 * kTile;
  alignas(64) R x[kMaxIn][kMost];
  alignas(64) float xi[kMaxNoise][kMost];
  alignas(64) R wide_xi[sizeof(R) == sizeof(float) ? 1 : kMaxNoise][kMost];
  alignas(64) R y[kMaxOut][kMost];
  Matrix<R> A;
  int64_t at = element_of(first, blocks, s.E);
  for (int64_t g = first; g < last; g += kTile) {
    const int64_t stop = g + kTile < last ? g + kTile : last, end = element_of(stop, blocks, s.E), m = end - at;
    const R* column[kMaxColumns];
    uint32_t wanted = ~0u;
    if (!matrices) {
      A.set(s, 0);
      wanted = 0;
      for (int i = 0; i < A.columns; ++i) wanted |= 1u << A.column[i];
    }
    for (int i = 0; i < s.n_in; ++i) {
      if (!(wanted >> i & 1)) continue;
      if (!s.constant[i]) {
        if (sizeof(R) == bytes_of(s.in_type[i])) {
          column[i] = static_cast<const R*>(s.in[i]) + at;
        } else {
          widen(s.in_type[i], s.in[i], at, m, x[i]);
          column[i] = x[i];
        }
        continue;
      }
      const int64_t e = at % s.E;
      if (e + m <= s.E && sizeof(R) == bytes_of(s.in_type[i])) {
        column[i] = static_cast<const R*>(s.in[i]) + e;
        continue;
      }
      column[i] = x[i];
      for (int64_t l = 0; l < m;) {
        const int64_t from = (at + l) % s.E, n = m - l < s.E - from ? m - l : s.E - from;
        widen(s.in_type[i], s.in[i], from, n, x[i] + l);
        l += n;
      }
    }
    for (int c = 0; c < s.n_noise; ++c) {
      if (!(wanted >> (s.n_in + c) & 1)) continue;
      draw_groups({s.rng, blocks, s.draw[c], s.stream[c], Family::normal}, g, stop, xi[c]);
      if (s.E % 4) close_gaps(xi[c], g, stop, blocks, s.E);
      if constexpr (sizeof(R) == sizeof(float)) {
        column[s.n_in + c] = xi[c];
      } else {
        widen(Dtype::f32, xi[c], 0, m, wide_xi[c]);
        column[s.n_in + c] = wide_xi[c];
      }
    }
    const bool direct = bytes_of(s.out_type) == sizeof(R);
    const auto target = [&](int j) -> R* { return direct ? static_cast<R*>(s.out[j]) + at : y[j]; };
    if (!matrices || run >= kShortRun) {
      for (int64_t l = 0; l < m;) {
        int64_t n = m - l;
        if (matrices) {
          const int64_t number = (at + l) / run, left = (number + 1) * run - (at + l);
          A.set(s, matrix_of(s, number / matrices, number % matrices));
          if (left < n) n = left;
        }
        const void* in[kMaxColumns];
        void* out[kMaxOut];
        for (int i = 0; i < A.columns; ++i) in[i] = column[A.column[i]] + l;
        for (int j = 0; j < s.n_out; ++j) out[j] = target(j) + l;
        combine_any<T>(s.n_out, A, in, out, n, false);
        l += n;
      }
    } else {
      if (s.A_wide) elements(s, static_cast<const double*>(s.A), at, m, run, column, y);
      else elements(s, static_cast<const float*>(s.A), at, m, run, column, y);
      if (direct)
        for (int j = 0; j < s.n_out; ++j) __builtin_memcpy(target(j), y[j], static_cast<size_t>(m) * sizeof(R));
    }
    if (!direct)
      for (int j = 0; j < s.n_out; ++j) narrow(s.out_type, y[j], s.out[j], at, m);
    at = end;
  }
}

}  // namespace

void step_range(const Step& s, int64_t first, int64_t last) {
  const int64_t blocks = blocks_of(s.E), at = element_of(first, blocks, s.E), end = element_of(last, blocks, s.E);
  bool plain = !s.n_noise && (!s.sample_matrices || s.E / s.sample_matrices >= kShortRun);
  for (int i = 0; i < s.n_in; ++i) plain = plain && s.in_type[i] == s.out_type && !s.constant[i];
  if (!plain) return s.wide ? tiled<F64>(s, first, last) : tiled<F32>(s, first, last);
  switch (s.out_type) {
    case Dtype::f32: return straight<F32>(s, at, end);
    case Dtype::f16: return straight<F16>(s, at, end);
    case Dtype::bf16: return straight<BF16>(s, at, end);
    default: return straight<F64>(s, at, end);
  }
}

}  // namespace fd::FD_ISA
