// Brownian increments through tiles that stay in the caches
#pragma once
#include <memory>
#include "../core/brownian.h"
#include "kernels.h"
#include "ladder.h"
#include "lanes.inl"
#include "noise.inl"

namespace fd::FD_ISA {
namespace {

constexpr int64_t kPathTile = 512;                       // groups
constexpr int64_t kPathRow = 4 * kPathTile + 4 * N;      // a last vector may be filled beyond its groups

// A path sink takes whole vectors, also where the last groups are fewer
template <class Self>
struct Whole {
  FD_HD void part(int64_t at, const F (&v)[4], int64_t) const {
    for (int r = 0; r < 4; ++r) static_cast<const Self*>(this)->put(at + r * N, v[r]);
  }
};

struct Scaled : Whole<Scaled> {
  F by;
  float* to;
  Scaled(float by, float* to) : by(Simd::f(by)), to(to) {}
  FD_HD void put(int64_t at, F z) const { store(to + at, Simd::mul(by, z)); }
};

// One half is kept or, with kBoth, added to a sum; the other is always added. s is negative where the one is
// the right half: w - s z and w + (-s) z have the same bits.
template <bool kUniform, bool kBoth>
struct Halve : Whole<Halve<kUniform, kBoth>> {
  F a_one, a_other, s;
  const float *from, *onto_one, *onto_other;
  float *to_one, *to_other;
  FD_HD void put(int64_t at, F z) const {
    const F w = load<F>(from + at), b = Simd::mul(s, z), h = Simd::mul(a_one, w);
    const F one = Simd::add(h, b), other = Simd::sub(kUniform ? h : Simd::mul(a_other, w), b);
    store(to_one + at, kBoth ? Simd::add(load<F>(onto_one + at), one) : one);
    store(to_other + at, Simd::add(load<F>(onto_other + at), other));
  }
};

using Rows = float (*)[kPathRow];

class Tile {  // too large for a stack
 public:
  void fit(int64_t rows) {
    if (rows > rows_) own_.reset(new Cell[static_cast<size_t>(rows)]), rows_ = rows;
  }
  Rows rows() const { return &own_[0].row; }

