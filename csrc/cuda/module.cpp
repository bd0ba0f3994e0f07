// fastdiff._cuda: the CUDA kernels. Links neither torch nor the driver, so it imports on a machine without
// either.
#include <pybind11/pybind11.h>
#include "../check.h"
#include "launch.h"

namespace py = pybind11;

namespace {

// The stream torch has current on the device, the capture's own inside a graph
void* stream_of(int device) {
  void* stream = nullptr;
  if (fd::dl::bound().table->stream(fd::dl::kCuda, device, &stream)) throw py::error_already_set();
  return stream;
}

void ok(const char* call, int error) {
  if (error) throw std::runtime_error(std::string(call) + ": CUDA: " + fd::cuda::message(error));
}

void linear_step(py::handle T, py::handle A, py::handle index, py::handle rng, py::handle draws,
                 py::handle streams, py::handle out) {
  fd::check::Place place{fd::dl::kCuda, -1};
  const fd::Step s = fd::check::step(T, A, index, rng, draws, streams, out, place);
  ok("linear_step", fd::cuda::run(s, place.index, stream_of(place.index)));
}

void fill(py::handle out, py::handle rng, py::handle draw, py::handle stream, const std::string& family) {
  fd::check::Place place{fd::dl::kCuda, -1};
  const fd::Fill f = fd::check::fill(out, rng, draw, stream, family, place);
  ok("fill", fd::cuda::run(f, place.index, stream_of(place.index)));
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "fastdiff's CUDA kernels; the checked, differentiable functions are in fastdiff.ops";
  m.attr("__version__") = FASTDIFF_VERSION;
  m.attr("archs") = FASTDIFF_CUDA_ARCHS;
  m.def("bind", &fd::dl::bind, py::arg("tensor_type"));
  m.def("device_count", [] {
    int error = 0;
    return fd::cuda::device_count(error);
  });
  m.def("linear_step_", &linear_step, py::arg("T"), py::arg("A"), py::arg("index"), py::arg("rng"),
        py::arg("draws"), py::arg("streams"), py::arg("out"));
  m.def("fill_", &fill, py::arg("out"), py::arg("rng"), py::arg("draw"), py::arg("stream"),
        py::arg("family"));
}
