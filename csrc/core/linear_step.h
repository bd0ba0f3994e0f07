// y_j = sum_i A[j, i] T_i + sum_c A[j, n_in + c] xi_c : inputs in order, then noise columns in order,
// multiply then add.
//
// A coefficient of zero contributes +0.0 whatever the tensor holds, so an infinity behind it does not spread.
// A sum that leaves such a column out must therefore not end as -0.0: it starts from +0.0 where a column is
// left out and from -0.0, which changes no sum, where none is.
#pragma once
#include "hd.h"

namespace fd {

constexpr int kMaxIn = 12, kMaxOut = 4, kMaxNoise = 4, kMaxColumns = kMaxIn + kMaxNoise;

template <class R>
FD_HD R product(R a, R t) {
  return a == R(0) ? R(0) : mul(a, t);
}
template <class R>
FD_HD R start(bool left_out) {
  return left_out ? R(0) : -R(0);
}

}  // namespace fd
