// One vector machine (core/hd.h says what that is) for the instruction set this translation unit is compiled
// for. Everything is inside FD_ISA, so that no inline function compiled for a newer set can be picked by the
// linker for an older one.
#pragma once
#include "../core/convert.h"
#include "../core/hd.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fd::FD_ISA {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int N = kBytes / 4;  // floats in a vector
#if defined(__AVX512F__)
constexpr int kVectors = 2;  // vectors of random words made at once; with 16 registers more would spill
#else
constexpr int kVectors = 1;
#endif

using F = float __attribute__((vector_size(kBytes)));
using D = double __attribute__((vector_size(kBytes)));
using U = uint32_t __attribute__((vector_size(kBytes)));
using I = int32_t __attribute__((vector_size(kBytes)));
using W = uint64_t __attribute__((vector_size(kBytes)));

template <class V>
inline __attribute__((always_inline)) V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
inline __attribute__((always_inline)) void store(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
// Past the caches; p on a vector boundary.
template <class V>
inline __attribute__((always_inline)) void stream(void* p, V v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX2__)
  _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE2__)
  _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)v);
#else
  store(p, v);
#endif
}

// What was streamed is in memory before the caller is told that the work is done.
inline void stream_end() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// The first `bytes` of kSize, zeros after them when reading
template <size_t kSize>
inline void read_part(char* to, const void* p, size_t bytes) {
#if defined(__AVX512BW__)  // masks: a call to memcpy and the stall after it made a tail cost 60 ns
  for (size_t k = 0; k < kSize; k += 64) {
    const __mmask64 mask = bytes >= k + 64 ? ~0ull : bytes > k ? ~0ull >> (k + 64 - bytes) : 0;
    _mm512_store_si512(to + k, _mm512_maskz_loadu_epi8(mask, static_cast<const char*>(p) + k));
  }
#else
  __builtin_memset(to, 0, kSize);
  __builtin_memcpy(to, p, bytes);
#endif
}
template <size_t kSize>
inline void write_part(void* p, const void* from, size_t bytes) {
#if defined(__AVX512BW__)
  for (size_t k = 0; k < kSize; k += 64) {
    const __mmask64 mask = bytes >= k + 64 ? ~0ull : bytes > k ? ~0ull >> (k + 64 - bytes) : 0;
    _mm512_mask_storeu_epi8(static_cast<char*>(p) + k, mask,
                            _mm512_load_si512(static_cast<const char*>(from) + k));
  }
#else
  __builtin_memcpy(p, from, bytes);
#endif
}

struct alignas(kBytes) Lanes {
  uint32_t v[N];
  U get() const { return load<U>(v); }
};
struct Simd {
  using F = FD_ISA::F;
  using U = FD_ISA::U;
  using I = FD_ISA::I;
  using W = FD_ISA::W;  // words in the low halves of 64-bit lanes; the high halves are never read

  static FD_HD F f(float x) { return x - F{}; }  // "+" would lose the sign of -0.0
  static FD_HD F c(uint32_t bits) { return (F)(U{} + bits); }
  static FD_HD F mul(F a, F b) { return a * b; }
  static FD_HD F add(F a, F b) { return a + b; }
  static FD_HD F sub(F a, F b) { return a - b; }
  static FD_HD F fuse(F a, F b, F c) {
#if defined(__AVX512F__)
    return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
  }
  static FD_HD U bits(F x) { return (U)x; }
  static FD_HD F real_bits(U u) { return (F)u; }
  static FD_HD I integer(U u) { return (I)u; }
  static FD_HD F real(I i) { return __builtin_convertvector(i, F); }
  static FD_HD F negative(F x) { return (F)((U)x ^ 0x80000000u); }
#if defined(__AVX512F__)
  static FD_HD __mmask16 test(U u, uint32_t bit) {
    return _mm512_test_epi32_mask((__m512i)u, _mm512_set1_epi32(static_cast<int>(bit)));
  }
  static FD_HD F pick(__mmask16 condition, F a, F b) {
    return (F)_mm512_mask_mov_ps((__m512)b, condition, (__m512)a);
  }
  static FD_HD F pick_negative(__mmask16 condition, F a, F b) {
    return (F)_mm512_mask_xor_epi32((__m512i)b, condition, (__m512i)a, _mm512_set1_epi32(INT32_MIN));
  }
#else
  static FD_HD I test(U u, uint32_t bit) { return (u & bit) != 0; }
  static FD_HD F pick(I condition, F a, F b) { return condition ? a : b; }
  static FD_HD F pick_negative(I condition, F a, F b) { return condition ? negative(a) : b; }
#endif

