// Rounding to float16 and bfloat16 with integers alone: to nearest even, subnormals kept, one rounding also
// from float64.
#pragma once
#include "hd.h"

namespace fd {

// kExp exponent and kMan mantissa bits out of the bits of a double
template <int kExp, int kMan>
FD_HD uint16_t round_bits(uint64_t x) {
  constexpr int kTop = (1 << kExp) - 1, kBias = (1 << (kExp - 1)) - 1, kDrop = 52 - kMan;
  const uint32_t sign = static_cast<uint32_t>(x >> 63) << 15;
  const int exponent = static_cast<int>(x >> 52 & 0x7ff);
  uint64_t man = x & ((uint64_t(1) << 52) - 1);
  if (exponent == 0x7ff) {  // infinity, or a NaN made quiet
    const uint32_t payload = static_cast<uint32_t>(man >> kDrop) | 1u << (kMan - 1);
    return static_cast<uint16_t>(sign | kTop << kMan | (man ? payload : 0u));
  }
  const int e = exponent - 1023 + kBias;
  if (e >= kTop) return static_cast<uint16_t>(sign | kTop << kMan);
  int drop = kDrop;
  uint64_t all = man | static_cast<uint64_t>(e)
                           << 52;  // a carry out of the mantissa lands in the exponent, up to infinity
  if (e <= 0) {
    drop += 1 - e;
    if (drop > 54) return static_cast<uint16_t>(sign);  // below half of the smallest subnormal
    all = man | uint64_t(1) << 52;
  }
  const uint64_t odd = all >> drop & 1, half = uint64_t(1) << (drop - 1);
  return static_cast<uint16_t>(sign | static_cast<uint32_t>((all + (half - 1) + odd) >> drop));
}

FD_HD uint16_t to_half(double x) { return round_bits<5, 10>(to_bits(x)); }
FD_HD uint16_t to_half(float x) { return round_bits<5, 10>(to_bits(static_cast<double>(x))); }
FD_HD uint16_t to_bf16(double x) { return round_bits<8, 7>(to_bits(x)); }
FD_HD uint16_t to_bf16(float x) {
  const uint32_t u = to_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(u >> 16 | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

FD_HD float from_bf16(uint16_t h) { return from_bits(static_cast<uint32_t>(h) << 16); }
FD_HD float from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = h >> 10 & 31, man = h & 1023;
  if (exponent == 31) return from_bits(sign | 0x7f800000u | man << 13 | (man ? 0x400000u : 0u));
  if (exponent) return from_bits(sign | (exponent + 112) << 23 | man << 13);
  const float tiny = mul(static_cast<float>(static_cast<int32_t>(man)), 0x1p-24f);  // exact
  return from_bits(to_bits(tiny) | sign);
}

}  // namespace fd
