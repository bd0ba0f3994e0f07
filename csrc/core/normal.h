// Uniforms and normals from random words: Box-Muller on polynomials of our own, since libm, libdevice and
// vector libraries differ. Only multiply, add, correctly rounded square root, conversion and integer
// operations: the same bits on every machine.
#pragma once
#include "hd.h"

namespace fd {

// Odd multiples of 2^-24: exact, inside (0, 1).
template <class M>
FD_HD typename M::F uniform(typename M::U w) {
  return M::add(M::mul(M::real(M::integer(w >> 9)), M::f(0x1p-23f)), M::f(0x1p-24f));
}

// -2 ln x of a positive normal number x = 2^k (1 + a), 1 + a in [sqrt(1/2), sqrt(2))
template <class M>
FD_HD typename M::F m2log(typename M::F x) {
  using F = typename M::F;
  const typename M::U k = (M::bits(x) - 0x3f3504f3u) & 0xff800000u;  // in the place of an exponent: 2^23 k
  const F e = M::real(M::integer(k));
  const F a = M::sub(M::real_bits(M::bits(x) - k), M::f(1.0f));
  F p = M::c(0x3e1c6480u);
  p = M::add(M::mul(p, a), M::c(0xbe82af32u));
  p = M::add(M::mul(p, a), M::c(0x3e86c11au));
  p = M::add(M::mul(p, a), M::c(0xbe916c9bu));
  p = M::add(M::mul(p, a), M::c(0x3eaa3946u));
  p = M::add(M::mul(p, a), M::c(0xbeccd00eu));
  p = M::add(M::mul(p, a), M::c(0x3f000113u));
  p = M::add(M::mul(p, a), M::c(0xbf2aaaaau));
  const F a2 = M::mul(a, a);
  F y = M::mul(M::mul(a, a2), p);
  y = M::add(y, a2);
  y = M::add(y, M::mul(e, M::c(0xaabfbe8eu)));  // -2^-22 ln 2, low part
  y = M::fuse(a, M::f(-2.0f), y);
  return M::fuse(e, M::c(0xb4317200u), y);  // high part
}

// -2 ln of the uniform (w + 1/2) 2^-32 in [2^-33, 1]
template <class M>
FD_HD typename M::F m2log_word(typename M::U w) {
  return m2log<M>(M::fuse(M::real(w), M::f(0x1p-32f), M::f(0x1p-33f)));
}

// cos and sin of the angle 2 pi (w + 1/2) 2^-32, both still to be given the sign bit of `flip`. The two top
// bits of w + 2^29 are the nearest quadrant; the low thirty bits of w, signed, are the rest, converted four
// times too large.
template <class M>
FD_HD void turn(typename M::U w, typename M::F& cosine, typename M::F& sine, typename M::U& flip) {
  using F = typename M::F;
  const typename M::U quadrant = w + 0x20000000u;
  const F t = M::fuse(M::real(M::integer(w << 2)), M::f(0x1p-32f), M::f(0x1p-31f));
  const F z = M::mul(t, t);
  F s = M::c(0xbb998cc7u);
  s = M::add(M::mul(s, z), M::c(0x3da34052u));
  s = M::add(M::mul(s, z), M::c(0xbf255e12u));
  s = M::add(M::mul(s, z), M::c(0x3fc90fdbu));
  s = M::mul(s, t);
  F c = M::c(0x3a6a3ea3u);
  c = M::add(M::mul(c, z), M::c(0xbcaad8a3u));
  c = M::add(M::mul(c, z), M::c(0x3e81e0d7u));
  c = M::add(M::mul(c, z), M::c(0xbf9de9e6u));
  c = M::add(M::mul(c, z), M::f(1.0f));
  const auto odd = M::test(quadrant, 0x40000000u);
  cosine = M::pick_negative(odd, s, c);
  sine = M::pick(odd, c, s);
  flip = quadrant & 0x80000000u;
}

// The four normals of one block
template <class M>
FD_HD void normal4(const typename M::U (&w)[4], typename M::F (&z)[4]) {
  typename M::F r[2], cosine[2], sine[2];
  typename M::U flip[2];
  FD_UNROLL
  for (int i = 0; i < 2; ++i) r[i] = M::root(m2log_word<M>(w[2 * i]));
  FD_UNROLL
  for (int i = 0; i < 2; ++i) turn<M>(w[2 * i + 1], cosine[i], sine[i], flip[i]);
  FD_UNROLL
  for (int i = 0; i < 2; ++i) {
    r[i] = M::real_bits(M::bits(r[i]) ^ flip[i]);
    z[2 * i] = M::mul(r[i], cosine[i]);
    z[2 * i + 1] = M::mul(r[i], sine[i]);
  }
}

enum class Family : int {
  normal,
  uniform,
  exponential,
  gumbel,
  bernoulli,
  laplace,
  bimodal,
  multivariate_t,
  rademacher,
  student_t,
  gamma
};

template <class M>
FD_HD void draw4(Family family, const typename M::U (&w)[4], typename M::F (&z)[4]) {
  if (family == Family::normal) {
    normal4<M>(w, z);
  } else {
    FD_UNROLL
    for (int l = 0; l < 4; ++l) z[l] = uniform<M>(w[l]);
  }
}

}  // namespace fd
