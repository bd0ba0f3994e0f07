// Tensors for results, on memory that may have served before (warm.h)
#pragma once
#include "../dl.h"
#include "warm.h"

namespace fd::cpu {

constexpr int kMostDims = 64;  // torch's own bound

// A contiguous tensor, not written to; throws std::bad_alloc where its bytes cannot be had
pybind11::object fresh(const int64_t* shape, int ndim, uint8_t code, uint8_t bits);
pybind11::object fresh(const int64_t* shape, int ndim, Dtype type);

}  // namespace fd::cpu
