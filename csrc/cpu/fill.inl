// fill: random numbers of one family and one (draw, stream) into a tensor
#pragma once
#include "kernels.h"
#include "lanes.inl"
#include "noise.inl"

namespace fd::FD_ISA {
namespace {

constexpr int64_t kFillTile = 256;  // groups: 4 KiB of float32, far inside the first cache

// The numbers of groups [first, last) where four elements on end share a block
template <Family kFamily>
void fill_groups(const Fill& f, int64_t first, int64_t last) {
  const int64_t blocks = blocks_of(f.E);
  const Column column{f.rng, blocks, f.draw, f.stream, f.constants};
  if (f.out_type == Dtype::f32 && f.E % 4 == 0) {
    draw_groups<kFamily>(column, first, last, static_cast<float*>(f.out) + 4 * first);
    return;
  }
  alignas(64) float z[4 * kFillTile];
  int64_t at = element_of(first, blocks, f.E);
  for (int64_t g = first; g < last; g += kFillTile) {
    const int64_t end = g + kFillTile < last ? g + kFillTile : last, next = element_of(end, blocks, f.E);
    draw_groups<kFamily>(column, g, end, z);
    if (f.E % 4) close_gaps(z, g, end, blocks, f.E);
    narrow(f.out_type, z, f.out, at, next - at);
    at = next;
  }
}

// Goes through the positions of a call, in order, and says which element's number each takes
class Positions {
 public:
  Positions(const Fill& f, int64_t at) : f_(f), left_(f.E) {
    sample_ = at / f.E, at %= f.E, left_ -= at;
    element_ = f.map.offset;
    for (int d = kMapDims - 1; d >= 0; --d) {
      i_[d] = at % f.map.size[d], at /= f.map.size[d];
      element_ += i_[d] * f.map.stride[d];
    }
  }
  int64_t sample() const { return sample_; }
  int64_t element() const {
    const int64_t n = f_.map.symmetric;
    return n ? mirrored(n, element_, element_ / n % n, element_ % n) : element_;
  }
  void next() {
    const Map& m = f_.map;
    if (--left_ == 0) ++sample_, left_ = f_.E;
    for (int d = kMapDims - 1; d >= 0; --d) {
      element_ += m.stride[d];
      if (++i_[d] < m.size[d]) return;
      element_ -= m.size[d] * m.stride[d], i_[d] = 0;
    }
  }

 private:
  const Fill& f_;
  int64_t left_, sample_ = 0, element_ = 0, i_[kMapDims] = {};
};

// The numbers of m positions, each from a block of its own, whichever it is
void draw_positions(const Fill& f, Positions& p, int64_t m, float* z) {
  const int shift = block_shift(f.family);
  int64_t sample = -1;
  Source s{};
  float factor = 1;
  for (int64_t first = 0; first < m; first += N) {
    Lanes block{}, low{}, c1{}, c2{}, c3{}, k0{}, k1{};
    alignas(kBytes) float scale[N], y[N];
    const int64_t n = m - first < N ? m - first : N;
    for (int64_t i = 0; i < n; ++i, p.next()) {
      if (p.sample() != sample) {
        sample = p.sample();
        s = source(f.rng[3 * sample], f.rng[3 * sample + 1], f.rng[3 * sample + 2], f.draw, f.stream);
        if (f.family == Family::multivariate_t) factor = chi_factor(f.constants, s);
      }
      const int64_t e = p.element(), at = e < 0 ? 0 : e;
      block.v[i] = static_cast<uint32_t>(at >> shift), low.v[i] = static_cast<uint32_t>(at);
      c1.v[i] = s.c1, c2.v[i] = s.c2, c3.v[i] = s.c3, k0.v[i] = s.k0, k1.v[i] = s.k1;
      scale[i] = e < 0 ? 0 : factor;
    }
    store(y, draw1<Simd>(f.family, f.constants, block.get(), low.get(), c1.get(), c2.get(), c3.get(), k0.get(),
                         k1.get()));
    for (int64_t i = 0; i < n; ++i) z[first + i] = scale[i] == 0 ? 0.0f : y[i] * scale[i];
  }
}

// rademacher: 128 numbers a block, m elements of a sample from `e` on
void draw_signs(const Source& s, int64_t e, int64_t m, float* z) {
  for (int64_t done = 0; done < m;) {
    uint32_t w[4] = {static_cast<uint32_t>((e + done) >> 7), s.c1, s.c2, s.c3};
    philox<Scalar>(w, s.k0, s.k1);
    const int64_t from = (e + done) & 127, n = m - done < 128 - from ? m - done : 128 - from;
    alignas(64) float all[128];
    for (uint32_t k = 0; k < 128; ++k) all[k] = sign<Scalar>(w[k / 32], k);
    __builtin_memcpy(z + done, all + from, static_cast<size_t>(n) * sizeof(float));
    done += n;
  }
}

// The numbers of m positions from `at` on, of samples whose positions are their elements
void draw_in_order(const Fill& f, int64_t at, int64_t m, float* z) {
  const int64_t blocks = blocks_of(f.E);
  for (int64_t sample = at / f.E, e = at % f.E; m > 0; ++sample, e = 0) {
    const int64_t n = m < f.E - e ? m : f.E - e;
    const Source s = source(f.rng[3 * sample], f.rng[3 * sample + 1], f.rng[3 * sample + 2], f.draw, f.stream);
    if (f.family == Family::rademacher) {
      draw_signs(s, e, n, z);
    } else {  // multivariate_t; a range starts and ends at a group, or at the end of its sample
      const Column column{f.rng, blocks, f.draw, f.stream};
      alignas(64) float normals[4 * kFillTile];
      const int64_t first = sample * blocks + e / 4;
      draw_groups(column, first, first + blocks_of(n), normals);
      const float factor = chi_factor(f.constants, s);
      for (int64_t i = 0; i < n; ++i) z[i] = normals[i] * factor;
    }
    m -= n, z += n;
  }
}

void fill_elements(const Fill& f, int64_t first, int64_t last) {
  const int64_t blocks = blocks_of(f.E);
  const bool ordered = f.map.identity && (f.family == Family::rademacher || f.family == Family::multivariate_t);
  int64_t at = element_of(first, blocks, f.E);
  Positions positions(f, at);
  alignas(64) float z[4 * kFillTile];
  for (int64_t g = first; g < last; g += kFillTile) {
    const int64_t end = g + kFillTile < last ? g + kFillTile : last, next = element_of(end, blocks, f.E);
    if (ordered) draw_in_order(f, at, next - at, z);
    else draw_positions(f, positions, next - at, z);
    narrow(f.out_type, z, f.out, at, next - at);
    at = next;
  }
}

}  // namespace

void fill_range(const Fill& f, int64_t first, int64_t last) {
  if (!f.map.identity) return fill_elements(f, first, last);
  switch (f.family) {
    case Family::normal:
      return fill_groups<Family::normal>(f, first, last);
    case Family::uniform:
      return fill_groups<Family::uniform>(f, first, last);
    case Family::exponential:
      return fill_groups<Family::exponential>(f, first, last);
    case Family::gumbel:
      return fill_groups<Family::gumbel>(f, first, last);
    case Family::bernoulli:
      return fill_groups<Family::bernoulli>(f, first, last);
    case Family::laplace:
      return fill_groups<Family::laplace>(f, first, last);
    case Family::bimodal:
      return fill_groups<Family::bimodal>(f, first, last);
    default:
      return fill_elements(f, first, last);
  }
}

}  // namespace fd::FD_ISA
