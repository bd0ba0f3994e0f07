// Of one element, in float64: how far two Gaussians are apart, or what a bin of a discrete value costs, with the
// derivatives by the difference delta of the means (or of value and mean) and by the model's log variance l.
//
//   KL    ((l - l1 - 1) + e^(l1 - l) + delta^2 e^-l) / 2
//   bin   -ln(Phi((delta + h) / s) - Phi((delta - h) / s)), s = e^(l / 2), its outer side open at either end
#pragma once
#include "ndtr.h"

namespace fd {

struct Nats {
  double value, by_delta, by_log_var;
};

FD_HD Nats kl_of(double delta, double l1, double l) {
  const double i = exponential(-l), r = exponential(add(l1, -l)), di = mul(delta, i), q = mul(delta, di);
  return {mul(0.5, add(add(add(add(l, -l1), -1.0), r), q)), di, mul(0.5, add(add(1.0, -r), -q))};
}

// Reflected so that the bin lies left: delta <= 0, -v its far end and +-u its near one, in units of s. Three
// ways to its mass: a narrow bin by its density, one with 0 inside by what is left and right of it, one in the
// tail by Mills' ratios. All three are worked out and one is taken.
FD_HD Nats bin_of(double delta, double l, double half, bool first, bool last) {
  constexpr double kDensity = 0x1.9884533d43651p-2;  // 1 / sqrt(2 pi)
  // conditions joined by & and |, so that a compiler makes vectors of it all
  const bool flip = delta > 0.0, near_open = (flip & first) | (!flip & last),
             far_open = (flip & last) | (!flip & first);
  const double i = exponential(mul(-0.5, l)), away = magnitude(delta);
  const double b = mul(add(half, -away), i), u = magnitude(b), v = mul(add(half, away), i);
  const double mu = mills(u), mv = mills(v);
  const double uu = mul(-0.5, mul(u, u)), vv = mul(-0.5, mul(v, v));
  const double eu = exponential(uu), ev = exponential(vv), apart = mul(-0.5, mul(add(v, -u), add(v, u)));
  const double left = pick(far_open, 0.0, mul(ev, mv)), right = pick(near_open, 0.0, mul(eu, mu));
  const bool inside = (b > 0.0) | near_open;
  const double ea = exponential(apart), tail = add(mu, pick(far_open, 0.0, -mul(ea, mv)));
  const double mass = pick(inside, add(add(1.0, -right), -left), tail);  // in the tail over e^uu
  const double log_p = add(pick(inside, 0.0, uu), logarithm(mass));
  const double fu = pick(near_open, 0.0, quotient(mul(kDensity, pick(inside, eu, 1.0)), mass));
  const double fv = pick(far_open, 0.0, quotient(mul(kDensity, pick(inside, ev, ea)), mass));
  double value = -log_p, by_delta = mul(add(fv, -fu), i), by_log_var = mul(0.5, add(mul(b, fu), mul(v, fv)));

  const double h = mul(add(half, half), i), m = mul(away, i), hh = mul(h, h), mm = mul(m, m);
  const double t = add(mul(mul(hh, add(mm, -1.0)), 0x1.5555555555555p-5), 1.0);  // 1 / 24
  const double narrow = add(mul(0.5, mm), -logarithm(mul(mul(h, kDensity), t)));
  const double narrow_delta = mul(-i, add(m, -quotient(mul(mul(hh, m), 0x1.5555555555555p-4), t)));
  const double hm = mul(mul(hh, add(add(mm, mm), -1.0)), 0x1.5555555555555p-5);
  const double narrow_log_var = add(mul(0.5, add(1.0, -mm)), quotient(hm, t));
  const bool take = (mul(h, add(m, 1.0)) < 0x1p-10) & !near_open & !far_open;
  value = pick(take, narrow, value), by_delta = pick(take, narrow_delta, by_delta);
  by_log_var = pick(take, narrow_log_var, by_log_var);
  return {value, pick(flip, -by_delta, by_delta), by_log_var};
}

}  // namespace fd
