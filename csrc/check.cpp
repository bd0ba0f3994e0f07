#include "check.h"
#include <algorithm>
#include "core/brownian.h"

namespace fd::check {
namespace {

using dl::refuse;
using dl::View;
using dl::Where;
constexpr const char* kStep = "linear_step";
constexpr int64_t kMaxElements = int64_t(1)
                                 << 34;  // of one sample: the counter has 32 bits for a quarter of them

std::string count(int64_t n, const char* what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}
bool real(Dtype d) { return d <= Dtype::f64; }

void same_place(const View& v, const Where& w, const Place& place) {
  if (v.device != place.type || v.index != place.index)
    refuse(w, "is on " + dl::device_name(v.device, v.index) + " but the call runs on " +
                  dl::device_name(place.type, place.index));
}

void first_place(const View& v, const Where& w, Place& place) {
  if (v.device == place.type && place.index < 0) place.index = v.index;
  same_place(v, w, place);
}

}  // namespace

template <class R>
void coefficient(py::handle c, const Where& w, int64_t B, const Place& place, R* to, int64_t stride) {
  if (PyFloat_Check(c.ptr()) || PyLong_Check(c.ptr())) {
    const double v = PyFloat_AsDouble(c.ptr());
    if (v == -1.0 && PyErr_Occurred()) throw py::error_already_set();
    for (int64_t b = 0; b < B; ++b) to[b * stride] = static_cast<R>(v);
    return;
  }
  const View v = dl::view(c, w);
  same_place(v, w, place);
  if ((v.dtype != Dtype::f32 && v.dtype != Dtype::f64) || v.ndim > 1 || (v.n != B && v.n != 1))
    refuse(w, std::string("is ") + dl::name_of(v.dtype) + " " + dl::shape_of(v) + "; need a number or float (" +
                  std::to_string(B) + ",)");
  const int64_t step = v.n == B;
  for (int64_t b = 0; b < B; ++b)
    to[b * stride] = v.dtype == Dtype::f64 ? static_cast<R>(static_cast<const double*>(v.data)[b * step])
                                           : static_cast<R>(static_cast<const float*>(v.data)[b * step]);
}
template void coefficient(py::handle, const Where&, int64_t, const Place&, float*, int64_t);
template void coefficient(py::handle, const Where&, int64_t, const Place&, double*, int64_t);

void tensors(Step& s, const View* T, int n_in, const View* out, int n_out, Place& place) {
  s.n_in = n_in, s.n_out = n_out;
  const View& y = out[0];
  first_place(y, {kStep, "out", 0}, place);
  if (y.ndim < 1) refuse({kStep, "out", 0}, "has no dimensions; need (B, ...)");
  s.B = y.shape[0], s.out_type = y.dtype, s.wide = y.dtype == Dtype::f64;
  s.E = 1;
  for (int d = 1; d < y.ndim; ++d) s.E *= y.shape[d];
  if (s.E > kMaxElements)
    refuse({kStep, "out", 0}, "has " + std::to_string(s.E) + " elements a sample; at most 2^34");
  for (int j = 0; j < n_out; ++j) {
    const Where w{kStep, "out", j};
    same_place(out[j], w, place);
    if (!real(out[j].dtype) || out[j].dtype != y.dtype)
      refuse(w, std::string("is ") + dl::name_of(out[j].dtype) +
                    (j ? std::string(" but out[0] is ") + dl::name_of(y.dtype) : "; need a float type"));
    if (out[j].ndim != y.ndim || !std::equal(y.shape, y.shape + y.ndim, out[j].shape))
      refuse(w, "is " + dl::shape_of(out[j]) + " but out[0] is " + dl::shape_of(y));
    for (int k = 0; k < j; ++k)
      if (overlap(out[j], out[k])) refuse(w, "shares memory with out[" + std::to_string(k) + "]");
    s.out[j] = out[j].data;
  }
  bool whole = false;
  int64_t bytes = n_out * y.bytes();
  for (int i = 0; i < n_in; ++i) {
    const View& t = T[i];
    const Where w{kStep, "T", i};
    same_place(t, w, place);
    if (!real(t.dtype))
      refuse(w, std::string("is ") + dl::name_of(t.dtype) +
                    "; allowed are float32, float16, bfloat16 and float64");
    if (t.ndim != y.ndim || !std::equal(y.shape + 1, y.shape + y.ndim, t.shape + 1) ||
        (t.shape[0] != s.B && t.shape[0] != 1))
      refuse(w, "is " + dl::shape_of(t) + " but the outputs are " + dl::shape_of(y) +
                    "; need that shape, or 1 in front for a constant");
    whole = whole || t.shape[0] == s.B;
    s.in[i] = t.data, s.in_type[i] = t.dtype, s.constant[i] = t.shape[0] != s.B;
    s.wide = s.wide || t.dtype == Dtype::f64;
    for (int j = 0; j < n_out; ++j)
      if (overlap(t, out[j]) && (t.data != out[j].data || t.dtype != y.dtype || s.constant[i]))
        refuse(w, "shares memory with out[" + std::to_string(j) +
                      "]; only the same elements of the same type may be overwritten");
    bytes += t.bytes();
  }
  if (!whole && s.B != 1)
    refuse({kStep, "T"}, "holds constants only; one tensor must have all " + count(s.B, "sample"));
  s.bytes = bytes, s.past_cache = false;
}

void columns(Step& s, py::handle draws, py::handle streams, const char* call) {
  const dl::Items d(draws, {call, "draws"}), t(streams, {call, "streams"});
  if (d.size() != t.size())
    throw std::invalid_argument(std::string(call) + ": the call has " + count(d.size(), "draw") + " but " +
                                count(t.size(), "stream") + "; need one of each for a noise column");
  if (d.size() > kMaxNoise)
    throw std::invalid_argument(std::string(call) + ": the call has " + count(d.size(), "noise column") +
                                "; at most 4");
  s.n_noise = d.size();
  for (int c = 0; c < s.n_noise; ++c) {
    s.draw[c] = dl::integer(d[c], {call, "draws", c});
    const int64_t stream = dl::integer(t[c], {call, "streams", c});
    if (stream < 0 || stream > 255)
      refuse({call, "streams", c}, "is " + std::to_string(stream) + "; need 0 .. 255");
    s.stream[c] = static_cast<int32_t>(stream);
  }
}

void matrix(Step& s, const View& A, const View* index, const Place& place) {
  const Where w{kStep, "A"};
  same_place(A, w, place);
  if (A.dtype != Dtype::f32 && !(A.dtype == Dtype::f64 && s.wide))
    refuse(w, std::string("is ") + dl::name_of(A.dtype) + "; need float32" +
                  (s.wide ? " or float64" : ", since no tensor here is float64"));
  const int n = s.n_in + s.n_noise, front = A.ndim - 2;
  if (front < 0 || front > 1 || A.shape[front] != s.n_out || A.shape[front + 1] != n)
    refuse(w, "is " + dl::shape_of(A) + " but the call has " + count(s.n_in, "tensor") + ", " +
                  count(s.n_noise, "noise column") + " and " + count(s.n_out, "output") + "; need (" +
                  std::to_string(s.n_out) + ", " + std::to_string(n) + "), or that after one more dimension");
  s.A = A.data, s.A_wide = A.dtype == Dtype::f64;
  s.groups = front ? A.shape[0] : 1;
  s.sample_matrices = front, s.index = nullptr, s.index_step = 0;
  if (!index) {
    if (front && s.groups != s.B)
      refuse(w, "is " + dl::shape_of(A) + " but the call has " + count(s.B, "sample") +
                    "; need one matrix each, or an index");
    return;
  }
  const Where v{kStep, "index"};
  same_place(*index, v, place);
  if (!front)
    refuse(v, "is given but A is " + dl::shape_of(A) + "; an index needs A of (G, n_out, n_in + n_noise)");
  if (index->dtype != Dtype::i32) refuse(v, std::string("is ") + dl::name_of(index->dtype) + "; need int32");
  if (index->ndim != 2 || (index->shape[0] != s.B && index->shape[0] != 1))
    refuse(v, "is " + dl::shape_of(*index) + "; need (" + std::to_string(s.B) + ", K) or (1, K)");
  const int64_t K = index->shape[1];
  if (K < 1 || s.E % K)
    refuse(v, "is " + dl::shape_of(*index) + " but a sample has " + count(s.E, "element") +
                  "; K must divide that");
  s.index = static_cast<const int32_t*>(index->data);
  s.sample_matrices = K;
  s.index_step = index->shape[0] == 1 ? 0 : K;
  if (index->device != dl::kCpu) return;  // on a device the kernel looks itself: nothing here waits for it
  int32_t least = 0, most = -1;
  for (int64_t i = 0; i < index->n; ++i)
    least = std::min(least, s.index[i]), most = std::max(most, s.index[i]);
  if (least < 0 || most >= s.groups)
    refuse(v, "holds " + std::to_string(least < 0 ? least : most) + " but A has " + std::to_string(s.groups) +
                  (s.groups == 1 ? " matrix" : " matrices") + "; need 0 .. " + std::to_string(s.groups - 1));
}

void noise(Step& s, const View* rng, const Place& place) {
  s.rng = nullptr;
  if (!s.n_noise) return;
  const Where w{kStep, "rng"};
  if (!rng)
    refuse(w, "is None but the call has " + count(s.n_noise, "noise column") +
                  "; need int64 (B, 3): seed, sample id, draw base");
  same_place(*rng, w, place);
  if (rng->dtype != Dtype::i64 || rng->ndim != 2 || rng->shape[0] != s.B || rng->shape[1] != 3)
    refuse(w, std::string("is ") + dl::name_of(rng->dtype) + " " + dl::shape_of(*rng) + "; need int64 (" +
                  std::to_string(s.B) + ", 3): seed, sample id, draw base");
  s.rng = static_cast<const int64_t*>(rng->data);
}

Step step(py::handle T, py::handle A, py::handle index, py::handle rng, py::handle draws, py::handle streams,
          py::handle out, Place& place) {
  Step s;
  const dl::Items ins(T, {kStep, "T"}), outs(out, {kStep, "out"});
  if (ins.size() < 1 || ins.size() > kMaxIn)
    refuse({kStep, "T"}, "has " + count(ins.size(), "tensor") + "; need 1 .. 12");
  if (outs.size() < 1 || outs.size() > kMaxOut)
    refuse({kStep, "out"}, "has " + count(outs.size(), "tensor") + "; need 1 .. 4");
  View in[kMaxIn], to[kMaxOut];
  for (int j = 0; j < outs.size(); ++j) to[j] = dl::view(outs[j], {kStep, "out", j});
  for (int i = 0; i < ins.size(); ++i) in[i] = dl::view(ins[i], {kStep, "T", i});
  tensors(s, in, ins.size(), to, outs.size(), place);
  columns(s, draws, streams, kStep);
  View i, r;
  if (!index.is_none()) i = dl::view(index, {kStep, "index"});
  matrix(s, dl::view(A, {kStep, "A"}), index.is_none() ? nullptr : &i, place);
  if (!rng.is_none()) r = dl::view(rng, {kStep, "rng"});
  noise(s, rng.is_none() ? nullptr : &r, place);
  return s;
}

namespace {

constexpr const char* kFill = "fill";
struct Law {
  const char* name;
  Family family;
  size_t constants;
};
constexpr Law kLaws[] = {{"normal", Family::normal, 0},
                         {"uniform", Family::uniform, 0},
                         {"exponential", Family::exponential, 0},
                         {"gumbel", Family::gumbel, 0},
                         {"bernoulli", Family::bernoulli, 1},
                         {"laplace", Family::laplace, 0},
                         {"bimodal", Family::bimodal, 2},
                         {"multivariate_t", Family::multivariate_t, 4},
                         {"rademacher", Family::rademacher, 0},
                         {"student_t", Family::student_t, 2},
                         {"gamma", Family::gamma, 5}};

void law(Fill& f, const std::string& family, const std::vector<double>& constants) {
  std::string known;
  for (const Law& l : kLaws) {
    if (family != l.name) {
      known += std::string(known.empty() ? "" : ", ") + l.name;
      continue;
    }
    if (constants.size() != l.constants)
      refuse({kFill, "constants"}, "are " + std::to_string(constants.size()) + "; " + family + " needs " +
                                       std::to_string(l.constants));
    f.family = l.family, f.constants = {};
    for (size_t i = 0; i < constants.size(); ++i) f.constants.f[i] = static_cast<float>(constants[i]);
    if (f.family == Family::bernoulli) {  // how many of the 2^32 words are a one
      if (!(constants[0] >= 0 && constants[0] <= 0x1p32))
        refuse({kFill, "constants"}, "hold " + std::to_string(constants[0]) + "; bernoulli needs 0 .. 2^32");
      const auto ones = static_cast<uint64_t>(constants[0]);
      f.constants.f[0] = ones ? 1.0f : 0.0f, f.constants.last = ones ? static_cast<uint32_t>(ones - 1) : 0;
    }
    return;
  }
  refuse({kFill, "family"}, "is '" + family + "'; there are " + known);
}

// The map of the samples of y, and that it stays inside what the counter can count
void map(Fill& f, const View& y, int64_t offset, const std::vector<int64_t>& strides, int64_t symmetric) {
  Map& m = f.map;
  m = {strides.empty() && !offset && !symmetric, offset, {1, 1, 1, 1}, {0, 0, 0, 0}, symmetric};
  const int n = static_cast<int>(strides.size());
  if (!n) m.size[kMapDims - 1] = f.E, m.stride[kMapDims - 1] = 1;
  if (n && (n != y.ndim - 1 || n > kMapDims))
    refuse({kFill, "strides"}, "are " + std::to_string(n) + " numbers for an out of " + dl::shape_of(y) +
                                   "; need one for each dimension of a sample, at most 4");
  for (int d = 0; d < n; ++d) m.size[kMapDims - n + d] = y.shape[d + 1], m.stride[kMapDims - n + d] = strides[d];
  int64_t least = offset, most = offset;
  for (int d = 0; d < kMapDims; ++d) {
    constexpr int64_t kFar = int64_t(1) << 62;  // nothing overflows before it is refused
    const int64_t steps = std::max<int64_t>(m.size[d] - 1, 0);
    int64_t far;
    if (__builtin_mul_overflow(steps, m.stride[d], &far) || far > kFar || far < -kFar ||
        __builtin_add_overflow(far < 0 ? least : most, far, far < 0 ? &least : &most))
      least = -1;
  }
  const int64_t limit = std::min(kMaxElements, int64_t(1) << (32 + block_shift(f.family)));
  if (f.B && f.E && (least < 0 || most >= limit))
    refuse({kFill, "offset and strides"}, "leave 0 .. " + std::to_string(limit) + " - 1, the elements that " +
                                              "have numbers");
  if (symmetric < 0 || symmetric >= int64_t(1) << 31)
    refuse({kFill, "symmetric"}, "is " + std::to_string(symmetric) + "; need 0 or the number of rows");
}

}  // namespace

Fill fill(py::handle out, py::handle rng, py::handle draw, py::handle stream, const std::string& family,
          const std::vector<double>& constants, int64_t offset, const std::vector<int64_t>& strides,
          int64_t symmetric, Place& place) {
  Fill f;
  const Where w{kFill, "out"}, r{kFill, "rng"};
  const View y = dl::view(out, w), k = dl::view(rng, r);
  first_place(y, w, place);
  same_place(k, r, place);
  if (!real(y.dtype))
    refuse(w, std::string("is ") + dl::name_of(y.dtype) +
                  "; allowed are float32, float16, bfloat16 and float64");
  if (y.ndim < 1) refuse(w, "has no dimensions; need (B, ...)");
  f.B = y.shape[0], f.E = 1, f.out = y.data, f.out_type = y.dtype;
  for (int d = 1; d < y.ndim; ++d) f.E *= y.shape[d];
  if (f.E > kMaxElements) refuse(w, "has " + std::to_string(f.E) + " elements a sample; at most 2^34");
  if (k.dtype != Dtype::i64 || k.ndim != 2 || k.shape[0] != f.B || k.shape[1] != 3)
    refuse(r, std::string("is ") + dl::name_of(k.dtype) + " " + dl::shape_of(k) + "; need int64 (" +
                  std::to_string(f.B) + ", 3): seed, sample id, draw base");
  f.rng = static_cast<const int64_t*>(k.data);
  f.draw = dl::integer(draw, {kFill, "draw"});
  const int64_t s = dl::integer(stream, {kFill, "stream"});
  if (s < 0 || s > 255) refuse({kFill, "stream"}, "is " + std::to_string(s) + "; need 0 .. 255");
  f.stream = static_cast<int32_t>(s);
  law(f, family, constants);
  map(f, y, offset, strides, symmetric);
  return f;
}

Brownian brownian(py::handle out, py::handle rng, py::handle at, py::handle depth, py::handle coefs,
                  py::handle scale, Place& place) {
  constexpr const char* kCall = "brownian";
  Brownian p;
  const dl::Items outs(out, {kCall, "out"});
  if (outs.size() < 1 || outs.size() > 2)
    refuse({kCall, "out"}, "has " + count(outs.size(), "tensor") + "; need 1, or 2 with areas");
  const Where w{kCall, "out", 0}, r{kCall, "rng"}, a{kCall, "at"};
  const View y = dl::view(outs[0], w), k = dl::view(rng, r), t = dl::view(at, a);
  first_place(y, w, place);
  same_place(k, r, place);
  if (!real(y.dtype))
    refuse(w, std::string("is ") + dl::name_of(y.dtype) +
                  "; allowed are float32, float16, bfloat16 and float64");
  if (y.ndim < 2) refuse(w, "is " + dl::shape_of(y) + "; need (K, B, ...)");
  p.K = y.shape[0], p.B = y.shape[1], p.E = 1, p.out[0] = y.data, p.out[1] = nullptr, p.out_type = y.dtype;
  for (int d = 2; d < y.ndim; ++d) p.E *= y.shape[d];
  if (p.E > kMaxElements) refuse(w, "has " + std::to_string(p.E) + " elements a sample; at most 2^34");
  if (outs.size() == 2) {
    const Where v{kCall, "out", 1};
    const View h = dl::view(outs[1], v);
    same_place(h, v, place);
    if (h.dtype != y.dtype || h.ndim != y.ndim || !std::equal(y.shape, y.shape + y.ndim, h.shape))
      refuse(v, std::string("is ") + dl::name_of(h.dtype) + " " + dl::shape_of(h) + " but out[0] is " +
                    dl::name_of(y.dtype) + " " + dl::shape_of(y));
    if (overlap(h, y)) refuse(v, "shares memory with out[0]");
    p.out[1] = h.data;
  }
  if (k.dtype != Dtype::i64 || k.ndim != 2 || k.shape[0] != p.B || k.shape[1] != 3)
    refuse(r, std::string("is ") + dl::name_of(k.dtype) + " " + dl::shape_of(k) + "; need int64 (" +
                  std::to_string(p.B) + ", 3): seed, sample id, draw base");
  p.rng = static_cast<const int64_t*>(k.data);
  const int64_t levels = dl::integer(depth, {kCall, "depth"});
  if (levels < 1 || levels > kMaxDepth)
    refuse({kCall, "depth"}, "is " + std::to_string(levels) + "; need 1 .. 30");
  p.depth = static_cast<int>(levels);

  p.own = t.ndim == 2;
  const bool fits = p.own ? t.shape[0] == p.B && t.shape[1] == 2 && p.K == 1
                          : t.ndim == 1 && p.K >= 1 && t.shape[0] == p.K + 1;
  if (t.dtype != Dtype::i64 || !fits)
    refuse(a, std::string("is ") + dl::name_of(t.dtype) + " " + dl::shape_of(t) + " but out[0] is " +
                  dl::shape_of(y) + "; need int64 (K + 1,), or (B, 2) for one increment");
  p.at = static_cast<const int64_t*>(t.data);
  p.at_on_host = t.device == dl::kCpu;
  if (p.own || !p.at_on_host) same_place(t, a, place);
  const int64_t cells = int64_t(1) << p.depth;
  if (p.at_on_host)
    for (int64_t i = 0; i < (p.own ? p.B : p.K); ++i) {
      const int64_t from = p.at[(1 + p.own) * i], to = p.at[(1 + p.own) * i + 1];
      if (from < 0 || to > cells || from > to || (from == to && !p.own))
        refuse(a, "holds the interval " + std::to_string(from) + " .. " + std::to_string(to) +
                      (p.own ? "; need 0 <= from <= to <= 2^" : "; need 0 <= from < to <= 2^") +
                      std::to_string(p.depth));
    }

  p.coefs = nullptr, p.rows = 0;
  if (!coefs.is_none()) {
    const Where v{kCall, "coefs"};
    const View c = dl::view(coefs, v);
    same_place(c, v, place);
    if (p.own || p.out[1])
      refuse(v, "is given; a clock that is not uniform needs shared boundaries and has no areas");
    const bool host = place.type == dl::kCpu;  // one ladder for all increments; a device walks each alone
    if (c.dtype != Dtype::f32 || c.ndim != (host ? 2 : 3) || c.shape[c.ndim - 1] != 3 ||
        (!host && c.shape[0] != p.K))
      refuse(v, std::string("is ") + dl::name_of(c.dtype) + " " + dl::shape_of(c) + "; need float32 " +
                    (host ? "(rows, 3)" : "(K, rows, 3)") + ": left share, right share, deviation");
    p.coefs = static_cast<const float*>(c.data), p.rows = c.shape[c.ndim - 2];
  }
  p.scale = nullptr;
  if (!scale.is_none()) {
    const Where v{kCall, "scale"};
    const View c = dl::view(scale, v);
    same_place(c, v, place);
    const int64_t n = p.own ? p.B : p.K;
    const bool right =
        c.ndim == (p.out[1] ? 2 : 1) && c.shape[c.ndim - 1] == n && (c.ndim == 1 || c.shape[0] == 2);
    if (c.dtype != Dtype::f32 || !right)
      refuse(v, std::string("is ") + dl::name_of(c.dtype) + " " + dl::shape_of(c) + "; need float32 (" +
                    (p.out[1] ? "2, " : "") + std::to_string(n) + (p.out[1] ? ")" : ",)"));
    p.scale = static_cast<const float*>(c.data);
  }
  return p;
}

Norm norm(py::handle in, py::handle C, py::handle a, py::handle b, double atol, double rtol,
          const std::string& kind, py::handle work, py::handle out, Place& place) {
  constexpr const char* kNorm = "error_norm";
  Norm n{};
  const dl::Items ins(in, {kNorm, "E"});
  if (ins.size() < 1 || ins.size() > kMaxIn)
    refuse({kNorm, "E"}, "has " + count(ins.size(), "tensor") + "; need 1 .. 12");
  n.n_in = ins.size(), n.atol = atol, n.rtol = rtol, n.E = 1;
  const View x = dl::view(a, {kNorm, "a"});
  first_place(x, {kNorm, "a"}, place);
  if (x.ndim < 1) refuse({kNorm, "a"}, "has no dimensions; need (B, ...)");
  n.B = x.shape[0];
  for (int d = 1; d < x.ndim; ++d) n.E *= x.shape[d];
  const auto state = [&](const View& v, const Where& w) {
    same_place(v, w, place);
    if (!real(v.dtype)) refuse(w, std::string("is ") + dl::name_of(v.dtype) + "; need a float type");
    if (v.ndim != x.ndim || !std::equal(x.shape, x.shape + x.ndim, v.shape))
      refuse(w, "is " + dl::shape_of(v) + " but a is " + dl::shape_of(x));
    n.wide = n.wide || v.dtype == Dtype::f64;
  };
  state(x, {kNorm, "a"});
  n.a = n.b = x.data, n.a_type = n.b_type = x.dtype;
  if (!b.is_none()) {
    const View v = dl::view(b, {kNorm, "b"});
    state(v, {kNorm, "b"});
    n.b = v.data, n.b_type = v.dtype;
  }
  for (int i = 0; i < n.n_in; ++i) {
    const View v = dl::view(ins[i], {kNorm, "E", i});
    state(v, {kNorm, "E", i});
    n.in[i] = v.data, n.in_type[i] = v.dtype;
  }
  const auto table = [&](py::handle h, const char* name, std::initializer_list<int64_t> shape, Dtype type) {
    const Where w{kNorm, name};
    const View v = dl::view(h, w);
    same_place(v, w, place);
    if (v.dtype != type) refuse(w, std::string("is ") + dl::name_of(v.dtype) + "; need " + dl::name_of(type));
    if (v.ndim != static_cast<int>(shape.size()) || !std::equal(shape.begin(), shape.end(), v.shape))
      refuse(w, "is " + dl::shape_of(v) + ", which does not fit a of " + dl::shape_of(x));
    return v.data;
  };
  const View c = dl::view(C, {kNorm, "C"});
  n.C_wide = n.wide && c.dtype == Dtype::f64, n.C_step = c.ndim == 2 ? n.n_in : 0;
  const Dtype of_c = n.C_wide ? Dtype::f64 : Dtype::f32;
  n.C = c.ndim == 2 ? table(C, "C", {n.B, n.n_in}, of_c) : table(C, "C", {n.n_in}, of_c);
  n.work = static_cast<double*>(table(work, "work", {n.B, chunks_of(n.E)}, Dtype::f64));
  n.out = static_cast<float*>(table(out, "out", {n.B}, Dtype::f32));
  if (kind != "rms" && kind != "max") refuse({kNorm, "norm"}, "is '" + kind + "'; there are rms and max");
  n.largest = kind == "max";
  return n;
}

}  // namespace fd::check
