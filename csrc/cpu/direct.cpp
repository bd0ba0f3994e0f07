#include "direct.h"
#include <algorithm>
#include <vector>
#include "../check_sums.h"
#include "dispatch.h"
#include "fresh.h"

namespace fd::cpu {
namespace {

namespace py = pybind11;
using dl::refuse;
using dl::View;

constexpr check::Place kHere{dl::kCpu, 0};

template <class Job>
void run_released(const Job& job, int64_t elements) {
  if (small(elements)) return run(job);
  const py::gil_scoped_release released;
  run(job);
}

// A table (B, rows, n): the columns, and where the noise is a result too a row that copies it
template <class R>
const void* table(const dl::Items& columns, int64_t B, int rows, std::vector<double>& kept) {
  const int n = columns.size();
  kept.assign(static_cast<size_t>(B * rows * n), 0.0);
  R* to = reinterpret_cast<R*>(kept.data());
  for (int i = 0; i < n; ++i) check::coefficient(columns[i], {"perturb", "columns", i}, B, kHere, to + i, rows * n);
  for (int64_t b = 0; rows == 2 && b < B; ++b) to[(2 * b + 2) * n - 1] = R(1);
  return to;
}

// The losses of all samples, in their order
template <class R>
void total(const Loss& s, void* to) {
  double sum = 0.0;
  for (int64_t b = 0; b < s.B; ++b) sum = add(sum, static_cast<double>(static_cast<const R*>(s.out)[b]));
  *static_cast<R*>(to) = static_cast<R>(sum);
}

}  // namespace

py::object perturb(py::handle T, py::handle columns, py::handle rng, py::handle draw, py::handle stream, bool noise) {
  constexpr const char* kCall = "perturb";
  const dl::Items ins(T, {kCall, "T"}), given(columns, {kCall, "columns"});
  if (ins.size() < 1 || ins.size() > kMaxIn || given.size() != ins.size() + 1)
    refuse({kCall, "T"}, "and columns do not fit each other");
  View in[kMaxIn], to[2];
  for (int i = 0; i < ins.size(); ++i) in[i] = dl::view(ins[i], {kCall, "T", i});
  const View r = dl::view(rng, {kCall, "rng"});
  if (in[0].ndim < 1 || in[0].ndim > kMostDims || r.ndim != 2) refuse({kCall, "T", 0}, "does not fit rng");
  int64_t shape[kMostDims];
  std::copy_n(in[0].shape, in[0].ndim, shape);
  shape[0] = r.shape[0];
  const int n_out = noise ? 2 : 1;
  py::object made[2];
  for (int j = 0; j < n_out; ++j) {
    made[j] = fresh(shape, in[0].ndim, in[0].dtype);
    to[j] = dl::view(made[j], {kCall, "out", j});
  }
  check::Place place = kHere;
  Step s;
  check::tensors(s, in, ins.size(), to, n_out, place);
  const py::tuple draws = py::make_tuple(draw), streams = py::make_tuple(stream);
  check::columns(s, draws, streams, kCall);
  std::vector<double> kept;
  s.A = s.wide ? table<double>(given, s.B, n_out, kept) : table<float>(given, s.B, n_out, kept);
  s.A_wide = s.wide, s.groups = s.B, s.sample_matrices = 1, s.index = nullptr, s.index_step = 0;
  check::noise(s, &r, place);
  s.past_cache = past_cache(s.bytes);
  run_released(s, s.B * s.E);
  return noise ? py::make_tuple(made[0], made[1]) : made[0];
}

py::tuple regression_loss(py::handle pred, py::handle T, py::handle columns, py::handle w, py::handle mask,
                          py::handle rng, py::handle draws, py::handle streams, const std::string& rho, double c,
                          bool mean, const std::string& batch, int slope) {
  constexpr const char* kCall = "regression_loss";
  const View p = dl::view(pred, {kCall, "pred"});
  if (p.ndim < 1) refuse({kCall, "pred"}, "has no dimensions; need (B, ...)");
  bool wide = p.dtype == Dtype::f64 || (!mask.is_none() && dl::view(mask, {kCall, "mask"}).dtype == Dtype::f64);
  const dl::Items ins(T, {kCall, "T"});
  for (int i = 0; i < ins.size(); ++i) wide = wide || dl::view(ins[i], {kCall, "T", i}).dtype == Dtype::f64;
  const Dtype number = wide ? Dtype::f64 : Dtype::f32;
  const auto asked = static_cast<Slope>(slope);
  if (!batch.empty() && batch != "sum" && batch != "mean") refuse({kCall, "batch"}, "is '" + batch + "'");
  const py::object out = fresh(p.shape, batch.empty() ? 1 : 0, number);
  const py::object by_pred =
      asked == Slope::none ? py::none() : fresh(p.shape, p.ndim, asked == Slope::wide ? number : p.dtype);
  int64_t E = 1;
  for (int d = 1; d < p.ndim; ++d) E *= p.shape[d];
  check::Place place = kHere;
  check::Kept kept;
  const Loss s = check::loss(pred, T, columns, w, mask, rng, draws, streams, rho, c,
                             mean ? static_cast<double>(std::max<int64_t>(1, E)) : 1.0, batch == "mean", out, by_pred,
                             place, kept);
  run_released(s, s.B * s.E);
  if (!batch.empty()) {
    void* to = dl::view(out, {kCall, "out"}).data;
    wide ? total<double>(s, to) : total<float>(s, to);
  }
  return py::make_tuple(out, by_pred);
}

}  // namespace fd::cpu
