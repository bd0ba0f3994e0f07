// linear_step for everything else: types that differ, any numbers of tensors and noise columns, float64,
// samples of any length. And the noise fill. An item is a block of four elements of a sample, the last one of
// a sample may be short.
#pragma once
#include "elements.cuh"
#include "plan.h"

namespace fd::cuda {

// Four elements as they lie in memory; 16-bit elements packed
template <class R>
struct Raw {
  uint32_t w[sizeof(R)];  // four words, eight for float64
};

FD_HD void take(uint32_t* w, const uint4& v) { w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w; }

// `count` elements from element `at` on; `whole`: four, and as one vector
template <class R>
FD_HD void load(Dtype type, const void* p, int64_t at, int count, bool whole, Raw<R>& r) {
  if (whole) {
    if (type == Dtype::f32) {
      take(r.w, *reinterpret_cast<const uint4*>(static_cast<const float*>(p) + at));
    } else if (type != Dtype::f64) {
      const uint2 v = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(p) + at);
      r.w[0] = v.x, r.w[1] = v.y;
    } else if constexpr (sizeof(R) == 8) {
      const auto* v = reinterpret_cast<const uint4*>(static_cast<const double*>(p) + at);
      take(r.w, v[0]);
      take(r.w + 4, v[1]);
    }
    return;
  }
  FD_UNROLL
  for (int l = 0; l < 4; ++l) {
    if (type == Dtype::f32) {
      r.w[l] = l < count ? static_cast<const uint32_t*>(p)[at + l] : 0;
    } else if (type != Dtype::f64) {
      const uint32_t h = l < count ? static_cast<const uint16_t*>(p)[at + l] : 0;
      r.w[l / 2] = l % 2 ? r.w[l / 2] | h << 16 : h;
    } else if constexpr (sizeof(R) == 8) {
      const uint2 v = l < count ? static_cast<const uint2*>(p)[at + l] : make_uint2(0, 0);
      r.w[2 * l] = v.x, r.w[2 * l + 1] = v.y;
    }
  }
}

FD_HD double as_double(uint32_t low, uint32_t high) {
#ifdef __CUDA_ARCH__
  return __hiloint2double(static_cast<int>(high), static_cast<int>(low));
#else
  const uint64_t u = static_cast<uint64_t>(high) << 32 | low;
  double x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
#endif
}

template <class R>
FD_HD void widen(Dtype type, const Raw<R>& r, R (&x)[4]) {
  if constexpr (sizeof(R) == 8) {
    if (type == Dtype::f64) {
      FD_UNROLL
      for (int l = 0; l < 4; ++l) x[l] = as_double(r.w[2 * l], r.w[2 * l + 1]);
      return;
    }
  }
  float f[4];
  if (type == Dtype::f32) {
    FD_UNROLL
    for (int l = 0; l < 4; ++l) f[l] = from_bits(r.w[l]);
  } else if (type == Dtype::f16) {
    open<Dtype::f16>(r.w[0], f[0], f[1]);
    open<Dtype::f16>(r.w[1], f[2], f[3]);
  } else {
    open<Dtype::bf16>(r.w[0], f[0], f[1]);
    open<Dtype::bf16>(r.w[1], f[2], f[3]);
  }
  FD_UNROLL
  for (int l = 0; l < 4; ++l) x[l] = f[l];
}

template <Dtype kType>
FD_HD uint32_t round2(float a, float b) {
  return close<kType>(a, b);
}
template <Dtype kType>
FD_HD uint32_t round2(double a, double b) {  // (through float it would round twice)
  if constexpr (kType == Dtype::f16) return to_half(a) | static_cast<uint32_t>(to_half(b)) << 16;
  return to_bf16(a) | static_cast<uint32_t>(to_bf16(b)) << 16;
}

