// What a formula needs from its machine. A formula is a template over a machine M and is written once: Scalar
// below serves the host and the device, cpu/simd.h has one machine per instruction set. Every operation
// rounds once; nothing is contracted.
#pragma once
#include <cstdint>
#if defined(__CUDACC__)
#define FD_HD __host__ __device__ __forceinline__
#define FD_UNROLL _Pragma("unroll")
#else
#define FD_HD inline __attribute__((always_inline))
#define FD_UNROLL _Pragma("GCC unroll 16")
#endif

namespace fd {

FD_HD float mul(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
FD_HD float add(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
FD_HD double mul(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}
FD_HD double add(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}
FD_HD float root(float a) {
#ifdef __CUDA_ARCH__
  return __fsqrt_rn(a);
#else
  return __builtin_sqrtf(a);
#endif
}
FD_HD uint32_t to_bits(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  uint32_t u;
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
#endif
}
FD_HD float from_bits(uint32_t u) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(u);
#else
  float x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
#endif
}
FD_HD uint64_t to_bits(double x) {
#ifdef __CUDA_ARCH__
  return static_cast<uint64_t>(__double_as_longlong(x));
#else
  uint64_t u;
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
#endif
}

struct Scalar {
  using F = float;     // reals
  using U = uint32_t;  // their bits, and random words
  using I = int32_t;
  using W = uint32_t;  // a word inside Philox (a vector machine keeps them in 64-bit lanes)

  static FD_HD F f(float x) { return x; }
  static FD_HD F c(uint32_t bits) { return from_bits(bits); }
  static FD_HD F mul(F a, F b) { return fd::mul(a, b); }
  static FD_HD F add(F a, F b) { return fd::add(a, b); }
  static FD_HD F sub(F a, F b) { return fd::add(a, -b); }
  // a b + c where a b is exact: a machine that has one instruction for it rounds no differently
  static FD_HD F fuse(F a, F b, F c) { return add(mul(a, b), c); }
  static FD_HD F root(F a) { return fd::root(a); }
  static FD_HD U bits(F x) { return to_bits(x); }
  static FD_HD F real_bits(U u) { return from_bits(u); }
  static FD_HD I integer(U u) { return static_cast<I>(u); }
  static FD_HD F real(I i) {
    return static_cast<float>(i);
  }  // to nearest even, on the host and (cvt.rn) on the device
  static FD_HD F real(U u) { return static_cast<float>(u); }
  static FD_HD F negative(F x) { return -x; }
  static FD_HD bool test(U u, uint32_t bit) { return (u & bit) != 0; }
  static FD_HD F pick(bool condition, F a, F b) { return condition ? a : b; }
  static FD_HD F pick_negative(bool condition, F a, F b) { return condition ? -a : b; }

  // Conditions C lane by lane; `choose` takes reals or words
  using C = bool;
  static FD_HD C less(F a, F b) { return a < b; }
  static FD_HD C less(U a, U b) { return a < b; }
  static FD_HD C both(C a, C b) { return a && b; }
  static FD_HD C no(C a) { return !a; }
  static FD_HD bool any(C a) { return a; }
  template <class V>
  static FD_HD V choose(C condition, V a, V b) {
    return condition ? a : b;
  }
  static FD_HD U u(uint32_t x) { return x; }
  static constexpr bool kHalves = false;  // W holds every word

  static FD_HD W word(uint32_t u) { return u; }
  static FD_HD W plus(W a, uint32_t b) { return a + b; }
  static FD_HD W xor3(W a, W b, W c) { return a ^ b ^ c; }
  static FD_HD void product(uint32_t m, W x, W& hi, W& lo) {
    const uint64_t p = static_cast<uint64_t>(m) * x;
    hi = static_cast<uint32_t>(p >> 32);
    lo = static_cast<uint32_t>(p);
  }
};

}  // namespace fd