  static FD_HD F root(F a) {
#if defined(__AVX512F__)
    return (F)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__)
    return (F)_mm256_sqrt_ps((__m256)a);
#elif defined(__SSE2__)
    return (F)_mm_sqrt_ps((__m128)a);
#else
    for (int l = 0; l < N; ++l) a[l] = __builtin_sqrtf(a[l]);
    return a;
#endif
  }
  static FD_HD F real(U u) {
#if defined(__AVX512F__)
    return (F)_mm512_cvtepu32_ps((__m512i)u);
#else  // both halves and the product are exact: the sum is the one rounding
    return fuse(__builtin_convertvector((I)(u >> 16), F), f(65536.0f),
                __builtin_convertvector((I)(u & 0xffffu), F));
#endif
  }

  using C = I;  // all ones or zeros
  static FD_HD C less(F a, F b) { return a < b; }
  static FD_HD C less(U a, U b) { return a < b; }
  static FD_HD C both(C a, C b) { return a & b; }
  static FD_HD C no(C a) { return ~a; }
  static FD_HD bool any(C a) {
    int32_t some = 0;
    for (int l = 0; l < N; ++l) some |= a[l];
    return some != 0;
  }
  template <class V>
  static FD_HD V choose(C condition, V a, V b) {
    return condition ? a : b;
  }
  static FD_HD U u(uint32_t x) { return U{} + x; }
  static constexpr bool kHalves = true;  // W holds the words of every other lane

  static FD_HD W word(uint32_t u) { return W{} + u; }
  static FD_HD W plus(W a, uint32_t b) { return a + b; }
  static FD_HD W xor3(W a, W b, W c) { return a ^ b ^ c; }
  static FD_HD void product(uint32_t m, W x, W& hi, W& lo) {
#if defined(__AVX512F__)
    lo = (W)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
    lo = (W)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi64x(m));
#elif defined(__SSE2__)
    lo = (W)_mm_mul_epu32((__m128i)x, _mm_set1_epi64x(m));
#else
    lo = (x & 0xffffffffu) * m;
#endif
    hi = lo >> 32;
  }
  // Philox runs on the even and on the odd lanes of a vector of words apart: six instructions for N / 2
  // blocks and round
  static FD_HD W even(U u) { return (W)u; }
  static FD_HD W odd(U u) { return (W)u >> 32; }
  static FD_HD U weave(W even, W odd) {
#if defined(__AVX512F__)
    return (U)_mm512_mask_shuffle_epi32((__m512i)even, 0xAAAA, (__m512i)odd, _MM_PERM_CCAA);
#elif defined(__AVX2__)
    return (U)_mm256_blend_epi32((__m256i)even, _mm256_slli_epi64((__m256i)odd, 32), 0xAA);
#else
    return (U)((even & 0xffffffffu) | (odd << 32));
#endif
  }

  static FD_HD U weave_high(W even, W odd) {
#if defined(__AVX512F__)
    return (U)_mm512_mask_shuffle_epi32((__m512i)odd, 0x5555, (__m512i)even, _MM_PERM_DDBB);
#elif defined(__AVX2__)
    return (U)_mm256_blend_epi32(_mm256_srli_epi64((__m256i)even, 32), (__m256i)odd, 0xAA);
#else
    return (U)((even >> 32) | (odd & 0xffffffff00000000u));
#endif
  }

  // Lane i of a vector works on block lane(i) of N consecutive ones: the order in which the 4 x 4 transposes
  // inside 128-bit lanes leave every register of store4 with 4 N consecutive bytes, so that no shuffle
  // crosses lanes.
  static constexpr int lane(int i) { return N / 4 * (i % 4) + i / 4; }
  static FD_HD void blocks4(const F (&z)[4], F (&out)[4]) {
#if defined(__SSE2__)
#if defined(__AVX512F__)
#define FD_X(op, a, b) (F) _mm512_unpack##op##_ps((__m512)a, (__m512)b)
#define FD_XD(op, a, b) (F) _mm512_unpack##op##_pd((__m512d)a, (__m512d)b)
#elif defined(__AVX2__)
#define FD_X(op, a, b) (F) _mm256_unpack##op##_ps((__m256)a, (__m256)b)
#define FD_XD(op, a, b) (F) _mm256_unpack##op##_pd((__m256d)a, (__m256d)b)
#else
#define FD_X(op, a, b) (F) _mm_unpack##op##_ps((__m128)a, (__m128)b)
#define FD_XD(op, a, b) (F) _mm_unpack##op##_pd((__m128d)a, (__m128d)b)
#endif
    const F a = FD_X(lo, z[0], z[1]), b = FD_X(hi, z[0], z[1]), c = FD_X(lo, z[2], z[3]),
            d = FD_X(hi, z[2], z[3]);
    out[0] = FD_XD(lo, a, c);
    out[1] = FD_XD(hi, a, c);
    out[2] = FD_XD(lo, b, d);
    out[3] = FD_XD(hi, b, d);
#undef FD_X
#undef FD_XD
#else
    for (int r = 0; r < 4; ++r)
      for (int k = 0; k < N; ++k) out[r][k] = z[k % 4][k / 4 * 4 + r];
#endif
  }
};

}  // namespace fd::FD_ISA
