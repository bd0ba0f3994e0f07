// One increment of a Brownian path by a walk down its tree, in registers: to the node that the two ends part
// in, from there to the first end, then to the second. An item is a block of four elements of a sample.
#pragma once
#include "../core/brownian.h"
#include "general.cuh"
#include "plan.h"

namespace fd::cuda {

template <bool kArea>
struct Quad {  // the four elements of a block over one piece of the path
  Pair<Scalar> v[4];
  int32_t cells = 0;
};

// Two pieces in the order of time; either may be empty
template <bool kArea>
FD_HD Quad<kArea> joined(const Quad<kArea>& p, const Quad<kArea>& r, int depth) {
  if (p.cells == 0) return r;
  if (r.cells == 0) return p;
  const float d1 = kArea ? width_of(p.cells, depth) : 0, d2 = kArea ? width_of(r.cells, depth) : 0;
  Quad<kArea> out;
  FD_UNROLL
  for (int l = 0; l < 4; ++l) {
    if constexpr (kArea) out.v[l] = join<Scalar>(d1, p.v[l], d2, r.v[l]);
    else out.v[l].w = add(p.v[l].w, r.v[l].w);
  }
  out.cells = p.cells + r.cells;
  return out;
}

// What one thread does
template <bool kArea>
FD_HD void walk(const Leg& leg, const Grid& g, int64_t thread) {
  const Brownian& p = leg.p;
  const int depth = p.depth;
  const int64_t end = int64_t(1) << depth;
  for (Walk w(g, thread); w.more(g); w.next(g)) {
    const int64_t* at = p.at ? p.at + (p.own ? 2 * w.sample : 0) : nullptr;
    const int64_t first = at ? fixed(at) : leg.from, last = at ? fixed(at + 1) : leg.to;
    bool good = 0 <= first && first <= last && last <= end;  // else NaN: nobody looked at it before
    const int32_t i = good ? static_cast<int32_t>(first) : 0, j = good ? static_cast<int32_t>(last) : 0;
    const int64_t* key = p.rng + 3 * w.sample;
    const int64_t seed = fixed(key), id = fixed(key + 1);
    int64_t row = 0;
    const auto shares = [&](int level) {
      if (!p.coefs) return uniform_clock(level);
      good = good && row < p.rows;
      const float* c = p.coefs + 3 * (good ? row++ : 0);
      return Shares{fixed(c), fixed(c + 1), fixed(c + 2)};
    };

    Quad<kArea> left, right, other, here;
    int32_t lo = 0, other_lo = 0;
    int level = -1, other_level = 0;  // -1: the root's value is still to be drawn
    uint32_t node = 0;
    enum { kDown, kFirst, kLast, kDone } phase = i < j ? kDown : kDone;
#pragma unroll 1
    while (phase != kDone) {
      const int32_t cells = here.cells;
      if (phase == kDown && level >= 0 && i == lo && j == lo + cells) {
        left = here;
        break;
      }
      if (phase == kFirst && i == lo) {
        left = joined(here, left, depth);
        here = other, lo = other_lo, level = other_level, phase = kLast;
        node = static_cast<uint32_t>((end + lo) >> (depth - level));
        continue;
      }
      if (phase == kLast && j == lo + cells) {
        right = joined(right, here, depth);
        break;
      }
      float z[4], q[4];
      draw_blocks<1>(Family::normal, source(seed, id, 0, node, kStreamW), w.item, z);
      if constexpr (kArea) draw_blocks<1>(Family::normal, source(seed, id, 0, node, kStreamH), w.item, q);
      if (level < 0) {
        const float std = p.coefs ? shares(0).std : 1.0f;
        FD_UNROLL
        for (int l = 0; l < 4; ++l) {
          here.v[l].w = mul(std, z[l]);
          if constexpr (kArea) here.v[l].h = mul(q[l], from_bits(kRootTwelfth));
        }
        here.cells = static_cast<int32_t>(end), level = 0, node = 1;
        continue;
      }
      Quad<kArea> a, b;
      a.cells = b.cells = cells / 2;
      if constexpr (kArea) {
        const AreaShares c = area_shares(level);
        FD_UNROLL
        for (int l = 0; l < 4; ++l) halve<Scalar>(c, here.v[l], z[l], q[l], a.v[l], b.v[l]);
      } else {
        const Shares c = shares(level);
        FD_UNROLL
        for (int l = 0; l < 4; ++l)
          halve<Scalar>(c.left, c.right, c.std, here.v[l].w, z[l], a.v[l].w, b.v[l].w);
      }
      const int32_t mid = lo + cells / 2;
      ++level;
      bool go_left;
      if (phase == kDown) {
        go_left = i < mid;
        if (go_left && mid < j) other = b, other_lo = mid, other_level = level, phase = kFirst;
      } else if (phase == kFirst) {
        go_left = i < mid;
        if (go_left) left = joined(b, left, depth);
      } else {
        go_left = j <= mid;
        if (!go_left) right = joined(right, a, depth);
      }
      here = go_left ? a : b;
      lo = go_left ? lo : mid, node = 2 * node + !go_left;
    }

    const Quad<kArea> all = joined(left, right, depth);
    const int64_t e = 4 * w.item;
    const int count = p.E - e < 4 ? static_cast<int>(p.E - e) : 4;
    FD_UNROLL
    for (int kind = 0; kind <= kArea; ++kind) {
      const float by = leg.scale[kind] ? fixed(leg.scale[kind] + (p.own ? w.sample : 0)) : 1.0f;
      float y[4];
      FD_UNROLL
      for (int l = 0; l < 4; ++l) {
        const float v = kind ? all.v[l].h : all.v[l].w;
        y[l] = !good ? nan_like(0.0f) : i == j ? 0.0f : mul(by, v);
      }
      store<float>(p.out_type, p.out[kind], w.sample * p.E + e, count, g.vectors && count == 4, y);
    }
  }
}

}  // namespace fd::cuda
