#include "check_sums.h"
#include <algorithm>

namespace fd::check {
namespace {

using dl::refuse;
using dl::View;
using dl::Where;

bool real(Dtype d) { return d <= Dtype::f64; }

// The tensors of one call: the first says place and shape of all
class Call {
 public:
  Call(const char* name, Sums& s, Place& place) : name_(name), s_(s), place_(place) {}

  // A tensor (B, *), or with `constant` (1, *) for all samples
  void state(py::handle h, const char* argument, int at, const void*& data, Dtype& type, bool* constant) {
    const Where w{name_, argument, at};
    const View v = dl::view(h, w);
    here(v, w);
    if (!real(v.dtype)) refuse(w, std::string("is ") + dl::name_of(v.dtype) + "; need a float type");
    int64_t E = 1;
    for (int d = 1; d < v.ndim; ++d) E *= v.shape[d];
    if (v.ndim < 1) refuse(w, "has no dimensions; need (B, ...)");
    if (E != s_.E || (v.shape[0] != s_.B && !(constant && v.shape[0] == 1)))
      refuse(w, "is " + dl::shape_of(v) + " but the call has " + std::to_string(s_.B) + " samples of " +
                    std::to_string(s_.E) + " elements");
    if (constant) *constant = v.shape[0] != s_.B;
    if (!s_.wide && v.dtype == Dtype::f64) refuse(w, "is float64 but the results are float32; need float64 results");
    data = v.data, type = v.dtype;
  }

  void* written(py::handle h, const char* argument, Dtype& type) {
    if (h.is_none()) return nullptr;
    const void* data;
    state(h, argument, -1, data, type, nullptr);
    return const_cast<void*>(data);
  }

  // A table of exactly this type; its first dimension may be left out where `shared` is asked for. Its step.
  void* table(py::handle h, const char* argument, Dtype type, std::initializer_list<int64_t> shape,
              int64_t* shared = nullptr) {
    const Where w{name_, argument};
    const View v = dl::view(h, w);
    here(v, w);
    if (v.dtype != type) refuse(w, std::string("is ") + dl::name_of(v.dtype) + "; need " + dl::name_of(type));
    const bool one = shared && v.ndim + 1 == static_cast<int>(shape.size());
    const int64_t* from = shape.begin() + one;
    if (v.ndim != shape.end() - from || !std::equal(from, shape.end(), v.shape))
      refuse(w, "is " + dl::shape_of(v) + ", which does not fit " + std::to_string(s_.B) + " samples of " +
                    std::to_string(s_.E) + " elements");
    if (shared) {
      *shared = one ? 0 : 1;
      for (const int64_t* d = shape.begin() + 1; d != shape.end(); ++d) *shared *= *d;
    }
    return v.data;
  }

  void results(py::handle work, py::handle out, int n, bool flat) {
    results(static_cast<double*>(table(work, "work", Dtype::f64, {s_.B, n, chunks_of(s_.E)})), out, n, flat);
  }
  void results(double* work, py::handle out, int n, bool flat) {
    s_.n = n, s_.work = work;
    s_.out = nullptr;
    const Dtype type = s_.wide ? Dtype::f64 : Dtype::f32;
    if (!out.is_none()) s_.out = flat ? table(out, "out", type, {s_.B}) : table(out, "out", type, {s_.B, n});
  }

  void terms(Terms& t, py::handle T, py::handle rng, py::handle draws, py::handle streams) {
    const dl::Items ins(T, {name_, "T"});
    if (ins.size() > kMaxTerms)
      refuse({name_, "T"}, "has " + std::to_string(ins.size()) + " tensors; at most 8");
    t.n_in = ins.size();
    for (int i = 0; i < t.n_in; ++i) state(ins[i], "T", i, t.in[i], t.type[i], &t.constant[i]);
    Step columns_of;
    columns(columns_of, draws, streams, name_);
    t.n_noise = columns_of.n_noise, t.rng = nullptr;
    std::copy_n(columns_of.draw, t.n_noise, t.draw);
    std::copy_n(columns_of.stream, t.n_noise, t.stream);
    if (t.n_noise) t.rng = static_cast<const int64_t*>(table(rng, "rng", Dtype::i64, {s_.B, 3}));
  }

  // Place, samples and elements are those of this tensor
  void first(py::handle h, const char* argument, int64_t B, bool wide) {
    const Where w{name_, argument};
    const View v = dl::view(h, w);
    if (v.ndim < 1) refuse(w, "has no dimensions; need (B, ...)");
    s_.B = B < 0 ? v.shape[0] : B, s_.E = 1, s_.wide = wide;
    for (int d = 1; d < v.ndim; ++d) s_.E *= v.shape[d];
    if (v.device == place_.type && place_.index < 0) place_.index = v.index;
  }

