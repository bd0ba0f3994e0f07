// One element of a regression loss: rho of d = prediction - target, and its slope.
//
//   l2  d^2      l1  |d|      huber  d^2 / 2 where |d| < c, else c (|d| - c / 2)
//   pseudo-huber of a sample  sqrt(sum d^2 + c^2) - c: here d^2, and d for the slope
#pragma once
#include "error_norm.h"
#include "ndtr.h"

namespace fd {

enum class Rho : int { l2, l1, huber, pseudo_huber };

// float64: the square of a float is exact
template <class R>
FD_HD double penalty(Rho rho, R d, R c) {
  const double x = static_cast<double>(d), a = magnitude(x), limit = static_cast<double>(c);
  if (rho == Rho::l1) return a;
  if (rho == Rho::huber) return a < limit ? mul(0.5, mul(x, x)) : mul(limit, add(a, -mul(0.5, limit)));
  return mul(x, x);
}
template <class R>
FD_HD R slope(Rho rho, R d, R c) {
  if (rho == Rho::l2) return add(d, d);
  if (rho == Rho::l1) return d > R(0) ? R(1) : d < R(0) ? R(-1) : d == R(0) ? R(0) : d;
  if (rho == Rho::huber) return d >= c ? c : d <= -c ? -c : d;
  return d;
}
// The joined penalties of a sample as what they are the penalty of; the root's difference without cancelling
FD_HD double of_sample(Rho rho, double sum, double c) {
  if (rho != Rho::pseudo_huber) return sum;
  return quotient(sum, add(square_root(add(sum, mul(c, c))), c));
}
FD_HD double weighted(double w, double value, double count) {
  return w == 0.0 ? 0.0 : mul(w, quotient(value, count));
}

}  // namespace fd
