// Random numbers for a range of groups. Vectors hold N consecutive groups, whichever samples they belong to.
#pragma once
#include "../core/families.h"
#include "../step.h"
#include "simd.h"

namespace fd::FD_ISA {
namespace {

// Where the groups of a call lie in its samples, and the key of each sample for one noise column.
struct Column {
  const int64_t* rng;
  int64_t blocks;  // groups of a sample
  int64_t draw;
  int32_t stream;
  Constants constants = {};
  Source of(int64_t b) const {
    return source(rng[3 * b], rng[3 * b + 1], rng[3 * b + 2], draw, stream);
  }
};

constexpr Lanes block_order() {
  Lanes l{};
  for (int i = 0; i < N; ++i) l.v[i] = static_cast<uint32_t>(Simd::lane(i));
  return l;
}
constexpr Lanes kLanes = block_order();

// Who takes the numbers as they are made: vectors of them in order, `at` counting numbers. The last four may
// hold fewer than N groups.
struct Store {
  float* z;
  FD_HD void put(int64_t at, F v) const { store(z + at, v); }
  FD_HD void part(int64_t at, const F (&v)[4], int64_t groups) const {
    __builtin_memcpy(z + at, v, static_cast<size_t>(groups) * 16);
  }
};

// The words of kVectors vectors: kRounds more rounds for the counters of their even and odd lanes, the last of
// which works on whole vectors
template <int kRounds>
FD_HD void philox_words(W (&c)[2 * kVectors][4], const W (&k0)[kRounds][2], const W (&k1)[kRounds][2],
                        U (*w)[4]) {
  FD_UNROLL
  for (int r = 0; r < kRounds - 1; ++r) {
    W a[2 * kVectors], b[2 * kVectors];
    for (int i = 0; i < 2 * kVectors; ++i) a[i] = k0[r][i % 2], b[i] = k1[r][i % 2];
    philox_round<Simd, 2 * kVectors>(c, a, b);
  }
  const W(&a)[2] = k0[kRounds - 1], (&b)[2] = k1[kRounds - 1];
  FD_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const W(&e)[4] = c[2 * v], (&o)[4] = c[2 * v + 1];
    W hi, even, odd;
    Simd::product(kPhilox1, e[2], hi, even), Simd::product(kPhilox1, o[2], hi, odd);
    w[v][0] = Simd::weave_high(even, odd) ^ Simd::weave(e[1], o[1]) ^ Simd::weave(a[0], a[1]);
    w[v][1] = Simd::weave(even, odd);
    Simd::product(kPhilox0, e[0], hi, even), Simd::product(kPhilox0, o[0], hi, odd);
    w[v][2] = Simd::weave_high(even, odd) ^ Simd::weave(e[3], o[3]) ^ Simd::weave(b[0], b[1]);
    w[v][3] = Simd::weave(even, odd);
  }
}

// The numbers of `vectors` vectors. Words go through memory, so that each of the two loops has its constants in
// registers (0.68 -> 0.64 ns a normal); two vectors at once keep the pipes busy (0.64 -> 0.60).
constexpr int kAhead = 16;
template <Family kFamily, class Words, class Put>
FD_HD void draw_vectors(const Constants& constants, int64_t vectors, const Words& words, const Put& put) {
  U w[kAhead][4];
  for (int64_t first = 0; first < vectors; first += kAhead) {
    const int64_t n = vectors - first < kAhead ? vectors - first : kAhead;
    for (int64_t v = 0; v < n; v += kVectors) words(first + v, w + v);
    int64_t v = 0;
    for (; v + kVectors <= n; v += kVectors) {
      F x[kVectors][4];
      for (int i = 0; i < kVectors; ++i) draw4_of<Simd, kFamily>(constants, w[v + i], x[i]);
      for (int i = 0; i < kVectors; ++i) put(first + v + i, x[i]);
    }
    for (; v < n; ++v) {
      F x[4];
      draw4_of<Simd, kFamily>(constants, w[v], x);
      put(first + v, x);
    }
  }
}

// The key is the same in all lanes: its rounds, and half of the first two of the counter's, are worked out
// ahead of the loop.
template <Family kFamily, class Sink>
__attribute__((noinline)) void draw_sample(const Constants& constants, const Source& s, uint32_t block,
                                           int64_t vectors, int64_t at, const Sink& given) {
  const Sink sink = given;  // a local one is not reloaded after each store
  const W c1 = Simd::word(s.c1), c2 = Simd::word(s.c2), c3 = Simd::word(s.c3);
  W k0[10][2], k1[10][2];
  for (uint32_t r = 0; r < 10; ++r) {
    k0[r][0] = k0[r][1] = Simd::word(s.k0 + r * kWeyl0);
    k1[r][0] = k1[r][1] = Simd::word(s.k1 + r * kWeyl1);
  }
  const auto words = [&](int64_t v, U (*w)[4]) __attribute__((always_inline)) {
    W c[2 * kVectors][4];
    for (int i = 0; i < 2 * kVectors; ++i) {
      const U c0 = kLanes.get() + (block + static_cast<uint32_t>((v + i / 2) * N));
      c[i][0] = i % 2 ? Simd::odd(c0) : Simd::even(c0), c[i][1] = c1, c[i][2] = c2, c[i][3] = c3;
    }
    philox_words(c, k0, k1, w);
  };
  const auto put = [&](int64_t v, const F (&x)[4]) __attribute__((always_inline)) {
    F y[4];
    Simd::blocks4(x, y);
    for (int r = 0; r < 4; ++r) sink.put(at + (4 * v + r) * N, y[r]);
  };
  draw_vectors<kFamily>(constants, vectors, words, put);
}

// N groups from (sample, block) on, across as many samples as it takes; `left` of them are asked for, the
// rest repeat the last.
struct Across {
  Lanes c0, c1, c2, c3, k0, k1;
  Across(const Column& column, int64_t sample, int64_t block, int64_t left) {
    if (column.blocks == 1 && left == N) {  // points: no block to count, so the loop unrolls
      FD_UNROLL
      for (int64_t i = 0; i < N; ++i) set(i, column.of(sample + i), 0);
    } else {
      Source s = column.of(sample);
      for (int64_t i = 0; i < N; ++i) {
        set(i, s, block);
        if (i + 1 < left && ++block == column.blocks) block = 0, s = column.of(++sample);
      }
    }
  }

