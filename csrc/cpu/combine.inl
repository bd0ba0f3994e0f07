// One matrix over a run of elements: all inputs and outputs of a vector of elements in registers at once.
#pragma once
#include "../core/linear_step.h"
#include "../step.h"
#include "lanes.inl"

namespace fd::FD_ISA {
namespace {

// One matrix as the loops want it: columns that some output uses, in order, and for each a bit per output
// that does.
template <class R>
struct Matrix {
  int columns, tensors;  // of which the first are tensors, the rest noise
  bool dropped;          // a column of zeros is not among them
  bool full;             // no zero anywhere
  int column[kMaxColumns];
  uint32_t uses[kMaxColumns];
  R a[kMaxColumns][kMaxOut];
  R start[kMaxOut];
  int64_t number = -1;

  bool wants(int i) const {
    for (int k = 0; k < columns; ++k)
      if (column[k] == i) return true;
    return false;
  }
  Matrix() : columns(0), tensors(0), dropped(false), full(false) {}
  void set(const Step& s, int64_t which) {
    if (which == number) return;
    number = which;
    const int n = s.n_in + s.n_noise;
    const int64_t base = which * s.n_out * n;
    uint32_t left_out = 0;
    columns = tensors = 0;
    for (int i = 0; i < n; ++i) {
      uint32_t bits = 0;
      for (int j = 0; j < s.n_out; ++j) {
        const int64_t k = base + j * n + i;
        R v = s.A_wide ? static_cast<R>(static_cast<const double*>(s.A)[k])
                       : static_cast<R>(static_cast<const float*>(s.A)[k]);
        if (v != v)
          v = static_cast<R>(
              __builtin_nanf(""));  // a NaN with a payload would upset the rounding of bfloat16
        a[columns][j] = v;
        bits |= (v != R(0)) << j;
      }
      left_out |= ~bits;
      if (!bits) continue;
      uses[columns] = bits;
      column[columns++] = i;
      tensors += i < s.n_in;
    }
    for (int j = 0; j < s.n_out; ++j) start[j] = fd::start<R>(left_out >> j & 1);
    dropped = columns < n;
    full = !(left_out & ((1u << s.n_out) - 1));
  }
};

// y_j = start_j + sum over columns, for m elements. Outputs may be inputs: every pair of vectors is read
// before it is written. kColumns = 0 takes their number from the matrix; a known number of columns that are
// not full needs masks.
template <class T, int kOut, bool kFull, int kColumns = 0>
void combine(const Matrix<typename T::R>& A, const void* const* in, void* const* out, int64_t m, bool past) {
  using S = typename T::S;
  using V = typename T::V;
  const int columns = kColumns ? kColumns : A.columns;
  constexpr bool kMasked = kColumns && !kFull;
  constexpr int kKnown = kColumns ? kColumns : kMaxColumns;
  typename T::R a[kKnown][kOut];  // copies: a store through `to` could otherwise change the matrix, for all
                                  // the compiler knows
  uint32_t uses[kKnown];
  for (int i = 0; i < columns; ++i) {
    uses[i] = A.uses[i];
    for (int j = 0; j < kOut; ++j) a[i][j] = A.a[i][j];
  }
  const auto body = [&](const void* const* from, S* const* to, int64_t l) __attribute__((always_inline)) {
    V x[kOut], y[kOut];
    const auto column = [&](int i) __attribute__((always_inline)) {
      V u, v;
      if (kColumns || i < A.tensors) T::get(static_cast<const S*>(from[i]) + l, u, v);
      else T::get_noise(static_cast<const float*>(from[i]) + l, u, v);
      FD_UNROLL
      for (int j = 0; j < kOut; ++j) {
        if constexpr (kMasked) {
          const V p = T::masked(uses[i] >> j & 1, u, a[i][j]), q = T::masked(uses[i] >> j & 1, v, a[i][j]);
          x[j] = i ? x[j] + p : p, y[j] = i ? y[j] + q : q;
        } else if (kFull && i == 0) {
          x[j] = u * a[i][j], y[j] = v * a[i][j];
        } else if (kFull || (uses[i] >> j & 1)) {
          x[j] = x[j] + u * a[i][j], y[j] = y[j] + v * a[i][j];
        }
      }
    };
    if constexpr (!kFull && !kMasked)
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
  S* to[kOut];
  for (int j = 0; j < kOut; ++j) to[j] = static_cast<S*>(out[j]);
  int64_t l = 0;
  for (; l + T::kStep <= m; l += T::kStep) body(in, to, l);
  if (l == m) return;
  constexpr size_t kWidth = sizeof(S) > sizeof(float) ? sizeof(S) : sizeof(float);
  alignas(64) char tail_in[kKnown][T::kStep * kWidth];
  alignas(64) S tail_out[kOut][T::kStep];
  const size_t left = static_cast<size_t>(m - l);
  const void* from[kKnown] = {};
  for (int i = 0; i < columns; ++i) {
    const size_t width = kColumns || i < A.tensors ? sizeof(S) : sizeof(float);
    read_part<T::kStep * kWidth>(tail_in[i], static_cast<const char*>(in[i]) + static_cast<size_t>(l) * width,
                                 left * width);
    from[i] = tail_in[i];
  }
  S* back[kOut];
  for (int j = 0; j < kOut; ++j) back[j] = to[j] + l, to[j] = tail_out[j];
  past = false;
  body(from, to, 0);
  for (int j = 0; j < kOut; ++j) write_part<sizeof tail_out[j]>(back[j], tail_out[j], left * sizeof(S));
}

template <class T>
void combine_any(int n_out, const Matrix<typename T::R>& A, const void* const* in, void* const* out,
                 int64_t m, bool past) {
  if constexpr (T::kBound) {
    switch (A.full && A.tensors == A.columns && n_out <= 2 ? n_out * 8 + A.columns : 0) {
      case 10:
        return combine<T, 1, true, 2>(A, in, out, m, past);
      case 11:
        return combine<T, 1, true, 3>(A, in, out, m, past);
      case 12:
        return combine<T, 1, true, 4>(A, in, out, m, past);
      case 18:
        return combine<T, 2, true, 2>(A, in, out, m, past);
      case 19:
        return combine<T, 2, true, 3>(A, in, out, m, past);
      case 20:
        return combine<T, 2, true, 4>(A, in, out, m, past);
    }
  }
  if constexpr (T::kBound && T::kMasked) {
    switch (A.dropped || A.tensors < A.columns || n_out != 2 ? 0 : A.columns) {
      case 2:
        return combine<T, 2, false, 2>(A, in, out, m, past);
      case 3:
        return combine<T, 2, false, 3>(A, in, out, m, past);
      case 4:
        return combine<T, 2, false, 4>(A, in, out, m, past);
    }
  }
  switch (n_out * 2 + A.full) {
    case 2:
      return combine<T, 1, false>(A, in, out, m, past);
    case 3:
      return combine<T, 1, true>(A, in, out, m, past);
    case 4:
      return combine<T, 2, false>(A, in, out, m, past);
    case 5:
      return combine<T, 2, true>(A, in, out, m, past);
    case 6:
      return combine<T, 3, false>(A, in, out, m, past);
    case 7:
      return combine<T, 3, true>(A, in, out, m, past);
    case 8:
      return combine<T, 4, false>(A, in, out, m, past);
    case 9:
      return combine<T, 4, true>(A, in, out, m, past);
  }
}

}  // namespace
}  // namespace fd::FD_ISA
