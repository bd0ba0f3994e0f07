// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") and the counter layout of
// every random number.
//
//   key      seed, low word first
//   counter  block (element >> 2), draw, sample id low word, stream << 24 | sample id >> 32
#pragma once
#include "hd.h"

namespace fd {

constexpr uint32_t kPhilox0 = 0xD2511F53u, kPhilox1 = 0xCD9E8D57u;  // factors
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;      // steps of the key

// A round of kChains counters in lockstep, so that a vector machine has something to do while a product is on
// its way
template <class M, int kChains>
FD_HD void philox_round(typename M::W (&c)[kChains][4], const typename M::W (&k0)[kChains],
                        const typename M::W (&k1)[kChains]) {
  using W = typename M::W;
  W hi0[kChains], lo0[kChains], hi1[kChains], lo1[kChains];
  FD_UNROLL
  for (int i = 0; i < kChains; ++i) {
    M::product(kPhilox0, c[i][0], hi0[i], lo0[i]);
    M::product(kPhilox1, c[i][2], hi1[i], lo1[i]);
  }
  FD_UNROLL
  for (int i = 0; i < kChains; ++i) {
    c[i][0] = M::xor3(hi1[i], c[i][1], k0[i]);
    c[i][1] = lo1[i];
    c[i][2] = M::xor3(hi0[i], c[i][3], k1[i]);
    c[i][3] = lo0[i];
  }
}

// kChains counters with one key
template <class M, int kChains>
FD_HD void philox(typename M::W (&c)[kChains][4], typename M::W k0, typename M::W k1) {
  FD_UNROLL
  for (int round = 0; round < 10; ++round) {
    typename M::W a[kChains], b[kChains];
    FD_UNROLL
    for (int i = 0; i < kChains; ++i) a[i] = k0, b[i] = k1;
    philox_round<M, kChains>(c, a, b);
    k0 = M::plus(k0, kWeyl0);
    k1 = M::plus(k1, kWeyl1);
  }
}
template <class M>
FD_HD void philox(typename M::W (&c)[4], typename M::W k0, typename M::W k1) {
  typename M::W one[1][4] = {{c[0], c[1], c[2], c[3]}};
  philox<M, 1>(one, k0, k1);
  FD_UNROLL
  for (int l = 0; l < 4; ++l) c[l] = one[0][l];
}

// One row of the rng table (seed, sample id, draw base) joined with a column's draw and stream: all of the
// counter but the block.
struct Source {
  uint32_t k0, k1, c1, c2, c3;
};
FD_HD Source source(int64_t seed, int64_t id, int64_t base, int64_t draw, int32_t stream) {
  const uint64_t s = static_cast<uint64_t>(seed), i = static_cast<uint64_t>(id);
  return {static_cast<uint32_t>(s), static_cast<uint32_t>(s >> 32),
          static_cast<uint32_t>(static_cast<uint64_t>(base) + static_cast<uint64_t>(draw)),
          static_cast<uint32_t>(i),
          static_cast<uint32_t>(stream) << 24 | (static_cast<uint32_t>(i >> 32) & 0xffffffu)};
}

}  // namespace fd
