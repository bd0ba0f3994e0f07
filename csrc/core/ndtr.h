// Elementary functions in float64 from multiply, add, divide and bits, each rounded once: no library's last
// digit can differ between machines. Errors are a few units of 2^-53. fastdiff/ops/_reference_sums.py has them
// once more.
#pragma once
#include "error_norm.h"
#include "hd.h"

#if defined(__CUDACC__)
#define FD_UNROLL_ALL _Pragma("unroll")
#else
#define FD_UNROLL_ALL _Pragma("GCC unroll 32")
#endif

namespace fd {

FD_HD double from_bits(uint64_t u) {
#ifdef __CUDA_ARCH__
  return __longlong_as_double(static_cast<long long>(u));
#else
  double x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
#endif
}

// a or b without a branch: a compiler that saw one would put the work behind it, and make no vectors
FD_HD double pick(bool condition, double a, double b) {
#ifdef __CUDA_ARCH__
  return condition ? a : b;
#else
  const uint64_t mask = -static_cast<uint64_t>(condition);
  return from_bits((to_bits(a) & mask) | (to_bits(b) & ~mask));
#endif
}

// sqrt x of x >= 0, from the float32 root of x brought into float32's range, and two of Newton's steps
FD_HD double square_root(double x) {
  const double down = x > 0x1p100 ? 0x1p-128 : 1.0, up = x < 0x1p-100 ? 0x1p128 : 1.0;
  const double s = mul(mul(x, down), up);
  double y = static_cast<double>(root(static_cast<float>(s)));
  for (int i = 0; i < 2; ++i) y = y == 0.0 ? y : mul(0.5, add(y, quotient(s, y)));
  return mul(mul(y, x > 0x1p100 ? 0x1p64 : 1.0), x < 0x1p-100 ? 0x1p-64 : 1.0);
}

// e^y: 2^k by its bits, Taylor's series of e^r, |r| <= ln 2 / 2, to the 13th power (4e-18). 0 below -708, infinite
// above 709.
FD_HD double exponential(double y) {
  const double t = add(mul(y, 0x1.71547652b82fep+0), 0x1.8p52), k = add(t, -0x1.8p52);
  double r = add(y, -mul(k, 0x1.62e42fep-1));  // the high part of ln 2: this product is exact
  r = add(r, -mul(k, 0x1.f473de6af278fp-30));
  double p = 0x1.6124613a86d09p-33;
  p = add(mul(p, r), 0x1.1eed8eff8d898p-29);
  p = add(mul(p, r), 0x1.ae64567f544e4p-26);
  p = add(mul(p, r), 0x1.27e4fb7789f5cp-22);
  p = add(mul(p, r), 0x1.71de3a556c734p-19);
  p = add(mul(p, r), 0x1.a01a01a01a01ap-16);
  p = add(mul(p, r), 0x1.a01a01a01a01ap-13);
  p = add(mul(p, r), 0x1.6c16c16c16c17p-10);
  p = add(mul(p, r), 0x1.1111111111111p-7);
  p = add(mul(p, r), 0x1.5555555555555p-5);
  p = add(mul(p, r), 0x1.5555555555555p-3);
  p = add(mul(p, r), 0x1.0000000000000p-1);
  p = add(add(mul(mul(p, r), r), r), 1.0);
  const double e = mul(p, from_bits((to_bits(t) + 1023) << 52));
  return pick(y > 709.0, __builtin_inf(), pick(y < -708.0, 0.0, pick(y != y, y, e)));
}

// ln x of x >= 0: exponent off, 2 atanh((m - 1) / (m + 1)) of m in [sqrt(1/2), sqrt 2) by its series (1e-17)
FD_HD double logarithm(double x) {
  constexpr uint64_t kRoot = 0x3fe6a09e667f3bcdu, kMantissa = 0xfffffffffffffu;
  const uint64_t i = to_bits(x) - kRoot + (uint64_t(1024) << 52);
  const double e = add(from_bits((i >> 52) | 0x4330000000000000u), -(0x1p52 + 1024.0));
  const double m = from_bits((i & kMantissa) + kRoot);
  const double s = quotient(add(m, -1.0), add(m, 1.0)), z = mul(s, s);
  double p = 0x1.642c8590b2164p-4;
  p = add(mul(p, z), 0x1.8618618618618p-4);
  p = add(mul(p, z), 0x1.af286bca1af28p-4);
  p = add(mul(p, z), 0x1.e1e1e1e1e1e1ep-4);
  p = add(mul(p, z), 0x1.1111111111111p-3);
  p = add(mul(p, z), 0x1.3b13b13b13b14p-3);
  p = add(mul(p, z), 0x1.745d1745d1746p-3);
  p = add(mul(p, z), 0x1.c71c71c71c71cp-3);
  p = add(mul(p, z), 0x1.2492492492492p-2);
  p = add(mul(p, z), 0x1.999999999999ap-2);
  p = add(mul(p, z), 0x1.5555555555555p-1);
  const double log_m = add(mul(s, 2.0), mul(mul(p, z), s));
  const double y = add(mul(e, 0x1.62e42fep-1), add(log_m, mul(e, 0x1.f473de6af278fp-30)));
  return pick(x == 0.0, -__builtin_inf(), pick(x > 0.0, pick(x == __builtin_inf(), x, y), __builtin_nan("")));
}

// Phi(-y) e^(y^2 / 2) of y >= 0: (1 + y) times it is a Chebyshev series in (y - 5) / (y + 5), 2e-16
FD_HD double mills(double y) {
  constexpr double kSeries[] = {
      -0x1.a38dadeae8ad6p-54, -0x1.364a698813ab4p-53, 0x1.2f5634abbbd94p-49,  0x1.1d37b04d15cfap-48,
      -0x1.dce7091ce4421p-45, -0x1.a400eb44ebefdp-44, 0x1.9e4d43559d105p-40,  0x1.8a0f9a2f9aaa1p-40,
      -0x1.85a9b092a9932p-35, 0x1.088516006bf20p-35,  0x1.6d8a61f7ba580p-30,  -0x1.3d52d596acac5p-28,
      -0x1.0473f0ddb61c8p-25, 0x1.411314af96457p-22,  -0x1.b0fc5b82205ecp-22, -0x1.4a7eb0322f295p-17,
      0x1.a2c2b7ab5cce3p-14,  -0x1.27a053c3e840ap-11, 0x1.25b29b935608bp-9,   -0x1.a8133b8cad4f7p-8,
      0x1.92ebfe6205c7ap-7,   -0x1.65bf2805fcf9ap-8,  -0x1.0aeaaad1f9538p-4};
  const double t = quotient(add(y, -5.0), add(y, 5.0)), t2 = add(t, t);
  double b1 = 0.0, b2 = 0.0;
  FD_UNROLL_ALL
  for (int k = 0; k < 23; ++k) {
    const double b = add(add(mul(t2, b1), -b2), kSeries[k]);
    b2 = b1, b1 = b;
  }
  return quotient(add(add(mul(t, b1), -b2), 0x1.d90fc491c8188p-2), add(y, 1.0));
}

}  // namespace fd
