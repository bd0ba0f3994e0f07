// check.h for dots, regression_loss and gaussian_kl.
#pragma once
#include <tuple>
#include "check.h"
#include "sums.h"

namespace fd::check {

Loss loss(py::handle pred, py::handle T, py::handle C, py::handle w, py::handle mask, py::handle rng,
          py::handle draws, py::handle streams, const std::string& rho, double c, double count, py::handle work,
          py::handle out, py::handle slope, Place& place);
struct Kept {  // what a call reads that no tensor holds; also as float
  std::vector<double> C, w, work, out;
};
// With the coefficients as columns, each (B,) or a number, and w likewise. `over_batch` divides the weights by B;
// where `out` is (), the losses of the samples are in `kept`.
Loss loss(py::handle pred, py::handle T, py::handle columns, py::handle w, py::handle mask, py::handle rng,
          py::handle draws, py::handle streams, const std::string& rho, double c, double count, bool over_batch,
          py::handle out, py::handle slope, Place& place, Kept& kept);
Dots dots(py::handle T, py::handle R, const std::vector<std::tuple<int, int, bool>>& pairs, py::handle rng,
          py::handle draws, py::handle streams, py::handle work, py::handle out, py::handle total,
          py::handle weights, Place& place);
Kl kl(py::handle pred, py::handle var, py::handle x0, py::handle xt, py::handle C, py::handle is_bin,
      py::handle w, double half, double count, py::handle work, py::handle out, py::handle by_pred,
      py::handle by_var, Place& place);

}  // namespace fd::check
