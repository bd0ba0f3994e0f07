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
  Source of(int64_t b) const { return source(rng[3 * b], rng[3 * b + 1], rng[3 * b + 2], draw, stream); }
};

struct alignas(kBytes) Lanes {
  uint32_t v[N];
  U get() const { return load<U>(v); }
};
constexpr Lanes lanes() {
  Lanes l{};
  for (int i = 0; i < N; ++i) l.v[i] = static_cast<uint32_t>(Simd::lane(i));
  return l;
}
constexpr Lanes kLanes = lanes();

// 4 N numbers: the groups whose counter blocks and keys stand in lane order in the arguments
FD_HD void draw_vector(Family family, U c0, U c1, U c2, U c3, U k0, U k1, F (&out)[4]) {
  W e[4] = {Simd::even(c0), Simd::even(c1), Simd::even(c2), Simd::even(c3)};
  W o[4] = {Simd::odd(c0), Simd::odd(c1), Simd::odd(c2), Simd::odd(c3)};
  philox<Simd>(e, Simd::even(k0), Simd::even(k1));
  philox<Simd>(o, Simd::odd(k0), Simd::odd(k1));
  const U w[4] = {Simd::weave(e[0], o[0]), Simd::weave(e[1], o[1]), Simd::weave(e[2], o[2]), Simd::weave(e[3], o[3])};
  F z[4];
  draw4<Simd>(family, w, z);
  Simd::blocks4(z, out);
}

// `vectors` times N groups of one sample, from `block` on: the keys are the same in all lanes and stay out of the loop
template <Family kFamily> void draw_sample(const Source& s, uint32_t block, int64_t vectors, float* z) {
  const W c1 = Simd::word(s.c1), c2 = Simd::word(s.c2), c3 = Simd::word(s.c3), k0 = Simd::word(s.k0), k1 = Simd::word(s.k1);
  const U start = kLanes.get();
  for (int64_t v = 0; v < vectors; ++v, z += 4 * N, block += N) {
    const U c0 = start + block;
    W e[4] = {Simd::even(c0), c1, c2, c3}, o[4] = {Simd::odd(c0), c1, c2, c3};
    philox<Simd>(e, k0, k1);
    philox<Simd>(o, k0, k1);
    const U w[4] = {Simd::weave(e[0], o[0]), Simd::weave(e[1], o[1]), Simd::weave(e[2], o[2]), Simd::weave(e[3], o[3])};
    F x[4], y[4];
    draw4<Simd>(kFamily, w, x);
    Simd::blocks4(x, y);
    for (int r = 0; r < 4; ++r) store(z + r * N, y[r]);
  }
}

// N groups from (sample, block) on, across as many samples as it takes; `left` of them are asked for, the rest repeat the last
void draw_across(const Column& column, int64_t sample, int64_t block, int64_t left, F (&out)[4]) {
  Lanes c0, c1, c2, c3, k0, k1;
  Source s = column.of(sample);
  for (int64_t i = 0; i < N; ++i) {
    const int at = static_cast<int>(4 * (i % (N / 4)) + i / (N / 4));  // the inverse of Simd::lane
    c0.v[at] = static_cast<uint32_t>(block);
    c1.v[at] = s.c1;
    c2.v[at] = s.c2;
    c3.v[at] = s.c3;
    k0.v[at] = s.k0;
    k1.v[at] = s.k1;
    if (i + 1 < left && ++block == column.blocks) {
      block = 0;
      s = column.of(++sample);
    }
  }
  draw_vector(column.family, c0.get(), c1.get(), c2.get(), c3.get(), k0.get(), k1.get(), out);
}

// The numbers of groups [first, last), four a group, written from z on: exactly 4 (last - first) of them
void draw_groups(const Column& column, int64_t first, int64_t last, float* z) {
  int64_t sample = first / column.blocks, block = first % column.blocks;
  while (first < last) {
    const int64_t same = last - first < column.blocks - block ? last - first : column.blocks - block;
    if (const int64_t vectors = same / N; vectors > 0) {
      const Source s = column.of(sample);
      if (column.family == Family::normal) draw_sample<Family::normal>(s, static_cast<uint32_t>(block), vectors, z);
      else draw_sample<Family::uniform>(s, static_cast<uint32_t>(block), vectors, z);
      first += vectors * N;
      block += vectors * N;
      z += 4 * N * vectors;
    } else {
      const int64_t left = last - first < N ? last - first : N;
      F out[4];
      draw_across(column, sample, block, left, out);
      if (left == N) {
        for (int r = 0; r < 4; ++r) store(z + r * N, out[r]);
      } else {
        __builtin_memcpy(z, out, static_cast<size_t>(left) * 16);
      }
      first += left;
      block += left;
      z += 4 * left;
    }
    if (block >= column.blocks) {
      sample += block / column.blocks;
      block %= column.blocks;
    }
  }
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
