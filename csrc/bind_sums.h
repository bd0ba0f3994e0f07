// regression_loss_, dots_ and gaussian_kl_ of a module: checked, then `run(job, place)` without the GIL
#pragma once
#include <pybind11/stl.h>
#include "check_sums.h"

namespace fd {

template <class Run>
void bind_sums(pybind11::module_& m, int32_t device, int32_t index, Run run) {
  namespace py = pybind11;
  using H = py::handle;
  m.def(
      "regression_loss_",
      [=](H pred, H T, H C, H w, H mask, H rng, H draws, H streams, const std::string& rho, double c, double count,
          H work, H out, H slope) {
        check::Place place{device, index};
        run(check::loss(pred, T, C, w, mask, rng, draws, streams, rho, c, count, work, out, slope, place), place,
            "regression_loss");
      },
      py::arg("pred"), py::arg("T"), py::arg("C"), py::arg("w"), py::arg("mask"), py::arg("rng"), py::arg("draws"),
      py::arg("streams"), py::arg("rho"), py::arg("c"), py::arg("count"), py::arg("work"), py::arg("out"),
      py::arg("slope"));
  m.def(
      "dots_",
      [=](H T, H R, const std::vector<std::tuple<int, int, bool>>& pairs, H rng, H draws, H streams, H work, H out,
          H total, H weights) {
        check::Place place{device, index};
        run(check::dots(T, R, pairs, rng, draws, streams, work, out, total, weights, place), place, "dots");
      },
      py::arg("T"), py::arg("R"), py::arg("pairs"), py::arg("rng"), py::arg("draws"), py::arg("streams"),
      py::arg("work"), py::arg("out"), py::arg("total"), py::arg("weights"));
  m.def(
      "gaussian_kl_",
      [=](H pred, H var, H x0, H xt, H C, H is_bin, H w, double half, double count, H work, H out, H by_pred,
          H by_var) {
        check::Place place{device, index};
        run(check::kl(pred, var, x0, xt, C, is_bin, w, half, count, work, out, by_pred, by_var, place), place,
            "gaussian_kl");
      },
      py::arg("pred"), py::arg("var"), py::arg("x0"), py::arg("xt"), py::arg("C"), py::arg("is_bin"), py::arg("w"),
      py::arg("half"), py::arg("count"), py::arg("work"), py::arg("out"), py::arg("by_pred"), py::arg("by_var"));
}

}  // namespace fd
