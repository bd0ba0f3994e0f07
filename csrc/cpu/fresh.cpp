#include "fresh.h"
#include <memory>
#include <new>

namespace fd::cpu {
namespace {

struct Fresh {
  dl::Managed managed{};
  Block block;
  bool* dropped = nullptr;  // told while the tensor is made
  int64_t sizes[2 * kMostDims];

  static void drop(dl::Managed* m) {
    const std::unique_ptr<Fresh> own(static_cast<Fresh*>(m->context));
    if (own->dropped) *own->dropped = true;
    give(own->block);
  }
};

}  // namespace

pybind11::object fresh(const int64_t* shape, int ndim, uint8_t code, uint8_t bits) {
  if (ndim > kMostDims) throw std::bad_alloc();
  auto own = std::make_unique<Fresh>();
  int64_t n = 1, bytes = 0;
  bool much = false;  // more than can be counted: torch ends the process over it
  for (int i = ndim; i--;) {
    own->sizes[i] = shape[i], own->sizes[ndim + i] = n;
    much |= shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n);
  }
  if (much || __builtin_mul_overflow(n, int64_t{bits} / 8, &bytes)) throw std::bad_alloc();
  own->block = take(static_cast<size_t>(bytes));
  dl::Managed& m = own->managed;
  m.major = 1, m.context = own.get(), m.deleter = &Fresh::drop;
  m.tensor = {own->block.at, {dl::kCpu, 0}, ndim, {code, bits, 1}, own->sizes, own->sizes + ndim, 0};
  void* made = nullptr;
  bool dropped = false;
  own->dropped = &dropped;
  Fresh* const given = own.release();
  if (dl::bound().table->managed_to(&given->managed, &made)) {
    if (!dropped) Fresh::drop(&given->managed);  // torch may have, before or after it took the memory over
    throw pybind11::error_already_set();
  }
  given->dropped = nullptr;
  return pybind11::reinterpret_steal<pybind11::object>(static_cast<PyObject*>(made));
}

pybind11::object fresh(const int64_t* shape, int ndim, Dtype type) {
  const bool integer = type == Dtype::i32 || type == Dtype::i64;
  const uint8_t code = integer ? 0 : type == Dtype::bf16 ? 4 : 2;
  return fresh(shape, ndim, code, static_cast<uint8_t>(8 * width_of(type)));
}

}  // namespace fd::cpu
