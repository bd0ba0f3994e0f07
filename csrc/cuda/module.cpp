// fastdiff._cuda: the CUDA kernels. Links neither torch nor a CUDA library: the runtime is inside, so it
// loads without a driver.
#include <pybind11/stl.h>
#include <tuple>
#include "../bind_sums.h"
#include "launch.h"

namespace py = pybind11;

namespace {

// torch's current stream of the device: inside torch.cuda.graph the one that records
void* stream_of(int32_t device, const char* call) {
  const fd::dl::Table* table = fd::dl::bound().table;
  if (!table->stream)
    throw std::runtime_error(std::string(call) + ": this torch does not tell its current CUDA stream");
  void* stream = nullptr;
  if (table->stream(fd::dl::kCuda, device, &stream)) throw py::error_already_set();
  return stream;
}

void linear_step(py::handle T, py::handle A, py::handle index, py::handle rng, py::handle draws,
                 py::handle streams, py::handle out) {
  fd::check::Place place{fd::dl::kCuda, -1};
  const fd::Step s = fd::check::step(T, A, index, rng, draws, streams, out, place);
  void* stream = stream_of(place.index, "linear_step");
  const py::gil_scoped_release released;  // a full launch queue makes the launch wait
  fd::cuda::run(s, place.index, stream);
}

void fill(py::handle out, py::handle rng, py::handle draw, py::handle stream, const std::string& family,
          const std::vector<double>& constants, int64_t offset, const std::vector<int64_t>& strides,
          int64_t symmetric) {
  fd::check::Place place{fd::dl::kCuda, -1};
  const fd::Fill f =
      fd::check::fill(out, rng, draw, stream, family, constants, offset, strides, symmetric, place);
  void* queue = stream_of(place.index, "fill");
  const py::gil_scoped_release released;
  fd::cuda::run(f, place.index, queue);
}

void brownian(py::handle out, py::handle rng, py::handle at, py::handle depth, py::handle coefs,
              py::handle scale) {
  fd::check::Place place{fd::dl::kCuda, -1};
  const fd::Brownian p = fd::check::brownian(out, rng, at, depth, coefs, scale, place);
  void* stream = stream_of(place.index, "brownian");
  const py::gil_scoped_release released;
  fd::cuda::run(p, place.index, stream);
}

void error_norm(py::handle E, py::handle C, py::handle a, py::handle b, double atol, double rtol,
                const std::string& norm, py::handle work, py::handle out) {
  fd::check::Place place{fd::dl::kCuda, -1};
  const fd::Norm n = fd::check::norm(E, C, a, b, atol, rtol, norm, work, out, place);
  void* queue = stream_of(place.index, "error_norm");
  const py::gil_scoped_release released;
  fd::cuda::run(n, place.index, queue);
}

std::tuple<int, std::string> device_count() {
  std::string why;
  const int n = fd::cuda::device_count(why);
  return {n, why};
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "fastdiff's CUDA kernels; the checked, differentiable functions are in fastdiff.ops";
  m.attr("__version__") = FASTDIFF_VERSION;
  m.attr("archs") = FASTDIFF_CUDA_ARCHS;
  m.def("bind", &fd::dl::bind, py::arg("tensor_type"));
  m.def("linear_step_", &linear_step, py::arg("T"), py::arg("A"), py::arg("index"), py::arg("rng"),
        py::arg("draws"), py::arg("streams"), py::arg("out"));
  m.def("fill_", &fill, py::arg("out"), py::arg("rng"), py::arg("draw"), py::arg("stream"),
        py::arg("family"), py::arg("constants") = std::vector<double>(), py::arg("offset") = 0,
        py::arg("strides") = std::vector<int64_t>(), py::arg("symmetric") = 0);
  m.def("brownian_", &brownian, py::arg("out"), py::arg("rng"), py::arg("at"), py::arg("depth"),
        py::arg("coefs"), py::arg("scale"));
  m.def("error_norm_", &error_norm, py::arg("E"), py::arg("C"), py::arg("a"), py::arg("b"), py::arg("atol"),
        py::arg("rtol"), py::arg("norm"), py::arg("work"), py::arg("out"));
  fd::bind_sums(m, fd::dl::kCuda, -1, [](const auto& s, const fd::check::Place& place, const char* call) {
    void* queue = stream_of(place.index, call);
    const py::gil_scoped_release released;
    fd::cuda::run(s, place.index, queue);
  });
  m.def("device_count", &device_count, "(number, \"\") or (0, why there is none)");
}
