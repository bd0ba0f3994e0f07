// Brownian motion on the unit interval by halving: a tree of 2^depth cells, node 1 the root, node m with the
// children 2 m and 2 m + 1. z, q: normals of a node from the streams of W and of H; L = 2^-level its length.
//
//   root     W = z(0)                            Hb = z17(0) / sqrt 12
//   halve    W = W a_l + s z | W a_r - s z       uniform clock: a_l = a_r = 1/2, s = sqrt(L) / 2
//   with H   x = sqrt(L) / 4 z,  y = sqrt(L / 12) q,  b = 3 / (2 L) Hb + x
//            W = W / 2 + b | W / 2 - b           Hb = Hb / 8 - L / 4 x + L / 4 y | the same with - L / 4 y
//   join     W = W1 + W2                         Hb = Hb1 + Hb2 + (d2 W1 - d1 W2) / 2
//
// Hb = L H, H the space-time Levy area. Every product and sum is rounded, in the order written here.
// Source: Foster, Lyons and Oberhauser 2020, arXiv:1905.08494, theorems 4.1 and 5.1.
#pragma once
#include "hd.h"

namespace fd {

constexpr int kStreamW = 16, kStreamH = 17;
constexpr int kMaxDepth = 30;

FD_HD float power_of_two(int e) { return from_bits(static_cast<uint32_t>(127 + e) << 23); }

// sqrt(c 2^-level) rounded once, from sqrt(c) and sqrt(c / 2) rounded: a power of four moves exponents only
FD_HD float root_of_length(int level, uint32_t even, uint32_t odd) {
  return mul(from_bits(level % 2 ? odd : even), power_of_two(-(level / 2)));
}

// What halving a node multiplies with: shares of W, and the deviation
struct Shares {
  float left, right, std;
};
FD_HD Shares uniform_clock(int level) {
  return {0.5f, 0.5f, mul(0.5f, root_of_length(level, 0x3f800000u, 0x3f3504f3u))};
}

constexpr uint32_t kRootTwelfth = 0x3e93cd3au;  // sqrt(1 / 12)
struct AreaShares {
  float x, y, lift, quarter;
};
FD_HD AreaShares area_shares(int level) {
  return {mul(0.25f, root_of_length(level, 0x3f800000u, 0x3f3504f3u)),
          root_of_length(level, kRootTwelfth, 0x3e5105ecu),  // sqrt(1 / 24)
          mul(1.5f, power_of_two(level)), power_of_two(-level - 2)};
}

template <class M>
FD_HD void halve(typename M::F a_l, typename M::F a_r, typename M::F s, typename M::F w, typename M::F z,
                 typename M::F& left, typename M::F& right) {
  const typename M::F b = M::mul(s, z);
  left = M::add(M::mul(a_l, w), b);
  right = M::sub(M::mul(a_r, w), b);
}

template <class M>
struct Pair {  // the increment over a node and its area
  typename M::F w, h;
};

template <class M>
FD_HD void halve(const AreaShares& c, const Pair<M>& p, typename M::F z, typename M::F q, Pair<M>& left,
                 Pair<M>& right) {
  using F = typename M::F;
  const F x = M::mul(M::f(c.x), z), y = M::mul(M::f(c.y), q);
  const F b = M::add(M::mul(M::f(c.lift), p.h), x), half = M::mul(p.w, M::f(0.5f));
  const F e = M::sub(M::mul(p.h, M::f(0.125f)), M::mul(M::f(c.quarter), x)), k = M::mul(M::f(c.quarter), y);
  left = {M::add(half, b), M::add(e, k)};
  right = {M::sub(half, b), M::sub(e, k)};
}

template <class M>
FD_HD Pair<M> join(float d1, const Pair<M>& p, float d2, const Pair<M>& r) {
  const auto t = M::sub(M::mul(M::f(d2), p.w), M::mul(M::f(d1), r.w));
  return {M::add(p.w, r.w), M::add(M::add(p.h, r.h), M::mul(M::f(0.5f), t))};
}

// A width in cells on the unit interval, rounded once
FD_HD float width_of(int64_t cells, int depth) {
  return mul(static_cast<float>(static_cast<int32_t>(cells)), power_of_two(-depth));
}

}  // namespace fd