  Dtype number() const { return s_.wide ? Dtype::f64 : Dtype::f32; }

 private:
  const char* name_;
  Sums& s_;
  Place& place_;

  void here(const View& v, const Where& w) {
    if (v.device != place_.type || v.index != place_.index)
      refuse(w, "is on " + dl::device_name(v.device, v.index) + " but the call runs on " +
                    dl::device_name(place_.type, place_.index));
  }
};

bool is_wide(py::handle out, const char* call) { return dl::view(out, {call, "out"}).dtype == Dtype::f64; }

}  // namespace

namespace {

constexpr const char* kLoss = "regression_loss";

// tables(call, s) says where coefficients, weights, work and losses are
template <class Tables>
Loss loss_with(py::handle pred, py::handle T, py::handle mask, py::handle rng, py::handle draws, py::handle streams,
               const std::string& rho, double c, double count, py::handle out, py::handle slope, Place& place,
               const Tables& tables) {
  Loss s{};
  Call call(kLoss, s, place);
  call.first(pred, "pred", -1, is_wide(out, kLoss));
  call.state(pred, "pred", -1, s.pred, s.pred_type, nullptr);
  call.terms(s.terms, T, rng, draws, streams);
  if (!mask.is_none()) call.state(mask, "mask", -1, s.mask, s.mask_type, &s.mask_constant);
  constexpr const char* kNames[] = {"l2", "l1", "huber", "pseudo_huber"};
  const auto* found = std::find(kNames, kNames + 4, rho);
  if (found == kNames + 4) refuse({kLoss, "rho"}, "is '" + rho + "'; there are l2, l1, huber and pseudo_huber");
  s.rho = static_cast<Rho>(found - kNames), s.count = count;
  s.c = s.wide ? c : static_cast<double>(static_cast<float>(c));
  tables(call, s);
  s.slope = call.written(slope, "slope", s.slope_type);
  return s;
}

template <class R>
void keep(Loss& s, py::handle columns, py::handle w, bool over_batch, const Place& place, Kept& kept) {
  const dl::Items given(columns, {kLoss, "columns"});
  const int n = given.size();
  if (n != s.terms.n_in + s.terms.n_noise)
    refuse({kLoss, "columns"}, "are " + std::to_string(n) + "; need one for each tensor and the noise");
  const auto room = [](std::vector<double>& v, int64_t numbers) {
    v.resize(static_cast<size_t>(numbers));
    return reinterpret_cast<R*>(v.data());
  };
  R* C = room(kept.C, s.B * n);
  for (int i = 0; i < n; ++i) coefficient(given[i], {kLoss, "columns", i}, s.B, place, C + i, n);
  s.C = C, s.C_step = n;
  if (w.is_none() && !over_batch) return;
  R* weights = room(kept.w, s.B);
  if (!w.is_none()) coefficient(w, {kLoss, "w"}, s.B, place, weights, 1);
  else std::fill_n(weights, s.B, R(1));
  for (int64_t b = 0; over_batch && b < s.B; ++b) weights[b] = quotient(weights[b], static_cast<R>(s.B));
  s.w = weights;
}

}  // namespace

Loss loss(py::handle pred, py::handle T, py::handle C, py::handle w, py::handle mask, py::handle rng,
          py::handle draws, py::handle streams, const std::string& rho, double c, double count, py::handle work,
          py::handle out, py::handle slope, Place& place) {
  return loss_with(pred, T, mask, rng, draws, streams, rho, c, count, out, slope, place, [&](Call& call, Loss& s) {
    s.C = call.table(C, "C", call.number(), {s.B, s.terms.n_in + s.terms.n_noise}, &s.C_step);
    if (!w.is_none()) s.w = call.table(w, "w", call.number(), {s.B});
    call.results(work, out, 1, true);
  });
}

Loss loss(py::handle pred, py::handle T, py::handle columns, py::handle w, py::handle mask, py::handle rng,
          py::handle draws, py::handle streams, const std::string& rho, double c, double count, bool over_batch,
          py::handle out, py::handle slope, Place& place, Kept& kept) {
  return loss_with(pred, T, mask, rng, draws, streams, rho, c, count, out, slope, place, [&](Call& call, Loss& s) {
    s.wide ? keep<double>(s, columns, w, over_batch, place, kept) : keep<float>(s, columns, w, over_batch, place, kept);
    kept.work.resize(static_cast<size_t>(s.B * chunks_of(s.E)));
    if (dl::view(out, {kLoss, "out"}).ndim) return call.results(kept.work.data(), out, 1, true);
    kept.out.resize(static_cast<size_t>(s.B));
    s.n = 1, s.work = kept.work.data(), s.out = kept.out.data();
  });
}

Dots dots(py::handle T, py::handle R, const std::vector<std::tuple<int, int, bool>>& pairs, py::handle rng,
          py::handle draws, py::handle streams, py::handle work, py::handle out, py::handle total,
          py::handle weights, Place& place) {
  constexpr const char* kCall = "dots";
  Dots s{};
  Call call(kCall, s, place);
  const dl::Items ins(T, {kCall, "T"});
  if (ins.size() < 1) refuse({kCall, "T"}, "is empty; need 1 .. 8 tensors");
  const View sums = dl::view(work, {kCall, "work"});
  const bool wide = R.is_none() ? !out.is_none() && is_wide(out, kCall) : dl::view(R, {kCall, "R"}).dtype == Dtype::f64;
  call.first(ins[0], "T", sums.ndim ? sums.shape[0] : 0, wide);
  if (R.is_none() && out.is_none())  // a running total alone: the tensors say it
    for (int i = 0; i < ins.size(); ++i) s.wide = s.wide || dl::view(ins[i], {kCall, "T", i}).dtype == Dtype::f64;
  call.terms(s.terms, T, rng, draws, streams);
  const int n = s.terms.n_in + 1 + s.terms.n_noise;
  s.rows = n;
  if (!R.is_none()) {
    const View v = dl::view(R, {kCall, "R"});
    s.rows = v.ndim >= 2 ? static_cast<int>(v.shape[v.ndim - 2]) : 0;
    if (s.rows < 1 || s.rows > kMaxRows) refuse({kCall, "R"}, "is " + dl::shape_of(v) + "; need 1 .. 8 rows");
    s.R = call.table(R, "R", call.number(), {s.B, s.rows, n}, &s.R_step);
  }
  if (pairs.empty() || pairs.size() > kMaxPairs)
    refuse({kCall, "pairs"}, "are " + std::to_string(pairs.size()) + "; need 1 .. 16");
  for (size_t p = 0; p < pairs.size(); ++p) {
    const auto [i, j, size] = pairs[p];
    if (std::min(i, j) < 0 || std::max(i, j) >= s.rows)
      refuse({kCall, "pairs", static_cast<int>(p)}, "is (" + std::to_string(i) + ", " + std::to_string(j) +
                                                        ") but there are " + std::to_string(s.rows) + " vectors");
    s.first[p] = i, s.second[p] = j, s.size[p] = size;
  }
  call.results(work, out, static_cast<int>(pairs.size()), false);
  if (!total.is_none()) {
    s.total = static_cast<double*>(call.table(total, "total", Dtype::f64, {s.B}));
    s.weights = static_cast<const double*>(call.table(weights, "weights", Dtype::f64, {s.B, s.n}, &s.weights_step));
  }
  return s;
}

Kl kl(py::handle pred, py::handle var, py::handle x0, py::handle xt, py::handle C, py::handle is_bin,
      py::handle w, double half, double count, py::handle work, py::handle out, py::handle by_pred,
      py::handle by_var, Place& place) {
  constexpr const char* kCall = "gaussian_kl";
  Kl s{};
  Call call(kCall, s, place);
  call.first(pred, "pred", -1, is_wide(out, kCall));
  const py::handle given[] = {pred, var, x0, xt};
  constexpr const char* kNames[] = {"pred", "var", "x0", "xt"};
  for (int i = 0; i < 4; ++i)
    if (i != 1 || !var.is_none()) call.state(given[i], kNames[i], -1, s.in[i], s.type[i], nullptr);
  s.C = static_cast<const double*>(call.table(C, "C", Dtype::f64, {s.B, 6}));
  if (!is_bin.is_none()) s.is_bin = static_cast<const int32_t*>(call.table(is_bin, "bin", Dtype::i32, {s.B}));
  if (!w.is_none()) s.w = static_cast<const double*>(call.table(w, "w", Dtype::f64, {s.B}));
  s.half = half, s.count = count;
  call.results(work, out, 1, true);
  s.slope[0] = call.written(by_pred, "slope", s.slope_type[0]);
  s.slope[1] = call.written(by_var, "slope", s.slope_type[1]);
  return s;
}

}  // namespace fd::check
