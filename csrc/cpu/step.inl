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

// One matrix and one noise column: the sum is taken where the numbers are made, so that memory is at work
// while they are
enum class Row { any, full, copies };  // without zeros; and the second output is the noise itself
template <int kOut, Row kRow, int kTensors = 0>  // 0: as many as the matrix says
struct Summed {
  const Matrix<float>& A;
  int tensors;
  bool past;
  const float* in[kMaxIn];
  float* out[kOut];
  float a[kMaxIn + 1][kOut], start[kOut];
  uint32_t uses[kMaxIn + 1];

  Summed(const Step& s, const Matrix<float>& A, int64_t at) : A(A), tensors(A.tensors) {
    void* to[kOut];
    for (int j = 0; j < kOut; ++j) to[j] = out[j] = static_cast<float*>(s.out[j]) + at, start[j] = A.start[j];
    past = round_the_cache<F32>(s, to);
    for (int i = 0; i <= tensors; ++i) {
      if (i < tensors) in[i] = static_cast<const float*>(s.in[A.column[i]]) + at;
      uses[i] = A.uses[i];
      for (int j = 0; j < kOut; ++j) a[i][j] = A.a[i][j];
    }
  }
  FD_HD void put(int64_t at, F z) const {
    F y[kOut];
    for (int j = 0; j < kOut; ++j) y[j] = Simd::f(start[j]);
    const auto column = [&](int i, F u) __attribute__((always_inline)) {
      FD_UNROLL
      for (int j = 0; j < kOut; ++j) {
        if (kRow == Row::copies && j) continue;
        if (kRow == Row::full && i == 0) y[j] = u * a[i][j];
        else if (kRow != Row::any || (uses[i] >> j & 1)) y[j] = y[j] + u * a[i][j];
      }
    };
    const int n = kTensors ? kTensors : tensors;
    for (int i = 0; i < n; ++i) column(i, load<F>(in[i] + at));
    column(n, z);
    if (kRow == Row::copies) y[kOut - 1] = y[kOut - 1] + z;
    for (int j = 0; j < kOut; ++j) {
      if (past) stream(out[j] + at, y[j]);
      else store(out[j] + at, y[j]);
    }
  }
  void part(int64_t at, const F (&v)[4], int64_t groups) const {
    alignas(64) float z[4 * N];
    for (int r = 0; r < 4; ++r) store(z + r * N, v[r]);
    const void* from[kMaxColumns];
    void* to[kOut];
    for (int i = 0; i < tensors; ++i) from[i] = in[i] + at;
    from[tensors] = z;
    for (int j = 0; j < kOut; ++j) to[j] = out[j] + at;
    combine_any<F32>(kOut, A, from, to, 4 * groups, false);
  }
};

constexpr int64_t kLongSample = 16 * N;  // groups of a sample from which it pays

bool sums_while_drawing(const Step& s) {
  return s.n_noise == 1 && s.n_out <= 2 && s.sample_matrices <= 1 && s.E % 4 == 0 && blocks_of(s.E) >= kLongSample;
}

// Loops of their own for up to kMost tensors
template <int kOut, Row kRow, int kMost>
void draw_sum(const Step& s, const Matrix<float>& A, const Column& noise, int64_t first, int64_t stop) {
  if constexpr (kMost > 0) {
    if (A.tensors != kMost) return draw_sum<kOut, kRow, kMost - 1>(s, A, noise, first, stop);
  }
  draw_groups(noise, first, stop, Summed<kOut, kRow, kMost>(s, A, 4 * first));
}

// Every column is in the first row, the noise alone and as it is in the second
bool copies_noise(const Matrix<float>& A) {
  bool copies = !A.dropped && A.uses[A.tensors] == 3 && A.a[A.tensors][1] == 1.0f;
  for (int i = 0; i < A.tensors; ++i) copies = copies && A.uses[i] == 1;
  return copies;
}

void summed(const Step& s, int64_t first, int64_t last) {
  const int64_t blocks = blocks_of(s.E);
  const Column noise{s.rng, blocks, s.draw[0], s.stream[0]};
  Matrix<float> A;
  Runs runs(s, 4 * first);
  while (first < last) {
    const int64_t stop = least(last, (first / blocks + 1) * blocks), at = 4 * first, m = 4 * (stop - first);
    A.set(s, runs.matrix());
    runs.take(m);
    if (A.tensors == A.columns) {
      const void* in[kMaxColumns];
      void* out[kMaxOut];
      for (int i = 0; i < A.columns; ++i) in[i] = static_cast<const float*>(s.in[A.column[i]]) + at;
      for (int j = 0; j < s.n_out; ++j) out[j] = static_cast<float*>(s.out[j]) + at;
      combine_any<F32>(s.n_out, A, in, out, m, round_the_cache<F32>(s, out));
    } else if (s.n_out == 1) {
      if (A.full) draw_sum<1, Row::full, 3>(s, A, noise, first, stop);
      else draw_sum<1, Row::any, 0>(s, A, noise, first, stop);
    } else if (copies_noise(A)) {
      draw_sum<2, Row::copies, 1>(s, A, noise, first, stop);
    } else {
      if (A.full) draw_sum<2, Row::full, 0>(s, A, noise, first, stop);
      else draw_sum<2, Row::any, 3>(s, A, noise, first, stop);
    }
    first = stop;
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
  bool same = !short_runs, in_place = true;  // no constants, which wrap round
  for (int i = 0; i < s.n_in; ++i) {
    same = same && s.in_type[i] == s.out_type;
    in_place = in_place && !s.constant[i];
  }
  const bool plain = in_place && !s.n_noise;
  if (!same) return s.wide ? tiled<F64>(s, first, last, short_runs) : tiled<F32>(s, first, last, short_runs);
  switch (s.out_type) {
    case Dtype::f32:
      if (in_place && sums_while_drawing(s)) return summed(s, first, last);
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
