// Who does what: the work is a row of items, vectors or blocks of elements, no item spans two samples, and
// thread t of n takes the items t, t + n, t + 2n, ...
#pragma once
#include <cstdint>
#include "../core/hd.h"

namespace fd::cuda {

constexpr int kThreads = 256;  // of a block

// n / d for 0 <= n < 2^63 by one multiplication (Granlund and Montgomery 1994, with a multiplier of 65 bits)
struct Divisor {
  uint64_t d, magic;
  int shift;

  Divisor() : Divisor(1) {}
  explicit Divisor(int64_t by) : d(static_cast<uint64_t>(by < 1 ? 1 : by)), shift(0) {
    while ((uint64_t(1) << shift) < d) ++shift;
    magic = static_cast<uint64_t>((static_cast<unsigned __int128>((uint64_t(1) << shift) - d) << 64) / d) + 1;
  }
  FD_HD int64_t divide(int64_t n) const {
#ifdef __CUDA_ARCH__
    const uint64_t high = __umul64hi(magic, static_cast<uint64_t>(n));
#else
    const auto high =
        static_cast<uint64_t>(static_cast<unsigned __int128>(magic) * static_cast<uint64_t>(n) >> 64);
#endif
    return static_cast<int64_t>((high + static_cast<uint64_t>(n)) >> shift);
  }
};

struct Grid {
  int64_t n;           // items
  int64_t per_sample;  // items of one sample
  int64_t stride, samples,
      items;             // from a thread's item to its next: in all, and as samples and items of a sample
  Divisor sample, part;  // items of a sample; items (or elements, see the kernel) under one matrix
  bool vectors;          // a block of four elements can be moved as one vector

  void threads(int64_t number) {
    stride = number;
    samples = sample.divide(number), items = number - samples * per_sample;
  }
};

struct Walk {
  int64_t at, sample, item;

  FD_HD Walk(const Grid& g, int64_t thread) : at(thread), sample(g.sample.divide(thread)) {
    item = at - sample * g.per_sample;
  }
  FD_HD bool more(const Grid& g) const { return at < g.n; }
  FD_HD void next(const Grid& g) {
    at += g.stride, sample += g.samples, item += g.items;
    if (item >= g.per_sample) item -= g.per_sample, ++sample;
  }
};

}  // namespace fd::cuda
