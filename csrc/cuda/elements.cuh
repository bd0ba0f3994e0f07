// Four elements at a time, from and to every element type. What is written here compiles for the host as
// well.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "../core/convert.h"
#include "../core/families.h"
#include "../step.h"
#include "grid.h"

namespace fd::cuda {

// Through the read-only cache: for what no kernel writes
template <class T>
FD_HD T fixed(const T* p) {
#ifdef __CUDA_ARCH__
  return __ldg(p);
#else
  return *p;
#endif
}

FD_HD float2 halves(uint32_t w) {
  __half2_raw r;
  r.x = static_cast<uint16_t>(w), r.y = static_cast<uint16_t>(w >> 16);
  return __half22float2(__half2(r));
}
FD_HD uint32_t as_halves(float a, float b) {
  const __half2_raw r = __floats2half2_rn(a, b);
  return r.x | static_cast<uint32_t>(r.y) << 16;
}
FD_HD uint32_t as_bf16s(float a, float b) {
  const __nv_bfloat162_raw r = __floats2bfloat162_rn(a, b);
  return r.x | static_cast<uint32_t>(r.y) << 16;
}

// Two floats in each word of 16-bit elements, the lower half first
template <Dtype kType>
FD_HD void open(uint32_t w, float& a, float& b) {
  if constexpr (kType == Dtype::f16) {
    const float2 v = halves(w);
    a = v.x, b = v.y;
  } else {
    a = from_bits(w << 16), b = from_bits(w & 0xffff0000u);
  }
}
template <Dtype kType>
FD_HD uint32_t close(float a, float b) {
  return kType == Dtype::f16 ? as_halves(a, b) : as_bf16s(a, b);
}

FD_HD Source source_of(const int64_t* rng, int64_t sample, int64_t draw, int32_t stream) {
  const int64_t* row = rng + 3 * sample;
  return source(fixed(row), fixed(row + 1), fixed(row + 2), draw, stream);
}

// The draws of kBlocks blocks on end
template <int kBlocks>
FD_HD void draw_blocks(Family family, const Source& s, int64_t block, float* z) {
  uint32_t w[kBlocks][4];
  FD_UNROLL
  for (int i = 0; i < kBlocks; ++i)
    w[i][0] = static_cast<uint32_t>(block) + i, w[i][1] = s.c1, w[i][2] = s.c2, w[i][3] = s.c3;
  philox<Scalar, kBlocks>(w, s.k0, s.k1);
  FD_UNROLL
  for (int i = 0; i < kBlocks; ++i) {
    float four[4];
    draw4<Scalar>(family, w[i], four);
    FD_UNROLL
    for (int l = 0; l < 4; ++l) z[4 * i + l] = four[l];
  }
}

// The number of the matrix for the k-th part of a sample; a number that A does not have is -1
FD_HD int64_t matrix_of(const Step& s, int64_t sample, int64_t k) {
  const int64_t m = s.index ? fixed(s.index + sample * s.index_step + k) : sample;
  return m < s.groups ? m : -1;
}

FD_HD float nan_like(float) { return from_bits(0x7fffffffu); }
FD_HD double nan_like(double) { return static_cast<double>(from_bits(0x7fffffffu)); }

}  // namespace fd::cuda
