#include "program.h"
#include <algorithm>

namespace fd {

namespace py = pybind11;

namespace {

constexpr const char* kCall = "Program";

[[noreturn]] void fail(size_t stage, const std::string& why) {
  throw std::invalid_argument("Program: stage " + std::to_string(stage) + ": " + why);
}

int number(py::handle h, size_t stage, const char* what, int least) {
  const int64_t i = dl::integer(h, {kCall, what});
  if (i < least || i > 1 << 16) fail(stage, std::string(what) + " names register " + std::to_string(i));
  return static_cast<int>(i);
}

std::vector<int> numbers(py::handle h, size_t stage, const char* what) {
  const dl::Items items(h, {kCall, what});
  std::vector<int> v;
  for (int i = 0; i < items.size(); ++i) v.push_back(number(items[i], stage, what, 0));
  return v;
}

}  // namespace

Program::Program(py::handle stages) {
  const dl::Items items(stages, {kCall, "stages"});
  for (int k = 0; k < items.size(); ++k) {
    const dl::Items t(items[k], {kCall, "stages", k});
    if (t.size() != 8)
      fail(k, "has " + std::to_string(t.size()) +
                  " entries; need (inputs, outputs, A, draws, streams, arg, raw, drop)");
    Stage s;
    s.inputs = numbers(t[0], k, "inputs"), s.outputs = numbers(t[1], k, "outputs"),
    s.drop = numbers(t[7], k, "drop");
    s.arg = number(t[5], k, "arg", -1), s.raw = number(t[6], k, "raw", -1);
    check::columns(s.columns, t[3], t[4], kCall);
    if (s.inputs.size() > kMaxIn || s.outputs.size() > kMaxOut || s.inputs.empty() != s.outputs.empty())
      fail(k, "has " + std::to_string(s.inputs.size()) + " inputs and " + std::to_string(s.outputs.size()) +
                  " outputs; need 1 .. 12 and 1 .. 4, or none of both");
    if ((s.arg < 0) != (s.raw < 0)) fail(k, "has only one of arg and raw");
    if (!s.inputs.empty()) {
      s.A = py::reinterpret_borrow<py::object>(t[2]);
      s.matrix = dl::view(t[2], {kCall, "A"});
    }
    for (const auto* list : {&s.inputs, &s.outputs, &s.drop})
      for (int r : *list) registers_ = std::max(registers_, r + 1);
    registers_ = std::max({registers_, s.arg + 1, s.raw + 1});
    stages_.push_back(std::move(s));
  }
}

// One pass over the stages: the registers with what is known of their tensors
class Program::Run {
 public:
  Run(py::list registers, const py::object& rng)
      : list_(std::move(registers)),
        held_(list_.size()),
        views_(list_.size()),
        version_(list_.size(), kOurs) {
    for (size_t r = 0; r < held_.size(); ++r) {
      const py::handle h = PyList_GET_ITEM(list_.ptr(), static_cast<Py_ssize_t>(r));
      if (h.is_none()) continue;
      held_[r] = py::reinterpret_borrow<py::object>(h);
      views_[r] = dl::view(h, {kCall, "registers", static_cast<int>(r)});
    }
    if (!rng.is_none()) rng_ = dl::view(rng, {kCall, "rng"}), has_rng_ = true;
  }

  void linear(const Stage& stage) {
    Step s = stage.columns;
    dl::View in[kMaxIn], out[kMaxOut];
    const int n_in = gather(stage.inputs, in), n_out = gather(stage.outputs, out);
    check::Place place{dl::kCpu, 0};
    check::tensors(s, in, n_in, out, n_out, place);
    check::matrix(s, stage.matrix, nullptr, place);
    check::noise(s, has_rng_ ? &rng_ : nullptr, place);
    run_call(s);
  }

  void drop(int r) {
    held_[r] = py::object();
    set(r, Py_None);
  }

