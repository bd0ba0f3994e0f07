// Loading and storing pairs of vectors of float32 or float64 from and to every element type a tensor may
// have.
#pragma once
#include "../core/types.h"
#include "simd.h"

namespace fd::FD_ISA {
namespace {

constexpr Lanes every_other(uint32_t first) {
  Lanes l{};
  for (uint32_t i = 0; i < N; ++i) l.v[i] = 2 * i + first;
  return l;
}

// A type S in memory as pairs of arithmetic vectors V: kStep elements a pair. The order of elements inside a
// pair is the type's own affair, as long as all pairs of a kernel agree, which is why a kernel has one type.
// kBound: arithmetic, not memory, is what takes the time, so that it pays to compile a loop for each number
// of columns (57 -> 46 us in bfloat16, nothing in float32).
struct Single {
  using V = F;
  using R = float;
#if defined(__AVX512F__)  // a product left out costs a mask instead of a branch
  static constexpr bool kMasked = true;
  static FD_HD V masked(uint32_t used, V u, R c) {
    return (V)_mm512_maskz_mul_ps(static_cast<__mmask16>(-used), (__m512)u, _mm512_set1_ps(c));
  }
#else
  static constexpr bool kMasked = false;
#endif
};

struct F32 : Single {
  using S = float;
  static constexpr Dtype kType = Dtype::f32;
  static constexpr bool kBound = false;
  static constexpr int kStep = 2 * N;
  static FD_HD void get(const S* p, V& x, V& y) { x = load<V>(p), y = load<V>(p + N); }
  static FD_HD void get_noise(const float* p, V& x, V& y) { get(p, x, y); }
  static FD_HD void put(S* p, V x, V y) { store(p, x), store(p + N, y); }
  static FD_HD void put_past(S* p, V x, V y) { stream(p, x), stream(p + N, y); }
};

struct F64 {
  using S = double;
  using V = D;
  using R = double;
  static constexpr bool kMasked = false;
  static constexpr Dtype kType = Dtype::f64;
  static constexpr bool kBound = false;
  static constexpr int kStep = N;
  static FD_HD void get(const S* p, V& x, V& y) { x = load<V>(p), y = load<V>(p + N / 2); }
  static FD_HD void get_noise(const float* p, V& x, V& y) {
    using Half = float __attribute__((vector_size(kBytes / 2)));
    x = __builtin_convertvector(load<Half>(p), V), y = __builtin_convertvector(load<Half>(p + N / 2), V);
  }
  static FD_HD void put(S* p, V x, V y) { store(p, x), store(p + N / 2, y); }
  static FD_HD void put_past(S* p, V x, V y) { stream(p, x), stream(p + N / 2, y); }
};

// To nearest even, in the high half of each lane. A NaN keeps the bits bfloat16 has room for.
FD_HD U round_bf16(F x) {
  const U u = (U)x;
  return (U)(x != x ? (I)(u | 0x400000u) : (I)(u + 0x7fffu + (u >> 16 & 1u)));
}

// Even elements in x, odd ones in y: widening is a shift and a mask. All that goes in is bfloat16 and
// coefficients whose NaN is the plain one, so no NaN has bits to lose and none needs a look.
struct BF16 : Single {
  using S = uint16_t;
  static constexpr Dtype kType = Dtype::bf16;
  static constexpr bool kBound = true;
  static constexpr int kStep = 2 * N;
  static FD_HD void get(const S* p, V& x, V& y) {
    const U u = load<U>(p);
    x = (F)(u << 16), y = (F)(u & 0xffff0000u);
  }
  static FD_HD void get_noise(const float* p, V& x, V& y) {
#if defined(__AVX512F__)
    static constexpr Lanes kEven = every_other(0), kOdd = every_other(1);
    const __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + N);
    x = (F)_mm512_permutex2var_ps(a, (__m512i)kEven.get(), b),
    y = (F)_mm512_permutex2var_ps(a, (__m512i)kOdd.get(), b);
#else
    for (int l = 0; l < N; ++l) x[l] = p[2 * l], y[l] = p[2 * l + 1];
#endif
  }
#if defined(__AVX512BW__)
  // High and low halves gathered first, so that 32 elements round at once: up when low | (high & 1) > 0x8000.
  // Against rounding each vector: 53 -> 46 us for 3 inputs and 2 outputs of 262144.
  struct alignas(64) Halves {
    uint16_t high[2 * N], low[2 * N];
  };
  static constexpr Halves halves() {
    Halves h{};
    for (uint16_t i = 0; i < N; ++i) {
      h.low[2 * i] = 2 * i, h.low[2 * i + 1] = 2 * N + 2 * i;
      h.high[2 * i] = 2 * i + 1, h.high[2 * i + 1] = 2 * N + 2 * i + 1;
    }
    return h;
  }
  static FD_HD U pack_any(V x, V y) {
    static constexpr Halves kHalves = halves();
    const __m512i high = _mm512_permutex2var_epi16((__m512i)x, _mm512_load_si512(kHalves.high), (__m512i)y);
    const __m512i low = _mm512_permutex2var_epi16((__m512i)x, _mm512_load_si512(kHalves.low), (__m512i)y);
    const __m512i rest = _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi16(1)));
    const __mmask32 up = _mm512_cmpgt_epu16_mask(rest, _mm512_set1_epi16(static_cast<short>(0x8000)));
    return (U)_mm512_mask_sub_epi16(high, up, high, _mm512_set1_epi16(-1));
  }
