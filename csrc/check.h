// From Python's arguments to a Step, a Fill, a Brownian or a Norm, with every check; the same for all devices. What is
// wrong is said as std::invalid_argument (ValueError) that names the call, the argument, what came and what is
// allowed.
#pragma once
#include <vector>
#include "dl.h"
#include "step.h"

namespace fd::check {

namespace py = pybind11;

struct Place {  // where all tensors of a call must be; an index below 0 is filled in from the first
  int32_t type, index;
};

// A coefficient, (B,) or (1,) or a number, to every `stride`-th of B numbers
template <class R>
void coefficient(py::handle c, const dl::Where& w, int64_t B, const Place& place, R* to, int64_t stride);

void tensors(Step& s, const dl::View* T, int n_in, const dl::View* out, int n_out, Place& place);
void columns(Step& s, py::handle draws, py::handle streams, const char* call);
void matrix(Step& s, const dl::View& A, const dl::View* index, const Place& place);
void noise(Step& s, const dl::View* rng, const Place& place);

Step step(py::handle T, py::handle A, py::handle index, py::handle rng, py::handle draws, py::handle streams,
          py::handle out, Place& place);
Norm norm(py::handle in, py::handle C, py::handle a, py::handle b, double atol, double rtol,
          const std::string& kind, py::handle work, py::handle out, Place& place);
Fill fill(py::handle out, py::handle rng, py::handle draw, py::handle stream, const std::string& family,
          const std::vector<double>& constants, int64_t offset, const std::vector<int64_t>& strides,
          int64_t symmetric, Place& place);
Brownian brownian(py::handle out, py::handle rng, py::handle at, py::handle depth, py::handle coefs,
                  py::handle scale, Place& place);

}  // namespace fd::check
