// Looks into a torch.Tensor without linking torch: through the DLPack C exchange table that torch.Tensor
// carries (a frozen layout, the same in every torch from 2.11 on). The only file that knows what a tensor is.
#pragma once
#include <pybind11/pybind11.h>
#include <cstdint>
#include <stdexcept>
#include <string>
#include "core/types.h"

namespace fd::dl {

namespace py = pybind11;

struct Tensor {
  void* data;
  struct {
    int32_t type, index;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct Managed {
  uint32_t major, minor;
  void* context;
  void (*deleter)(Managed*);
  uint64_t flags;
  Tensor tensor;
};

struct Table {
  uint32_t major, minor;
  void* previous;
  void* allocate;
  void* managed_from;
  int (*managed_to)(Managed* tensor, void** py_object);
  int (*borrow)(void* py_object, Tensor* out);
  int (*stream)(int32_t device_type, int32_t device_index, void** out);
};

enum Device : int32_t { kCpu = 1, kCuda = 2 };

struct Bound {
  const Table* table = nullptr;
  PyTypeObject* type = nullptr;
};
inline Bound& bound() {
  static Bound b;
  return b;
}

// bind(torch.Tensor), once, when the package is imported
inline void bind(const py::object& type) {
  if (!PyType_Check(type.ptr()))
    throw std::invalid_argument("bind: torch.Tensor itself is wanted, the class");
  if (!py::hasattr(type, "__dlpack_c_exchange_api__"))
    throw std::invalid_argument(
        "bind: this torch has no DLPack exchange table; fastdiff needs torch >= 2.11");
  const py::object capsule = type.attr("__dlpack_c_exchange_api__");
  const auto* table = static_cast<const Table*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!table) throw py::error_already_set();
  if (table->major != 1 || !table->borrow || !table->managed_to)
    throw std::invalid_argument("bind: this torch speaks DLPack " + std::to_string(table->major) +
                                "; fastdiff knows 1");
  bound() = {table, reinterpret_cast<PyTypeObject*>(type.inc_ref().ptr())};
}

// The argument an error is about: "linear_step: T[2]"
struct Where {
  const char* call;
  const char* name;
  int at = -1;
  std::string text() const {
    return std::string(call) + ": " + name + (at < 0 ? "" : "[" + std::to_string(at) + "]");
  }
};
[[noreturn]] inline void refuse(const Where& w, const std::string& why) {
  throw std::invalid_argument(w.text() + " " + why);
}

struct View {
  void* data;
  const int64_t* shape;  // the tensor's own: as long as it lives
  int ndim;
  int64_t n;
  Dtype dtype;
  int32_t device, index;
  int64_t bytes() const { return n * width_of(dtype); }
};

inline bool overlap(const View& a, const View& b) {
  const auto *x = static_cast<const char*>(a.data), *y = static_cast<const char*>(b.data);
  return a.n && b.n && x < y + b.bytes() && y < x + a.bytes();
}

inline const char* name_of(Dtype d) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "float64", "int32", "int64"};
  return kNames[static_cast<int>(d)];
}
inline std::string shape_of(const View& v) {
  std::string s = "(";
  for (int i = 0; i < v.ndim; ++i) s += (i ? ", " : "") + std::to_string(v.shape[i]);
  return s + (v.ndim == 1 ? ",)" : ")");
}
inline std::string device_name(int32_t type, int32_t index) {
  if (type == kCpu) return "cpu";
  if (type != kCuda) return "device type " + std::to_string(type);
  return index < 0 ? "cuda" : "cuda:" + std::to_string(index);
}

// What keeps a Python object from being seen as a tensor in memory. After no_memory a Python error is set.
enum class Fault { none, unbound, no_tensor, no_memory, no_dtype, strided, no_data };

inline Fault look(py::handle h, View& v) {  // no message: cheap where a fault is no mistake
  const Bound& b = bound();
  if (!b.table) return Fault::unbound;
  if (!PyObject_TypeCheck(h.ptr(), b.type)) return Fault::no_tensor;
  Tensor t;
  if (b.table->borrow(h.ptr(), &t)) return Fault::no_memory;
  v = {static_cast<char*>(t.data) + t.byte_offset,
       t.shape,
       t.ndim,
       1,
       Dtype::f32,
       t.device.type,
       t.device.index};
  switch (t.dtype.lanes == 1 ? t.dtype.code << 8 | t.dtype.bits : 0) {
    case 0x220:
      v.dtype = Dtype::f32;
      break;
    case 0x210:
      v.dtype = Dtype::f16;
      break;
    case 0x410:
      v.dtype = Dtype::bf16;
      break;
    case 0x240:
      v.dtype = Dtype::f64;
      break;
    case 0x020:
      v.dtype = Dtype::i32;
      break;
    case 0x040:
      v.dtype = Dtype::i64;
      break;
    default:
      return Fault::no_dtype;
  }
  bool strided = false;
  for (int i = t.ndim - 1; i >= 0; --i) {
    strided |= t.shape[i] > 1 && t.strides && t.strides[i] != v.n;
    v.n *= t.shape[i];
  }
  if (strided && v.n) return Fault::strided;  // without elements strides mean nothing
  return v.n && !t.data ? Fault::no_data : Fault::none;
}

inline View view(py::handle h, const Where& w) {
  View v;
  switch (look(h, v)) {
    case Fault::none:
      break;
    case Fault::unbound:
      throw std::invalid_argument(std::string(w.call) + ": bind(torch.Tensor) has not been called");
    case Fault::no_tensor:
      refuse(w, std::string("is of type ") + Py_TYPE(h.ptr())->tp_name + "; need a torch.Tensor");
    case Fault::no_memory: {
      const py::error_already_set e;
      const std::string all = py::str(e.value());
      refuse(w, "is no plain tensor in memory (" + all.substr(0, all.find('\n')) + ")");
    }
    case Fault::no_dtype:
      refuse(w, "is " + std::string(py::str(h.attr("dtype"))) +
                    "; allowed are float32, float16, bfloat16 and float64 (int32 and int64 for indices)");
    case Fault::strided:
      refuse(w, "is not contiguous; call .contiguous()");
    case Fault::no_data:
      refuse(w, "has no memory behind it (a fake or meta tensor)");
  }
  return v;
}

// A list or tuple, borrowed
class Items {
 public:
  Items(py::handle h, const Where& w)
      : kept_(py::reinterpret_steal<py::object>(PySequence_Fast(h.ptr(), ""))) {
    if (!kept_) {
      PyErr_Clear();
      refuse(w, std::string("is of type ") + Py_TYPE(h.ptr())->tp_name + "; need a list");
    }
  }
  int size() const { return static_cast<int>(PySequence_Fast_GET_SIZE(kept_.ptr())); }
  py::handle operator[](int i) const { return PySequence_Fast_GET_ITEM(kept_.ptr(), i); }

 private:
  py::object kept_;
};

inline int64_t integer(py::handle h, const Where& w) {
  const py::object i = py::reinterpret_steal<py::object>(PyNumber_Index(h.ptr()));  // numpy's integers too
  const long long v = i ? PyLong_AsLongLong(i.ptr()) : -1;
  if (v == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    refuse(w, "is " + std::string(py::repr(h)) + "; need an int of 64 bits");
  }
  return v;
}

}  // namespace fd::dl
