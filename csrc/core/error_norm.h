// How large the error of a step is against what is allowed, for one sample:
//
//   e = sum_i c_i E_i          q = e / max(atol, rtol max(|a|, |b|))          sqrt(mean q^2), or max |q|
//
// e and q are rounded as a linear step is, q^2 and its sums are float64. The sum is a binary tree: 1024
// elements (zeros behind the last) are halved again and again, element i plus element i + half; the results of
// the chunks are summed likewise, 1024 at a time, until one is left. Nothing depends on more than E.
#pragma once
#include "hd.h"

namespace fd {

constexpr int kNormChunk = 1024;
FD_HD int64_t chunks_of(int64_t E) { return E < kNormChunk ? 1 : (E + kNormChunk - 1) / kNormChunk; }

FD_HD float quotient(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}
FD_HD double quotient(double a, double b) {
#ifdef __CUDA_ARCH__
  return __ddiv_rn(a, b);
#else
  return a / b;
#endif
}
FD_HD float magnitude(float x) { return __builtin_fabsf(x); }
FD_HD double magnitude(double x) { return __builtin_fabs(x); }

template <class R>
FD_HD R larger(R a, R b) {  // a NaN stays, whichever it is
  return a > b || a != a ? a : b;
}
template <class R>
FD_HD R allowed_error(R a, R b, R atol, R rtol) {
  return larger(mul(rtol, larger(magnitude(a), magnitude(b))), atol);
}
// No error is none, also where none is allowed. float64: the square of a float is exact
template <bool kLargest, class R>
FD_HD double excess(R e, R allowed) {
  const double q = e == R(0) && allowed == R(0) ? 0.0 : static_cast<double>(quotient(e, allowed));
  return kLargest ? magnitude(q) : mul(q, q);
}
template <bool kLargest>
FD_HD double join(double a, double b) {
  return kLargest ? larger(a, b) : add(a, b);
}
template <bool kLargest>
FD_HD float norm_of(double joined, int64_t E) {
  if (E == 0) return 0.0f;
  if (kLargest) return static_cast<float>(joined);
  return root(static_cast<float>(quotient(joined, static_cast<double>(E))));
}

}  // namespace fd
