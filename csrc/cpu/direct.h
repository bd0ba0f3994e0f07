// Ops in one call from Python, their results and tables made here: for plain CPU tensors. What is otherwise they refuse
// (std::invalid_argument), and Python goes the general way, which finds the words for it.
#pragma once
#include <string>
#include "../dl.h"

namespace fd::cpu {

// x_t, or (x_t, xi): columns hold a coefficient for each of T and that of the noise, as check::coefficient takes them
pybind11::object perturb(pybind11::handle T, pybind11::handle columns, pybind11::handle rng, pybind11::handle draw,
                         pybind11::handle stream, bool noise);

enum class Slope : int { none, like_pred, wide };  // its dtype
// batch: "" for the loss of each sample (B,), "sum" and "mean" for that of the batch ()
pybind11::tuple regression_loss(pybind11::handle pred, pybind11::handle T, pybind11::handle columns, pybind11::handle w,
                                pybind11::handle mask, pybind11::handle rng, pybind11::handle draws,
                                pybind11::handle streams, const std::string& rho, double c, bool mean, const std::string& batch, int slope);

}  // namespace fd::cpu