  void call(const Stage& stage, size_t k, PyObject* net, PyObject* time, const py::object& check) {
    const py::object x = held_[stage.arg];
    const dl::View& like = view(stage.arg);
    for (int r : stage.drop) drop(r);
    PyObject* args[] = {nullptr, x.ptr(), time};
    const int64_t before = version(x);
    py::object out = py::reinterpret_steal<py::object>(
        PyObject_Vectorcall(net, args + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
    if (!out) throw py::error_already_set();
    if (version(x) != before)
      fail(k, "the network changed its input x in place; let it work on a copy (x.clone())");
    for (size_t r = 0; r < held_.size(); ++r)
      if (held_[r] && version_[r] != kOurs && static_cast<int>(r) != stage.raw &&
          version(held_[r]) != version_[r])
        fail(k,
             "the network wrote its output over an earlier one that is still needed; let it return a new "
             "tensor (out.clone())");
    dl::View v;
    if (!accept(out, v, like, true)) {
      out = check(out, x, k);
      if (!accept(out, v, like, false))
        fail(k, "what check returned is not a contiguous CPU tensor of the argument's shape");
    }
    views_[stage.raw] = v;
    version_[stage.raw] = version(out);
    set(stage.raw, out.ptr());
    held_[stage.raw] = std::move(out);
  }

  const dl::View& view(int r) const {
    if (!held_[r]) throw std::invalid_argument("register " + std::to_string(r) + " holds no tensor");
    return views_[r];
  }

 private:
  int gather(const std::vector<int>& numbers, dl::View* to) const {
    int n = 0;
    for (int r : numbers) to[n++] = view(r);
    return n;
  }

  void set(int r, PyObject* value) {
    Py_INCREF(value);
    if (PyList_SetItem(list_.ptr(), r, value)) throw py::error_already_set();
  }

  // Fit to be kept as it is. fresh: as the network gave it, so not in memory of ours, nor of a dtype that
  // other tables would need
  bool accept(const py::object& out, dl::View& v, const dl::View& like, bool fresh) const {
    if (Py_TYPE(out.ptr()) != dl::bound().type) return false;
    if (const dl::Fault f = dl::look(out, v); f != dl::Fault::none) {
      if (f == dl::Fault::no_memory) PyErr_Clear();
      return false;
    }
    if (v.device != dl::kCpu || v.dtype > Dtype::f64 || v.ndim != like.ndim) return false;
    if (!std::equal(v.shape, v.shape + v.ndim, like.shape)) return false;
    if (!fresh) return true;
    if (negated(out)) return false;
    if (v.dtype == Dtype::f64 && like.dtype != Dtype::f64) return false;
    for (size_t r = 0; r < held_.size(); ++r)
      if (held_[r] && version_[r] == kOurs && dl::overlap(v, views_[r])) return false;
    return true;
  }

  // A view that torch negates when it is read: its memory does not show it
  static bool negated(const py::object& t) {
    static PyObject* const name = PyUnicode_InternFromString("is_neg");
    const py::object v = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(t.ptr(), name));
    if (!v) throw py::error_already_set();
    return v.ptr() == Py_True;
  }

  // How often torch has written to a tensor (views count together); tensors of inference mode are not counted
  static int64_t version(const py::object& t) {
    static PyObject* const name = PyUnicode_InternFromString("_version");
    const py::object v = py::reinterpret_steal<py::object>(PyObject_GetAttr(t.ptr(), name));
    if (!v) return PyErr_Clear(), 0;
    return PyLong_AsLongLong(v.ptr());
  }

  static constexpr int64_t kOurs = -1;  // the version of what is no output of the network

  py::list list_;
  std::vector<py::object> held_;  // the network may change the list; the memory stays
  std::vector<dl::View> views_;
  std::vector<int64_t> version_;  // of each network output, when it came
  dl::View rng_{};
  bool has_rng_ = false;
};

void Program::run(py::list registers, py::object rng, py::object net, py::object times,
                  py::object check) const {
  if (static_cast<int>(registers.size()) < registers_)
    throw std::invalid_argument("Program: the list has " + std::to_string(registers.size()) +
                                " registers; the stages name " + std::to_string(registers_));
  const dl::Items t(times, {kCall, "times"});
  Run run(std::move(registers), rng);
  for (size_t k = 0; k < stages_.size(); ++k) {
    const Stage& stage = stages_[k];
    try {
      if (!stage.inputs.empty()) run.linear(stage);
      if (stage.arg >= 0) run.view(stage.arg);
    } catch (const std::invalid_argument& e) {
      fail(k, e.what());
    }
    if (PyErr_CheckSignals()) throw py::error_already_set();
    if (stage.arg < 0) {
      for (int r : stage.drop) run.drop(r);
      continue;
    }
    if (static_cast<int>(k) >= t.size()) fail(k, "has no time; the list has " + std::to_string(t.size()));
    run.call(stage, k, net.ptr(), t[static_cast<int>(k)].ptr(), check);
  }
}

}  // namespace fd