 private:
  FD_HD void set(int64_t i, const Source& s, int64_t block) {
    const int64_t at = 4 * (i % (N / 4)) + i / (N / 4);  // the inverse of Simd::lane
    c0.v[at] = static_cast<uint32_t>(block), c1.v[at] = s.c1, c2.v[at] = s.c2, c3.v[at] = s.c3,
    k0.v[at] = s.k0, k1.v[at] = s.k1;
  }
};

template <Family kFamily>
void draw_across(const Column& column, int64_t sample, int64_t block, int64_t left, F (&out)[4]) {
  const Across a(column, sample, block, left);
  U w[4];
  F x[4];
  block_words<Simd>(a.c0.get(), a.c1.get(), a.c2.get(), a.c3.get(), a.k0.get(), a.k1.get(), w);
  draw4_of<Simd, kFamily>(column.constants, w, x);
  Simd::blocks4(x, out);
}

// The numbers of groups [first, last), four a group
template <Family kFamily = Family::normal, class Sink>
void draw_groups(const Column& column, int64_t first, int64_t last, const Sink& sink) {
  int64_t at = 0;
  int64_t sample = first / column.blocks, block = first % column.blocks;
  while (first < last) {
    const int64_t same = last - first < column.blocks - block ? last - first : column.blocks - block;
    if (const int64_t vectors = same / N; vectors > 0) {
      draw_sample<kFamily>(column.constants, column.of(sample), static_cast<uint32_t>(block), vectors, at, sink);
      first += vectors * N;
      block += vectors * N;
      at += 4 * N * vectors;
    } else {
      const int64_t left = last - first < N ? last - first : N;
      F out[4];
      draw_across<kFamily>(column, sample, block, left, out);
      if (left == N) {
        for (int r = 0; r < 4; ++r) sink.put(at + r * N, out[r]);
      } else {
        sink.part(at, out, left);
      }
      first += left;
      block += left;
      at += 4 * left;
    }
    if (block >= column.blocks) {
      sample += block / column.blocks;
      block %= column.blocks;
    }
  }
}

// Written from z on: exactly 4 (last - first) numbers
template <Family kFamily = Family::normal>
void draw_groups(const Column& column, int64_t first, int64_t last, float* z) {
  draw_groups<kFamily>(column, first, last, Store{z});
}

// Elements before group `group`
inline int64_t element_of(int64_t group, int64_t blocks, int64_t E) {
  const int64_t sample = group / blocks, e = 4 * (group % blocks);
  return sample * E + (e < E ? e : E);
}

// Groups of 4 to elements without gaps, in place, where E is no multiple of 4. z starts at group `first`.
inline void close_gaps(float* z, int64_t first, int64_t last, int64_t blocks, int64_t E) {
  float* to = z;
  const float* from = z;
  int64_t block = first % blocks;
  while (first < last) {
    const int64_t groups = last - first < blocks - block ? last - first : blocks - block;
    const int64_t end = block + groups == blocks ? E : 4 * (block + groups), m = end - 4 * block;
    if (to == from) {
    } else if (m <= 16) {
      for (int64_t l = 0; l < m; ++l) to[l] = from[l];
    } else {
      __builtin_memmove(to, from, static_cast<size_t>(m) * sizeof(float));
    }
    to += m;
    from += 4 * groups;
    first += groups;
    block = 0;
  }
}

}  // namespace
}  // namespace fd::FD_ISA