template <class R>
FD_HD void store(Dtype type, void* p, int64_t at, int count, bool whole, const R (&y)[4]) {
  if (type == Dtype::f64) {
    auto* to = static_cast<double*>(p) + at;
    if (whole) {
      reinterpret_cast<double2*>(to)[0] = make_double2(y[0], y[1]);
      reinterpret_cast<double2*>(to)[1] = make_double2(y[2], y[3]);
      return;
    }
    FD_UNROLL
    for (int l = 0; l < 4; ++l)
      if (l < count) to[l] = y[l];
  } else if (type == Dtype::f32) {
    auto* to = static_cast<float*>(p) + at;
    if (whole) {
      *reinterpret_cast<float4*>(to) = make_float4(static_cast<float>(y[0]), static_cast<float>(y[1]),
                                                   static_cast<float>(y[2]), static_cast<float>(y[3]));
      return;
    }
    FD_UNROLL
    for (int l = 0; l < 4; ++l)
      if (l < count) to[l] = static_cast<float>(y[l]);
  } else {
    auto* to = static_cast<uint16_t*>(p) + at;
    const bool half = type == Dtype::f16;
    const uint32_t low = half ? round2<Dtype::f16>(y[0], y[1]) : round2<Dtype::bf16>(y[0], y[1]);
    const uint32_t high = half ? round2<Dtype::f16>(y[2], y[3]) : round2<Dtype::bf16>(y[2], y[3]);
    if (whole) {
      *reinterpret_cast<uint2*>(to) = make_uint2(low, high);
      return;
    }
    FD_UNROLL
    for (int l = 0; l < 4; ++l)
      if (l < count) to[l] = static_cast<uint16_t>((l < 2 ? low : high) >> 16 * (l % 2));
  }
}

template <class R>
FD_HD R coefficient(const Step& s, int64_t m, int64_t size, int at) {
  if (m < 0) return nan_like(R(0));
  if constexpr (sizeof(R) == 8)
    if (s.A_wide) return fixed(static_cast<const double*>(s.A) + m * size + at);
  return fixed(static_cast<const float*>(s.A) + m * size + at);
}

// What one thread does; g.part counts elements. kShort: matrices change inside blocks.
template <class R, bool kShort>
FD_HD void general(const Step& s, const Grid& g, int64_t thread) {
  constexpr int kAhead = sizeof(R) == 8 ? 2 : 4, kMatrices = kShort ? 4 : 1;
  const int n = s.n_in + s.n_noise;
  const int64_t size = s.n_out * n;
  for (Walk w(g, thread); w.more(g); w.next(g)) {
    const int64_t e = 4 * w.item, at = w.sample * s.E + e;
    const int count = s.E - e < 4 ? static_cast<int>(s.E - e) : 4;
    const bool whole = g.vectors && count == 4;
    int64_t m[kMatrices];
    FD_UNROLL
    for (int l = 0; l < kMatrices; ++l) {
      const int64_t k = s.sample_matrices < 2 ? 0 : g.part.divide(e + (l < count ? l : 0));
      m[l] = s.sample_matrices ? matrix_of(s, w.sample, k) : 0;
    }
    R sum[kMaxOut][4];
    FD_UNROLL
    for (int j = 0; j < kMaxOut; ++j) FD_UNROLL
    for (int l = 0; l < 4; ++l) sum[j][l] = start<R>(false);
    const auto column = [&](int i, const R(&x)[4]) {
      FD_UNROLL
      for (int j = 0; j < kMaxOut; ++j) {
        if (j >= s.n_out) continue;
        R a = R(0);
        FD_UNROLL
        for (int l = 0; l < 4; ++l) {
          if (kShort || l == 0) a = coefficient<R>(s, m[kShort ? l : 0], size, j * n + i);
          sum[j][l] = add(sum[j][l], product(a, x[l]));
        }
      }
    };
#pragma unroll 1
    for (int base = 0; base < s.n_in; base += kAhead) {
      Raw<R> raw[kAhead];
      FD_UNROLL
      for (int k = 0; k < kAhead; ++k) {
        const int i = base + k;
        if (i < s.n_in) load<R>(s.in_type[i], s.in[i], s.constant[i] ? e : at, count, whole, raw[k]);
      }
      FD_UNROLL
      for (int k = 0; k < kAhead; ++k) {
        const int i = base + k;
        if (i >= s.n_in) continue;
        R x[4];
        widen<R>(s.in_type[i], raw[k], x);
        column(i, x);
      }
    }
#pragma unroll 1
    for (int c = 0; c < s.n_noise; ++c) {
      float z[4];
      R x[4];
      draw_blocks<1>(Family::normal, source_of(s.rng, w.sample, s.draw[c], s.stream[c]), w.item, z);
      FD_UNROLL
      for (int l = 0; l < 4; ++l) x[l] = z[l];
      column(s.n_in + c, x);
    }
    FD_UNROLL
    for (int j = 0; j < kMaxOut; ++j)
      if (j < s.n_out) store<R>(s.out_type, s.out[j], at, count, whole, sum[j]);
  }
}