 private:
  struct alignas(64) Cell {
    float row[kPathRow];
  };
  std::unique_ptr<Cell[]> own_;
  int64_t rows_ = 0;
};

struct HalveArea : Whole<HalveArea> {
  AreaShares c;
  const cpu::Rung& r;
  Rows w, h;
  const float* z;
  HalveArea(const cpu::Rung& r, Rows w, Rows h, const float* z)
      : c(area_shares(r.level)), r(r), w(w), h(h), z(z) {}
  FD_HD void half(const cpu::Half& to, int64_t at, Pair<Simd> p) const {
    if (to.onto != cpu::kNothing) {
      const Pair<Simd> q{load<F>(w[to.onto] + at), load<F>(h[to.onto] + at)};
      p = to.first ? join<Simd>(to.width, p, to.onto_width, q) : join<Simd>(to.onto_width, q, to.width, p);
    }
    store(w[to.to] + at, p.w), store(h[to.to] + at, p.h);
  }
  FD_HD void put(int64_t at, F q) const {
    Pair<Simd> left, right;
    halve<Simd>(c, {load<F>(w[r.from] + at), load<F>(h[r.from] + at)}, load<F>(z + at), q, left, right);
    half(r.left, at, left);
    half(r.right, at, right);
  }
};

// Groups [first, last) of every increment of a ladder; at most kPathTile, with areas half as many
template <bool kArea>
void climb(const Brownian& p, const cpu::Ladder& ladder, const float* scale, const Tile& tile, int64_t first,
           int64_t last) {
  const int64_t blocks = blocks_of(p.E), groups = last - first;
  const int64_t from = element_of(first, blocks, p.E), count = element_of(last, blocks, p.E) - from;
  const Rows w = tile.rows(), h = w + ladder.buffers;
  float* const z = w[(kArea ? 2 : 1) * ladder.buffers];
  const auto column = [&](uint32_t node, int32_t stream) {
    return Column{p.rng, blocks, node, stream, {}, true};
  };
  const float* coefs = p.coefs;
  draw_groups(column(0, kStreamW), first, last, Scaled{coefs ? coefs[2] : 1.0f, w[cpu::kRoot]});
  if constexpr (kArea)
    draw_groups(column(0, kStreamH), first, last, Scaled{from_bits(kRootTwelfth), h[cpu::kRoot]});
  for (int64_t i = 0; i < 4 * (groups + N); ++i) w[cpu::kNothing][i] = -0.0f;  // adding it changes nothing

  for (const cpu::Rung& r : ladder.rungs) {
    if (r.increment < 0) {
      if constexpr (kArea) {
        draw_groups(column(r.node, kStreamW), first, last, Scaled{1.0f, z});
        draw_groups(column(r.node, kStreamH), first, last, HalveArea{r, w, h, z});
      } else {
        Shares c = uniform_clock(r.level);
        if (coefs) coefs += 3, c = {coefs[0], coefs[1], coefs[2]};
        const bool both = r.left.onto != cpu::kNothing && r.right.onto != cpu::kNothing;
        const bool swap = r.left.onto != cpu::kNothing;
        const cpu::Half &one = swap ? r.right : r.left, &other = swap ? r.left : r.right;
        const auto run = [&](auto s) {
          s.a_one = Simd::f(swap ? c.right : c.left), s.a_other = Simd::f(swap ? c.left : c.right);
          s.s = Simd::f(swap ? -c.std : c.std);
          s.from = w[r.from];
          s.onto_one = w[one.onto], s.onto_other = w[other.onto];
          s.to_one = w[one.to], s.to_other = w[other.to];
          draw_groups(column(r.node, kStreamW), first, last, s);
        };
        if (coefs) run(Halve<false, true>{});
        else if (both) run(Halve<true, true>{});
        else run(Halve<true, false>{});
      }
      continue;
    }
    for (int kind = 0; kind <= kArea; ++kind) {
      const F by = Simd::f(scale ? scale[r.increment + kind * (p.own ? p.B : p.K)] : 1.0f);
      const bool direct = p.out_type == Dtype::f32 && p.E % 4 == 0;
      const int64_t to = r.increment * p.B * p.E + from;
      float* y = direct ? static_cast<float*>(p.out[kind]) + to : z;
      const float *a = w[r.from], *b = w[r.other];
      const auto sum = [=, &r](int64_t i) {
        if constexpr (!kArea) return Simd::mul(by, Simd::add(load<F>(a + i), load<F>(b + i)));
        Pair<Simd> v{load<F>(a + i), load<F>(h[r.from] + i)};
        if (r.other != cpu::kNothing)
          v = join<Simd>(r.width, v, r.other_width, {load<F>(b + i), load<F>(h[r.other] + i)});
        return Simd::mul(by, kind ? v.h : v.w);
      };
      int64_t i = 0;
      for (; i + N <= 4 * groups; i += N) store(y + i, sum(i));
      if (i < 4 * groups) {
        const F v = sum(i);
        __builtin_memcpy(y + i, &v, static_cast<size_t>(4 * groups - i) * sizeof(float));
      }
      if (direct) continue;
      if (p.E % 4) close_gaps(z, first, last, blocks, p.E);
      narrow(p.out_type, z, p.out[kind], to, count);
    }
  }
}

void climb(const Brownian& p, const cpu::Ladder& ladder, const float* scale, Tile& tile, int64_t first,
           int64_t last) {
  tile.fit((p.out[1] ? 2 : 1) * ladder.buffers + 1);
  for (int64_t g = first; g < last; g += kPathTile) {
    const int64_t end = g + kPathTile < last ? g + kPathTile : last;
    if (p.out[1]) climb<true>(p, ladder, scale, tile, g, end);
    else climb<false>(p, ladder, scale, tile, g, end);
  }
}

void zeros(const Brownian& p, int64_t first, int64_t last) {
  const int64_t from = element_of(first, blocks_of(p.E), p.E), to = element_of(last, blocks_of(p.E), p.E);
  const auto size = static_cast<size_t>(width_of(p.out_type));
  for (void* out : p.out)
    if (out)
      __builtin_memset(static_cast<char*>(out) + static_cast<size_t>(from) * size, 0,
                       static_cast<size_t>(to - from) * size);
}

}  // namespace

void brownian_range(const PathJob& job, int64_t first, int64_t last) {
  const Brownian& p = job.p;
  Tile tile;
  if (!p.own) return climb(p, *job.ladder, p.scale, tile, first, last);
  const int64_t blocks = blocks_of(p.E);
  cpu::Ladder ladder;
  while (first < last) {
    const int64_t b = first / blocks, end = (b + 1) * blocks < last ? (b + 1) * blocks : last;
    const int64_t* at = p.at + 2 * b;
    if (at[0] == at[1]) {
      zeros(p, first, end);
    } else {
      ladder.build(at, 1, p.depth);
      climb(p, ladder, p.scale ? p.scale + b : nullptr, tile, first, end);
    }
    first = end;
  }
}

}  // namespace fd::FD_ISA
