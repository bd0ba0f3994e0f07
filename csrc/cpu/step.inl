// linear_step over a range of groups, in one of three ways:
//   straight  a matrix over a long run, straight from and to tensors of one type
//   tiled     the same through tiles that stay in the first cache, for noise, other types and constants that
//   wrap round elements  inside a tile, for matrices that change every few elements: coefficients are
//   gathered
#pragma once
#include "combine.inl"
#include "kernels.h"
#include "noise.inl"

namespace fd::FD_ISA {
namespace {

constexpr int64_t kTile = 256;        // groups in a tile: 4 KiB of float32 a column
constexpr int64_t kMost = 4 * kTile;  // elements
constexpr int64_t kShortRun =
    8;  // elements under one matrix below which setting it up costs more than gathering

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Goes through the runs of elements that share a matrix. It divides once per range, not once per run.
class Runs {
 public:
  Runs(const Step& s, int64_t element) : s_(s) {
    if (!s.sample_matrices) return;
    run_ = s.E / s.sample_matrices;
    const int64_t part = element / run_;
    sample_ = part / s.sample_matrices, part_ = part % s.sample_matrices, left_ = (part + 1) * run_ - element;
  }
  int64_t matrix() const { return s_.index ? s_.index[sample_ * s_.index_step + part_] : sample_; }
  int64_t take(int64_t most) {  // elements up to the end of the run, and past them
    if (!run_ || most < left_) {
      left_ -= most;
      return most;
    }
    const int64_t n = left_;
    left_ = run_;
    if (++part_ == s_.sample_matrices) part_ = 0, ++sample_;
    return n;
  }