#else
  static FD_HD U round(V x) { return (U)x + 0x7fffu + ((U)x >> 16 & 1u); }
  static FD_HD U pack_any(V x, V y) { return round(x) >> 16 | (round(y) & 0xffff0000u); }
#endif
#if defined(__AVX512BF16__)
  // The processor's own rounding is ours but for subnormals, which it makes zeros: where it made any zero,
  // the pair goes the other way.
  struct alignas(64) Woven {
    uint16_t from[2 * N];
  };
  static constexpr Woven woven() {
    Woven w{};
    for (uint16_t i = 0; i < N; ++i) w.from[2 * i] = i, w.from[2 * i + 1] = N + i;
    return w;
  }
  static FD_HD U pack(V x, V y) {
    static constexpr Woven kWoven = woven();
    const __m512i z = (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x);
    if (__builtin_expect(_mm512_testn_epi16_mask(z, _mm512_set1_epi16(0x7fff)) != 0, 0)) return pack_any(x, y);
    return (U)_mm512_permutexvar_epi16(_mm512_load_si512(kWoven.from), z);
  }
#else
  static FD_HD U pack(V x, V y) { return pack_any(x, y); }
#endif
  static FD_HD void put(S* p, V x, V y) { store(p, pack(x, y)); }
  static FD_HD void put_past(S* p, V x, V y) { stream(p, pack(x, y)); }
};

struct F16 : Single {
  using S = uint16_t;
  static constexpr Dtype kType = Dtype::f16;
  static constexpr bool kBound = true;
  static constexpr int kStep = 2 * N;
#if defined(__AVX512F__)
  static FD_HD V up(const S* p) {
    return (F)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static FD_HD void down(S* p, V x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__F16C__)
  static FD_HD V up(const S* p) {
    return (F)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static FD_HD void down(S* p, V x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  static FD_HD V up(const S* p) {
    V v{};
    for (int l = 0; l < N; ++l) v[l] = from_half(p[l]);
    return v;
  }
  static FD_HD void down(S* p, V x) {
    for (int l = 0; l < N; ++l) p[l] = to_half(static_cast<float>(x[l]));
  }
#endif
  static FD_HD void get(const S* p, V& x, V& y) { x = up(p), y = up(p + N); }
  static FD_HD void get_noise(const float* p, V& x, V& y) { x = load<V>(p), y = load<V>(p + N); }
  static FD_HD void put(S* p, V x, V y) { down(p, x), down(p + N, y); }
  static FD_HD void put_past(S* p, V x, V y) { put(p, x, y); }
};

// m elements of p from `at` on, as numbers of the arithmetic R
template <class R>
void widen(Dtype type, const void* p, int64_t at, int64_t m, R* __restrict to) {
  constexpr bool kSingle = sizeof(R) == sizeof(float);
  using Half = uint16_t __attribute__((vector_size(2 * N)));
  int64_t l = 0;
  switch (type) {
    case Dtype::f32: {
      const float* from = static_cast<const float*>(p) + at;
      for (; l < m; ++l) to[l] = static_cast<R>(from[l]);
      break;
    }
    case Dtype::f64: {
      const double* from = static_cast<const double*>(p) + at;
      for (; l < m; ++l) to[l] = static_cast<R>(from[l]);
      break;
    }
    case Dtype::bf16: {
      const uint16_t* from = static_cast<const uint16_t*>(p) + at;
      if constexpr (kSingle)
        for (; l + N <= m; l += N) store(to + l, __builtin_convertvector(load<Half>(from + l), U) << 16);
      for (; l < m; ++l) to[l] = static_cast<R>(from_bf16(from[l]));
      break;
    }
    case Dtype::f16: {
      const uint16_t* from = static_cast<const uint16_t*>(p) + at;
      if constexpr (kSingle)
        for (; l + N <= m; l += N) store(to + l, F16::up(from + l));
      for (; l < m; ++l) to[l] = static_cast<R>(from_half(from[l]));
      break;
    }
    default:
      break;
  }
}

// m numbers into p from `at` on, each rounded once
template <class R>
void narrow(Dtype type, const R* __restrict z, void* p, int64_t at, int64_t m) {
  constexpr bool kSingle = sizeof(R) == sizeof(float);
  using Half = uint16_t __attribute__((vector_size(2 * N)));
  int64_t l = 0;
  switch (type) {
    case Dtype::f32: {
      float* to = static_cast<float*>(p) + at;
      for (; l < m; ++l) to[l] = static_cast<float>(z[l]);
      break;
    }
    case Dtype::f64: {
      double* to = static_cast<double*>(p) + at;
      for (; l < m; ++l) to[l] = static_cast<double>(z[l]);
      break;
    }
    case Dtype::bf16: {
      uint16_t* to = static_cast<uint16_t*>(p) + at;
      if constexpr (kSingle)
        for (; l + N <= m; l += N)
          store(to + l, __builtin_convertvector(round_bf16(load<F>(z + l)) >> 16, Half));
      for (; l < m; ++l) to[l] = to_bf16(z[l]);
      break;
    }
    case Dtype::f16: {
      uint16_t* to = static_cast<uint16_t*>(p) + at;
      if constexpr (kSingle)
        for (; l + N <= m; l += N) F16::down(to + l, load<F>(z + l));
      for (; l < m; ++l) to[l] = to_half(z[l]);
      break;
    }
    default:
      break;
  }
}

}  // namespace
}  // namespace fd::FD_ISA
