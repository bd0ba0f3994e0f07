#include "plan.h"

namespace fd::cuda {
namespace {

bool aligned(const void* p, uintptr_t to) { return reinterpret_cast<uintptr_t>(p) % to == 0; }

// What the address of four elements must be a multiple of to move them as one vector (float64: as two)
uintptr_t vector_of_four(Dtype type) { return type == Dtype::f32 || type == Dtype::f64 ? 16 : 8; }

void items(Grid& g, int64_t samples, int64_t each) {
  g.n = samples * each, g.per_sample = each;
  g.sample = Divisor(each);
}

bool fast(const Step& s) {
  if (s.wide || !is_fast(s.out_type, s.n_in, s.n_out) || s.n_noise > 1) return false;
  const int64_t vector = lanes(s.out_type), part = s.sample_matrices ? s.E / s.sample_matrices : s.E;
  bool yes = s.E % vector == 0 && part % vector == 0;
  for (int i = 0; i < s.n_in; ++i) yes = yes && s.in_type[i] == s.out_type && aligned(s.in[i], 16);
  for (int j = 0; j < s.n_out; ++j) yes = yes && aligned(s.out[j], 16);
  return yes;
}

}  // namespace

StepPlan plan(const Step& call) {
  StepPlan p{call, {}, false, false};
  Step& s = p.s;
  bool by_sample = s.n_noise || s.sample_matrices;
  for (int i = 0; i < s.n_in; ++i) by_sample = by_sample || s.constant[i];
  if (!by_sample) s.E *= s.B, s.B = 1;
  const int64_t part = s.sample_matrices ? s.E / s.sample_matrices : s.E;
  p.fast = fast(s);
  if (p.fast) {
    const int vector = lanes(s.out_type);
    items(p.g, s.B, s.E / vector);
    p.g.part = Divisor(part / vector);
    return p;
  }
  items(p.g, s.B, blocks_of(s.E));
  p.g.part = Divisor(part);
  p.short_parts = s.sample_matrices > 1 && part % 4 != 0;
  p.g.vectors = s.E % 4 == 0 || s.B == 1;
  for (int i = 0; i < s.n_in; ++i)
    p.g.vectors = p.g.vectors && aligned(s.in[i], vector_of_four(s.in_type[i]));
  for (int j = 0; j < s.n_out; ++j)
    p.g.vectors = p.g.vectors && aligned(s.out[j], vector_of_four(s.out_type));
  return p;
}

FillPlan plan(const Fill& f) {
  FillPlan p;
  static_cast<Fill&>(p.f) = f;
  for (int d = 0; d < kMapDims; ++d) p.f.size[d] = Divisor(f.map.size[d]);
  p.f.n = Divisor(f.map.symmetric);
  p.mapped = !f.map.identity || !by_fours(f.family) || f.family == Family::multivariate_t;
  items(p.g, f.B, blocks_of(f.E));
  p.g.vectors = (f.E % 4 == 0 || f.B == 1) && aligned(f.out, vector_of_four(f.out_type));
  return p;
}

}  // namespace fd::cuda