 private:
  const Step& s_;
  int64_t run_ = 0, sample_ = 0, part_ = 0, left_ = 0;
};

template <class T>
bool round_the_cache(const Step& s, void* const* out) {
  bool aligned = s.past_cache;
  for (int j = 0; j < s.n_out; ++j) aligned = aligned && reinterpret_cast<uintptr_t>(out[j]) % kBytes == 0;
  return aligned;
}

template <class T>
void straight(const Step& s, int64_t at, int64_t end) {
  using S = typename T::S;
  Matrix<typename T::R> A;
  Runs runs(s, at);
  while (at < end) {
    A.set(s, runs.matrix());
    const int64_t m = runs.take(end - at);
    const void* in[kMaxColumns];
    void* out[kMaxOut];
    for (int i = 0; i < A.columns; ++i) in[i] = static_cast<const S*>(s.in[A.column[i]]) + at;
    for (int j = 0; j < s.n_out; ++j) out[j] = static_cast<S*>(s.out[j]) + at;
    combine_any<T>(s.n_out, A, in, out, m, round_the_cache<T>(s, out));
    at += m;
  }
}

// Elements of one input as type T has them: its own memory where that will do, else the tile
template <class T>
const typename T::S* fetch(const Step& s, int i, int64_t at, int64_t m, typename T::S* tile) {
  using S = typename T::S;
  const bool same = s.in_type[i] == T::kType;
  const S* own = static_cast<const S*>(s.in[i]);
  const int64_t from = s.constant[i] ? at % s.E : at;
  if (same && (!s.constant[i] || from + m <= s.E)) return own + from;
  for (int64_t l = 0, e = from; l < m;) {
    const int64_t n = s.constant[i] ? least(m - l, s.E - e) : m;
    if (same) __builtin_memcpy(tile + l, own + e, static_cast<size_t>(n) * sizeof(S));
    else if constexpr (sizeof(S) == sizeof(typename T::R)) widen(s.in_type[i], s.in[i], e, n, tile + l);
    l += n;
    e = 0;
  }
  return tile;
}

template <class R>
struct ShortRun;
template <>
struct ShortRun<float> {
  using V = float __attribute__((vector_size(kShortRun * sizeof(float))));
};
template <>
struct ShortRun<double> {
  using V = double __attribute__((vector_size(kShortRun * sizeof(double))));
};

// y_j for m elements whose matrices change every few: coefficients spread out per element, products selected
// and not skipped. (Gathering them took twice as long.)
template <class R>
void elements(const Step& s, Runs& runs, int64_t m, const R* const* in, const float* const* noise,
              R (*y)[kMost]) {
  constexpr int64_t kSome = 64;
  using Run = typename ShortRun<R>::V;
  alignas(64) R spread[kMaxOut * kMaxColumns][kSome + kShortRun];
  const int n = s.n_in + s.n_noise, size = s.n_out * n;
  for (int64_t begin = 0; begin < m; begin += kSome) {
    const int64_t count = least(kSome, m - begin);
    for (int64_t l = 0; l < count;) {
      const int64_t base = runs.matrix() * size, left = runs.take(count - l);
      for (int k = 0; k < size; ++k) {
        const int64_t from = base + k;
        const R a = s.A_wide ? static_cast<R>(static_cast<const double*>(s.A)[from])
                             : static_cast<R>(static_cast<const float*>(s.A)[from]);
        store(spread[k] + l, a - Run{});  // a whole run and beyond, where the next one writes over it
      }
      l += left;
    }
    for (int j = 0; j < s.n_out; ++j) {
      R* __restrict acc = y[j] + begin;
      const auto column = [&](int i, const auto* t) {
        const R* a = spread[j * n + i];
        for (int64_t l = 0; l < count; ++l) {
          const R p = product(a[l], static_cast<R>(t[l]));
          acc[l] = i ? acc[l] + p : p;
        }
      };
      for (int i = 0; i < s.n_in; ++i) column(i, in[i] + begin);
      for (int c = 0; c < s.n_noise; ++c) column(s.n_in + c, noise[c] + begin);
    }
  }
}

template <class T>
void tiled(const Step& s, int64_t first, int64_t last, bool short_runs) {
  using S = typename T::S;
  const int64_t blocks = blocks_of(s.E);
  alignas(64) S x[kMaxIn][kMost], y[kMaxOut][kMost];
  alignas(64) float xi[kMaxNoise][kMost];
  const bool direct = s.out_type == T::kType;
  Matrix<typename T::R> A;
  if (!s.sample_matrices) A.set(s, 0);
  int64_t at = element_of(first, blocks, s.E);
  Runs runs(s, at);
  for (int64_t g = first; g < last; g += kTile) {
    const int64_t stop = least(g + kTile, last), end = element_of(stop, blocks, s.E), m = end - at;
    const auto wanted = [&](int i) { return s.sample_matrices || A.wants(i); };
    const S* in[kMaxIn];
    const float* noise[kMaxNoise];
    for (int i = 0; i < s.n_in; ++i)
      if (wanted(i)) in[i] = fetch<T>(s, i, at, m, x[i]);
    for (int c = 0; c < s.n_noise; ++c) {
      if (!wanted(s.n_in + c)) continue;
      draw_groups({s.rng, blocks, s.draw[c], s.stream[c]}, g, stop, xi[c]);
      if (s.E % 4) close_gaps(xi[c], g, stop, blocks, s.E);
      noise[c] = xi[c];
    }
    bool written = direct;
    if (short_runs) {
      if constexpr (sizeof(S) == sizeof(typename T::R)) elements(s, runs, m, in, noise, y);
      written = false;
    } else {
      for (int64_t l = 0; l < m;) {
        A.set(s, runs.matrix());
        const int64_t n = runs.take(m - l);
        const void* from[kMaxColumns];
        void* to[kMaxOut];
        for (int i = 0; i < A.tensors; ++i) from[i] = in[A.column[i]] + l;
        for (int i = A.tensors; i < A.columns; ++i) from[i] = noise[A.column[i] - s.n_in] + l;
        for (int j = 0; j < s.n_out; ++j) to[j] = direct ? static_cast<S*>(s.out[j]) + at + l : y[j] + l;
        combine_any<T>(s.n_out, A, from, to, n, direct && round_the_cache<T>(s, to));
        l += n;
      }
    }
    for (int j = 0; j < s.n_out && !written; ++j) {
      if (direct) __builtin_memcpy(static_cast<S*>(s.out[j]) + at, y[j], static_cast<size_t>(m) * sizeof(S));
      else if constexpr (sizeof(S) == sizeof(typename T::R)) narrow(s.out_type, y[j], s.out[j], at, m);
    }
    at = end;
  }
}

template <class T>
void one_type(const Step& s, int64_t first, int64_t last, bool plain) {
  const int64_t blocks = blocks_of(s.E);
  if (plain) straight<T>(s, element_of(first, blocks, s.E), element_of(last, blocks, s.E));
  else tiled<T>(s, first, last, false);
}

void any_type(const Step& s, int64_t first, int64_t last) {
  const bool short_runs = s.sample_matrices && s.E / s.sample_matrices < kShortRun;
  bool same = !short_runs, plain = !s.n_noise;
  for (int i = 0; i < s.n_in; ++i) {
    same = same && s.in_type[i] == s.out_type;
    plain = plain && !s.constant[i];
  }
  if (!same) return s.wide ? tiled<F64>(s, first, last, short_runs) : tiled<F32>(s, first, last, short_runs);
  switch (s.out_type) {
    case Dtype::f32:
      return one_type<F32>(s, first, last, plain);
    case Dtype::f16:
      return one_type<F16>(s, first, last, plain);
    case Dtype::bf16:
      return one_type<BF16>(s, first, last, plain);
    default:
      return one_type<F64>(s, first, last, plain);
  }
}

}  // namespace

void step_range(const Step& s, int64_t first, int64_t last) {
  any_type(s, first, last);
  if (s.past_cache) stream_end();
}

}  // namespace fd::FD_ISA
