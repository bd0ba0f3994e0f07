// The laws of noise: from random words to numbers. fastdiff/ops/noise.py says which word serves which element
// and where a family's constants come from. As in normal.h only multiply, add, square root, conversions and
// integer operations, each rounded once.
#pragma once
#include "normal.h"
#include "philox.h"

namespace fd {

// What the parameters of a family come to, rounded to float32 by the caller
struct Constants {
  float f[5];
  uint32_t last;  // bernoulli: the largest word of a one
};

constexpr int kNumberOfFamilies = 11;
constexpr int kAttempts = 256;      // of a rejection sampler: eight bits of the counter
constexpr int32_t kChiStream = 14;  // where multivariate_t draws the chi-squares of its samples

// An element's block is element >> block_shift, and its words there follow from the low bits.
FD_HD constexpr int block_shift(Family family) {
  return family == Family::rademacher ? 7 : family == Family::student_t ? 1 : family == Family::gamma ? 0 : 2;
}
// Four elements on end have one block, and draw4_of makes them
FD_HD constexpr bool by_fours(Family family) { return family < Family::rademacher; }

// The four words of a block, lane by lane
template <class M>
FD_HD void block_words(typename M::U c0, typename M::U c1, typename M::U c2, typename M::U c3,
                       typename M::U k0, typename M::U k1, typename M::U (&w)[4]) {
  if constexpr (M::kHalves) {
    typename M::W e[4] = {M::even(c0), M::even(c1), M::even(c2), M::even(c3)};
    typename M::W o[4] = {M::odd(c0), M::odd(c1), M::odd(c2), M::odd(c3)};
    philox<M>(e, M::even(k0), M::even(k1));
    philox<M>(o, M::odd(k0), M::odd(k1));
    for (int l = 0; l < 4; ++l) w[l] = M::weave(e[l], o[l]);
  } else {
    w[0] = c0, w[1] = c1, w[2] = c2, w[3] = c3;
    philox<M>(w, k0, k1);
  }
}

// ---- functions

// y = (k + r / ln 2) ln 2 with |r| <= ln 2 / 2: two_k = 2^k, and p = e^r - 1. -87 <= y <= 88.
template <class M>
FD_HD void exponent(typename M::F y, typename M::F& two_k, typename M::F& p) {
  using F = typename M::F;
  const F t = M::add(M::mul(y, M::c(0x3fb8aa3bu)), M::f(0x1.8p23f));  // y / ln 2 to the nearest integer
  const F k = M::sub(t, M::f(0x1.8p23f));
  two_k = M::real_bits((M::bits(t) + (127u - 0x4b400000u)) << 23);
  F r = M::sub(y, M::mul(k, M::c(0x3f317200u)));  // ln 2, high part: this product is exact
  r = M::sub(r, M::mul(k, M::c(0x35bfbe8eu)));
  F q = M::c(0x3ab5cb46u);
  q = M::add(M::mul(q, r), M::c(0x3c0912a1u));
  q = M::add(M::mul(q, r), M::c(0x3d2aab7bu));
  q = M::add(M::mul(q, r), M::c(0x3e2aaa5au));
  q = M::add(M::mul(q, r), M::c(0x3effffffu));
  p = M::add(M::mul(M::mul(r, r), q), r);
}

template <class M>
FD_HD typename M::F least(typename M::F a, float b) {
  return M::choose(M::less(a, M::f(b)), a, M::f(b));
}

// e^y, and no more than e^88
template <class M>
FD_HD typename M::F exp(typename M::F y) {
  typename M::F two_k, p;
  exponent<M>(least<M>(y, 88.0f), two_k, p);
  return M::mul(two_k, M::add(p, M::f(1.0f)));
}

// e^-x, 1 - e^-x of x >= 0; x no more than 87
template <class M>
FD_HD typename M::F exp_minus(typename M::F x) {
  return exp<M>(M::negative(least<M>(x, 87.0f)));
}
template <class M>
FD_HD typename M::F one_minus_exp(typename M::F x) {
  typename M::F two_k, p;
  exponent<M>(M::negative(least<M>(x, 87.0f)), two_k, p);
  return M::sub(M::sub(M::f(1.0f), two_k), M::mul(two_k, p));
}

// ---- one word, one number

// -2 ln of the uniform, which is kept below 1 so that the logarithm is not 0
template <class M>
FD_HD typename M::F m2log_below_1(typename M::U w) {
  const typename M::U most = M::u(0xffffff00u);
  return m2log_word<M>(M::choose(M::less(w, most), w, most));
}
template <class M>
FD_HD typename M::F exponential(typename M::U w) {
  return M::mul(m2log_below_1<M>(w), M::f(0.5f));
}
template <class M>
FD_HD typename M::F gumbel(typename M::U w) {
  return M::mul(m2log<M>(exponential<M>(w)), M::f(0.5f));
}
template <class M>
FD_HD typename M::F laplace(typename M::U w) {  // the top bit is the sign, 31 bits the uniform
  const typename M::F l = m2log<M>(M::fuse(M::real(w << 1), M::f(0x1p-32f), M::f(0x1p-32f)));
  return M::real_bits(M::bits(M::mul(l, M::c(0x3eb504f3u))) ^ (w & 0x80000000u));  // times sqrt(1/8)
}
template <class M>
FD_HD typename M::F bernoulli(const Constants& c, typename M::U w) {
  return M::choose(M::less(M::u(c.last), w), M::f(0.0f), M::f(c.f[0]));
}
// +-m + sqrt(1 - m^2) z: the sign is bit `l` of the angle's word
template <class M>
FD_HD typename M::F bimodal(const Constants& c, typename M::F z, typename M::U w, typename M::U l) {
  const typename M::F m = M::real_bits(M::bits(M::f(c.f[0])) ^ (w >> l << 31));
  return M::add(M::mul(z, M::f(c.f[1])), m);
}
// bit e & 31 of its word: 1 for +1, 0 for -1
template <class M>
FD_HD typename M::F sign(typename M::U w, typename M::U e) {
  return M::real_bits((~(w >> (e & 31u)) << 31) | 0x3f800000u);
}

// ---- two words

template <class M>
FD_HD void box_muller(typename M::U w0, typename M::U w1, typename M::F& x, typename M::F& y) {
  typename M::F cosine, sine;
  typename M::U flip;
  turn<M>(w1, cosine, sine, flip);
  const typename M::F r = M::real_bits(M::bits(M::root(m2log_word<M>(w0))) ^ flip);
  x = M::mul(r, cosine), y = M::mul(r, sine);
}

// Bailey 1994: cos(2 pi v) sqrt(nu (u^(-2/nu) - 1)) = cos sqrt(nu) sqrt(1 - e^-x) e^(x/2), x = -2 ln(u) / nu.
// f[0] = 1 / nu, f[1] = the scale times sqrt(nu)
template <class M>
FD_HD typename M::F student_t(const Constants& c, typename M::U w0, typename M::U w1) {
  using F = typename M::F;
  F cosine, sine;
  typename M::U flip;
  turn<M>(w1, cosine, sine, flip);
  const F x = M::mul(m2log_word<M>(w0), M::f(c.f[0]));
  const F r = M::mul(M::root(one_minus_exp<M>(x)), exp<M>(M::mul(x, M::f(0.5f))));
  return M::mul(M::real_bits(M::bits(r) ^ flip), M::mul(cosine, M::f(c.f[1])));
}

// ---- rejection

// Marsaglia and Tsang 2000: d (1 + t)^3 is gamma of shape d + 1/3 >= 1 where t = c x, x normal, is accepted:
// 1 + t > 0 and E > d q, E exponential, q = 3 (t - ln(1 + t)) - 3/2 t^2 + t^3: their test with the terms in
// x^2 cancelled by hand, which keeps it exact for large d. The logarithm and q take t as 1 + t has it.
// counter: everything but the attempt, which is added to c1 << 24. f[0] = c, f[1] = d.
template <class M>
FD_HD typename M::F accepted(const Constants& c, typename M::U c0, typename M::U c1, typename M::U c2,
                             typename M::U c3, typename M::U k0, typename M::U k1, typename M::U& rest) {
  using F = typename M::F;
  using U = typename M::U;
  F t = M::f(0.0f);  // what 256 refusals, of probability below 1e-300, would leave
  rest = M::u(0);
  typename M::C open = M::less(M::u(0), M::u(1));
  for (uint32_t attempt = 0; attempt < kAttempts && M::any(open); ++attempt) {
    U w[4];
    block_words<M>(c0, c1 + (attempt << 24), c2, c3, k0, k1, w);
    F x, y;
    box_muller<M>(w[0], w[1], x, y);
    const F tx = M::mul(x, M::f(c.f[0])), s = M::add(tx, M::f(1.0f)), a = M::sub(s, M::f(1.0f));
    const F l = M::mul(m2log<M>(s), M::f(0.5f));  // garbage where 1 + t <= 0, which is refused
    const F q = M::add(M::mul(M::add(l, a), M::f(3.0f)), M::mul(M::mul(a, a), M::sub(a, M::f(1.5f))));
    const F e = M::mul(m2log_word<M>(w[2]), M::f(0.5f));
    const auto yes = M::both(
        open, M::both(M::less(M::f(0.0f), s), M::less(M::mul(q, M::f(c.f[1])), e)));
    t = M::choose(yes, tx, t);
    rest = M::choose(yes, w[3], rest);
    open = M::both(open, M::no(yes));
  }
  return t;
}

// (gamma(k) + f[3]) f[4]. f: c, d, and f[2]: 1 / k where k < 1, else 0 for the difference to d, -1 for all
template <class M>
FD_HD typename M::F gamma(const Constants& c, typename M::U c0, typename M::U c1, typename M::U c2,
                          typename M::U c3, typename M::U k0, typename M::U k1) {
  using F = typename M::F;
  typename M::U rest;
  const F t = accepted<M>(c, c0, c1, c2, c3, k0, k1, rest), d = M::f(c.f[1]);
  F g;
  if (c.f[2] == 0.0f) {  // d (1 + t)^3 - d, to full precision
    g = M::mul(M::mul(d, t), M::add(M::mul(M::add(t, M::f(3.0f)), t), M::f(3.0f)));
  } else {
    const F s = M::add(t, M::f(1.0f));
    g = M::mul(M::mul(M::mul(d, s), s), s);
    if (c.f[2] > 0.0f) {  // of shape k + 1, times u^(1/k)
      const F e = M::mul(m2log_word<M>(rest), M::f(0.5f));
      g = M::mul(g, exp_minus<M>(M::mul(e, M::f(c.f[2]))));
    }
  }
  return M::mul(M::add(g, M::f(c.f[3])), M::f(c.f[4]));
}

// sqrt(nu / chi2_nu) of a sample, times the scale: the chi-square is 2 gamma(nu / 2), its element the stream of
// the normals. f: c, d, 1 / nu where nu < 2 and else 0, the scale times sqrt(nu / (2 d))
FD_HD float chi_factor(const Constants& c, Source s) {
  const uint32_t of = s.c3 >> 24, c3 = (s.c3 & 0xffffffu) | static_cast<uint32_t>(kChiStream) << 24;
  uint32_t rest;
  const float t = accepted<Scalar>(c, of, s.c1, s.c2, c3, s.k0, s.k1, rest);
  float y = mul(m2log<Scalar>(add(t, 1.0f)), 0.75f);  // -1/2 ln (1 + t)^3
  if (c.f[2] != 0.0f) y = add(y, mul(mul(m2log_word<Scalar>(rest), 0.5f), c.f[2]));
  return mul(exp<Scalar>(y), c.f[3]);
}

// ---- the two ways in

// The four numbers of a block; multivariate_t: the normals, which chi_factor multiplies
template <class M, Family kFamily>
FD_HD void draw4_of(const Constants& c, const typename M::U (&w)[4], typename M::F (&z)[4]) {
  static_assert(by_fours(kFamily));
  if constexpr (kFamily == Family::normal || kFamily == Family::uniform) {
    draw4<M>(kFamily, w, z);
  } else if constexpr (kFamily == Family::multivariate_t) {
    normal4<M>(w, z);
  } else if constexpr (kFamily == Family::bimodal) {
    normal4<M>(w, z);
    FD_UNROLL
    for (int l = 0; l < 4; ++l) z[l] = bimodal<M>(c, z[l], w[l | 1], M::u(l & 1));
  } else {
    FD_UNROLL
    for (int l = 0; l < 4; ++l) {
      if constexpr (kFamily == Family::exponential) z[l] = exponential<M>(w[l]);
      else if constexpr (kFamily == Family::gumbel) z[l] = gumbel<M>(w[l]);
      else if constexpr (kFamily == Family::bernoulli) z[l] = bernoulli<M>(c, w[l]);
      else z[l] = laplace<M>(w[l]);
    }
  }
}

// One number, of the element that has this block and these low bits; multivariate_t: as above
template <class M>
FD_HD typename M::F draw1(Family family, const Constants& c, typename M::U block, typename M::U low,
                          typename M::U c1, typename M::U c2, typename M::U c3, typename M::U k0,
                          typename M::U k1) {
  using F = typename M::F;
  using U = typename M::U;
  if (family == Family::gamma) return gamma<M>(c, block, c1, c2, c3, k0, k1);
  U w[4];
  block_words<M>(block, c1, c2, c3, k0, k1, w);
  const auto bit = [&](int i) { return M::less(M::u(0), low & (1u << i)); };
  if (family == Family::student_t) {
    const auto second = bit(0);
    return student_t<M>(c, M::choose(second, w[2], w[0]), M::choose(second, w[3], w[1]));
  }
  const bool signs = family == Family::rademacher;
  const auto first = signs ? bit(5) : bit(0), second = signs ? bit(6) : bit(1);
  const U a = M::choose(second, w[2], w[0]), b = M::choose(second, w[3], w[1]), one = M::choose(first, b, a);
  switch (family) {
    case Family::rademacher:
      return sign<M>(one, low);
    case Family::uniform:
      return uniform<M>(one);
    case Family::exponential:
      return exponential<M>(one);
    case Family::gumbel:
      return gumbel<M>(one);
    case Family::bernoulli:
      return bernoulli<M>(c, one);
    case Family::laplace:
      return laplace<M>(one);
    default: {
      F x, y;
      box_muller<M>(a, b, x, y);
      const F z = M::choose(first, y, x);
      return family == Family::bimodal ? bimodal<M>(c, z, b, low & 1u) : z;
    }
  }
}

}  // namespace fd
