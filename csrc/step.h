// A checked call, as every backend gets it: plain addresses and numbers, nothing of Python, nothing of torch.
#pragma once
#include <cstdint>
#include "core/error_norm.h"
#include "core/families.h"
#include "core/linear_step.h"
#include "core/normal.h"
#include "core/types.h"

namespace fd {

struct Step {
  int n_in, n_out, n_noise;
  int64_t B, E;  // samples, and elements of one
  const void* in[kMaxIn];
  Dtype in_type[kMaxIn];
  bool constant[kMaxIn];  // a register with one row for all samples
  void* out[kMaxOut];
  Dtype out_type;
  bool wide;                // the arithmetic is float64
  const void* A;            // matrices (n_out, n_in + n_noise), one after the other
  bool A_wide;              // A holds float64
  int64_t groups;           // matrices in A
  int64_t sample_matrices;  // 0: one matrix for all; 1: one per sample; K: index[b][k] names that of the k-th
                            // part
  const int32_t* index;     // (B or 1, K), null when the matrix number is the sample's own
  int64_t index_step;       // from one sample's row of the index to the next: K or 0
  const int64_t* rng;       // (B, 3): seed, sample id, draw base
  int64_t draw[kMaxNoise];
  int32_t stream[kMaxNoise];
  int64_t bytes;    // that the call touches, each tensor once
  bool past_cache;  // more than the last cache holds: stores may go round it
};

// From a position (i0, i1, i2, i3) of a sample to the element whose number stands there
constexpr int kMapDims = 4;
struct Map {
  bool identity;  // the position's own row-major index
  int64_t offset, size[kMapDims], stride[kMapDims];
  int64_t symmetric;  // n: (i, j) of the last two dimensions, n by n, takes the number of (min, max); 0 if i == j
};

// The element whose number element e, at (i, j) of n x n, takes; -1: none, the number is 0
FD_HD int64_t mirrored(int64_t n, int64_t e, int64_t i, int64_t j) {
  return i == j ? -1 : i < j ? e : e + (j - i) * (n - 1);
}

struct Fill {
  int64_t B, E;
  void* out;
  Dtype out_type;
  const int64_t* rng;
  int64_t draw;
  int32_t stream;
  Family family;
  Constants constants;
  Map map;
};

// Increments of a Brownian path over intervals of a grid of 2^depth cells (core/brownian.h)
struct Brownian {
  int64_t B, E, K;       // K increments of every sample
  void* out[2];          // (K, B, E): increments; areas, null without
  Dtype out_type;
  const int64_t* rng;
  const int64_t* at;     // (K + 1,) boundaries for all samples, or (B, 2): each sample's own interval, K = 1
  bool own, at_on_host;
  int depth;
  const float* coefs;    // rows of three for a clock that is not uniform; null where it is
  int64_t rows;          // of one walk: the host has one for all increments, a device one for each
  const float* scale;    // (K or B,), null for none; with areas another row for these
  bool past_cache = false;  // as a step's
};

// core/error_norm.h has the formula
struct Norm {
  int n_in;
  int64_t B, E;
  const void* in[kMaxIn];
  Dtype in_type[kMaxIn];
  const void* a;  // what the allowed error is measured by
  const void* b;  // may be a
  Dtype a_type, b_type;
  const void* C;   // coefficients of `in`, (n_in) for each sample
  bool C_wide;     // C holds float64
  int64_t C_step;  // from one sample's coefficients to the next: n_in or 0
  double atol, rtol;
  bool wide;     // the arithmetic of elements is float64
  bool largest;  // max norm, else rms
  double* work;  // (B, chunks_of(E))
  float* out;    // (B)
};

inline int64_t blocks_of(int64_t E) { return (E + 3) / 4; }

}  // namespace fd