// Four elements on end that share a block
template <Family kFamily>
FD_HD void fill4(const Fill& f, const Source& s, int64_t item, float (&z)[4]) {
  uint32_t w[4] = {static_cast<uint32_t>(item), s.c1, s.c2, s.c3};
  philox<Scalar>(w, s.k0, s.k1);
  draw4_of<Scalar, kFamily>(f.constants, w, z);
}

FD_HD void fill(const Fill& f, const Grid& g, int64_t thread) {
  for (Walk w(g, thread); w.more(g); w.next(g)) {
    const int64_t e = 4 * w.item;
    const int count = f.E - e < 4 ? static_cast<int>(f.E - e) : 4;
    const Source s = source_of(f.rng, w.sample, f.draw, f.stream);
    float z[4];
    switch (f.family) {
      case Family::normal:
        fill4<Family::normal>(f, s, w.item, z);
        break;
      case Family::uniform:
        fill4<Family::uniform>(f, s, w.item, z);
        break;
      case Family::exponential:
        fill4<Family::exponential>(f, s, w.item, z);
        break;
      case Family::gumbel:
        fill4<Family::gumbel>(f, s, w.item, z);
        break;
      case Family::bernoulli:
        fill4<Family::bernoulli>(f, s, w.item, z);
        break;
      case Family::laplace:
        fill4<Family::laplace>(f, s, w.item, z);
        break;
      default:
        fill4<Family::bimodal>(f, s, w.item, z);
    }
    store<float>(f.out_type, f.out, w.sample * f.E + e, count, g.vectors && count == 4, z);
  }
}

// What is left of n, and n / d
FD_HD int64_t rest_of(const Divisor& d, int64_t& n) {
  const int64_t all = n;
  n = d.divide(n);
  return all - n * static_cast<int64_t>(d.d);
}

// Four positions on end, each from a block of its own
FD_HD void fill_mapped(const MappedFill& f, const Grid& g, int64_t thread) {
  const int shift = block_shift(f.family);
  for (Walk w(g, thread); w.more(g); w.next(g)) {
    const int64_t at = 4 * w.item;
    const int count = f.E - at < 4 ? static_cast<int>(f.E - at) : 4;
    const Source s = source_of(f.rng, w.sample, f.draw, f.stream);
    const float factor = f.family == Family::multivariate_t ? chi_factor(f.constants, s) : 1.0f;
    float z[4];
#pragma unroll 1
    for (int l = 0; l < count; ++l) {
      int64_t e = at + l;
      if (!f.map.identity) {
        int64_t rest = e;
        e = f.map.offset;
#pragma unroll 1
        for (int d = kMapDims - 1; d > 0; --d) e += rest_of(f.size[d], rest) * f.map.stride[d];
        e += rest * f.map.stride[0];
        if (f.map.symmetric) {
          rest = e;
          const int64_t j = rest_of(f.n, rest), i = rest_of(f.n, rest);
          e = mirrored(f.map.symmetric, e, i, j);
        }
      }
      float x = 0.0f;
      if (e >= 0)
        x = mul(draw1<Scalar>(f.family, f.constants, static_cast<uint32_t>(e >> shift), static_cast<uint32_t>(e), s.c1,
                              s.c2, s.c3, s.k0, s.k1),
                factor);
      FD_UNROLL
      for (int k = 0; k < 4; ++k) z[k] = k == l ? x : z[k];  // registers have no addresses
    }
    store<float>(f.out_type, f.out, w.sample * f.E + at, count, g.vectors && count == 4, z);
  }
}

}  // namespace fd::cuda
