// Random numbers for a range of groups. Vectors hold N consecutive groups, whichever samples they belong to.
#pragma once
#include "../core/normal.h"
#include "../core/philox.h"
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
  Family family;
  bool absolute = false;  // the draw alone counts, not the sample's draw base
  Source of(int64_t b) const {
    return source(rng[3 * b], rng[3 * b + 1], absolute ? 0 : rng[3 * b + 2], draw, stream);
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
  static constexpr bool kUniform = true;  // it takes more than normals
  float* z;
  FD_HD void put(int64_t at, F v) const { store(z + at, v); }
  FD_HD void part(int64_t at, const F (&v)[4], int64_t groups) const {
    __builtin_memcpy(z + at, v, static_cast<size_t>(groups) * 16);
  }
};

// kCount vectors of N groups of one sample, from `block` on, 4 N numbers each
template <Family kFamily, int kCount, class Sink>
FD_HD void draw_vectors(W c1, W c2, W c3, W k0, W k1, uint32_t block, int64_t at, const Sink& sink) {
  W c[2 * kCount][4];
  for (int v = 0; v < kCount; ++v) {
    const U c0 = kLanes.get() + (block + v * N);
    c[2 * v][0] = Simd::even(c0), c[2 * v + 1][0] = Simd::odd(c0);
  }
  for (int i = 0; i < 2 * kCount; ++i) c[i][1] = c1, c[i][2] = c2, c[i][3] = c3;
  philox<Simd>(c, k0, k1);
  for (int v = 0; v < kCount; ++v) {
    U w[4];
    F x[4], y[4];
    for (int l = 0; l < 4; ++l) w[l] = Simd::weave(c[2 * v][l], c[2 * v + 1][l]);
    draw4<Simd>(kFamily, w, x);
    Simd::blocks4(x, y);
    for (int r = 0; r < 4; ++r) sink.put(at + (4 * v + r) * N, y[r]);
  }
}

// The key is the same in all lanes: its rounds, and half of the first two of the counter's, are worked out
// ahead of the loop.
template <Family kFamily, class Sink>
__attribute__((noinline)) void draw_sample(const Source& s, uint32_t block, int64_t vectors, int64_t at,
                                           const Sink& given) {
  const Sink sink = given;  // a local one is not reloaded after each store
  const W c1 = Simd::word(s.c1), c2 = Simd::word(s.c2), c3 = Simd::word(s.c3), k0 = Simd::word(s.k0),
          k1 = Simd::word(s.k1);
  for (; vectors >= kVectors; vectors -= kVectors, at += 4 * N * kVectors, block += N * kVectors)
    draw_vectors<kFamily, kVectors>(c1, c2, c3, k0, k1, block, at, sink);
  if (vectors) draw_vectors<kFamily, 1>(c1, c2, c3, k0, k1, block, at, sink);
}

// N groups from (sample, block) on, across as many samples as it takes; `left` of them are asked for, the
// rest repeat the last.
void draw_across(const Column& column, int64_t sample, int64_t block, int64_t left, F (&out)[4]) {
  Lanes c0, c1, c2, c3, k0, k1;
  const auto set = [&](int64_t i, const Source& s, int64_t at_block) {
    const int64_t at = 4 * (i % (N / 4)) + i / (N / 4);  // the inverse of Simd::lane
    c0.v[at] = static_cast<uint32_t>(at_block), c1.v[at] = s.c1, c2.v[at] = s.c2, c3.v[at] = s.c3,
    k0.v[at] = s.k0, k1.v[at] = s.k1;
  };
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
  W e[4] = {Simd::even(c0.get()), Simd::even(c1.get()), Simd::even(c2.get()), Simd::even(c3.get())};
  W o[4] = {Simd::odd(c0.get()), Simd::odd(c1.get()), Simd::odd(c2.get()), Simd::odd(c3.get())};
  philox<Simd>(e, Simd::even(k0.get()), Simd::even(k1.get()));
  philox<Simd>(o, Simd::odd(k0.get()), Simd::odd(k1.get()));
  U w[4];
  F x[4];
  for (int l = 0; l < 4; ++l) w[l] = Simd::weave(e[l], o[l]);
  draw4<Simd>(column.family, w, x);
  Simd::blocks4(x, out);
}

// The numbers of groups [first, last), four a group
template <class Sink>
void draw_groups(const Column& column, int64_t first, int64_t last, const Sink& sink) {
  int64_t at = 0;
  int64_t sample = first / column.blocks, block = first % column.blocks;
  while (first < last) {
    const int64_t same = last - first < column.blocks - block ? last - first : column.blocks - block;
    if (const int64_t vectors = same / N; vectors > 0) {
      const Source s = column.of(sample);
      if (column.family == Family::normal)
        draw_sample<Family::normal>(s, static_cast<uint32_t>(block), vectors, at, sink);
      else if constexpr (Sink::kUniform)
        draw_sample<Family::uniform>(s, static_cast<uint32_t>(block), vectors, at, sink);
      first += vectors * N;
      block += vectors * N;
      at += 4 * N * vectors;
    } else {
      const int64_t left = last - first < N ? last - first : N;
      F out[4];
      draw_across(column, sample, block, left, out);
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
void draw_groups(const Column& column, int64_t first, int64_t last, float* z) {
  draw_groups(column, first, last, Store{z});
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
