// What is left of the partial results of a sample's chunks (core/error_norm.h), and a processor that rounds as
// it should.
#pragma once
#include <algorithm>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif
#include "../core/error_norm.h"

namespace fd::cpu {

// Flush-to-zero or another rounding, which torch.set_flush_denormal or a library may have left on, would
// change the bits.
struct Ieee {
#if defined(__SSE2__)
  const unsigned before = _mm_getcsr();
  static constexpr unsigned kModes = 0xe040;  // flush to zero, rounding, denormals are zero
  Ieee() {
    if (before & kModes) _mm_setcsr(before & ~kModes);
  }
  ~Ieee() {
    if (before & kModes) _mm_setcsr(before);
  }
#else
  Ieee() {}
#endif
};

// What is left of n partial results after joining them by chunks
template <bool kLargest>
double join_all(double* x, int64_t n) {
  for (; n > 1; n = chunks_of(n))
    for (int64_t c = 0; c < chunks_of(n); ++c) {
      double chunk[kNormChunk] = {};
      std::copy(x + c * kNormChunk, x + std::min(n, (c + 1) * kNormChunk), chunk);
      for (int half = kNormChunk / 2; half; half /= 2)
        for (int l = 0; l < half; ++l) chunk[l] = join<kLargest>(chunk[l], chunk[l + half]);
      x[c] = chunk[0];
    }
  return x[0];
}

}  // namespace fd::cpu
