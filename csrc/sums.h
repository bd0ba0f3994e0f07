// Checked calls that end in sums over each sample: dots, regression_loss, gaussian_kl. The sums are the trees of
// core/error_norm.h: float64, 1024 elements a chunk.
#pragma once
#include "core/gaussian_kl.h"
#include "core/regression_loss.h"
#include "step.h"

namespace fd {

constexpr int kMaxTerms = 8, kMaxPairs = 16, kMaxRows = 8, kMaxVectors = kMaxTerms + 1 + kMaxNoise;

// What is read: tensors, and columns of noise made on the spot
struct Terms {
  int n_in, n_noise;
  const void* in[kMaxTerms];
  Dtype type[kMaxTerms];
  bool constant[kMaxTerms];  // one row for all samples
  const int64_t* rng;
  int64_t draw[kMaxNoise];
  int32_t stream[kMaxNoise];
};

struct Sums {
  int64_t B, E;
  int n;         // sums of a sample
  bool wide;     // elements, coefficients and results are float64, else float32
  double* work;  // (B, n, chunks_of(E))
  void* out;     // (B, n)
};

// loss = w sum mask rho(pred - sum_i C_i T_i) / count, and its slope by pred without what comes from above; the
// slope of pseudo-huber without w and the root either
struct Loss : Sums {
  Terms terms;
  const void* pred;
  Dtype pred_type;
  const void* C;   // (n_in + n_noise) for each sample
  int64_t C_step;  // from one sample's to the next, or 0
  const void* w;   // (B), null for ones
  const void* mask;
  Dtype mask_type;
  bool mask_constant;
  Rho rho;
  double c, count;
  void* slope;  // null where none is asked
  Dtype slope_type;
  bool past_cache;  // as a step's
};

// out[p] = sum u_i u_j, or of its size, for each pair (i, j) of rows u = R (T.., 1, xi..)
struct Dots : Sums {
  Terms terms;
  const void* R;  // (rows, n_in + 1 + n_noise) for each sample; null: u are the vectors themselves
  int rows;
  int64_t R_step;
  int first[kMaxPairs], second[kMaxPairs];
  bool size[kMaxPairs];
  double* total;          // (B), to which weights . sums are added; null for none
  const double* weights;  // (n) for each sample
  int64_t weights_step;
};

// Divergence or bin: delta = C_0 x_t + C_1 x0 + C_2 pred; log variance C_4, or that + C_5 var
struct Kl : Sums {
  const void* in[4];  // pred, var, x0, x_t; var null where the log variance is fixed
  Dtype type[4];
  const double* C;       // (B, 6): of x_t, x0, pred; log variance of the true; of the model: constant, of var
  const int32_t* is_bin;  // (B), null for divergences only
  const double* w;       // (B), null for ones
  double half, count;    // half the width of a bin
  void* slope[2];        // by pred and by var, null where none is asked
  Dtype slope_type[2];
};

}  // namespace fd
