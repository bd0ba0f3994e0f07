// fastdiff._C: the CPU kernels. Does not link torch.
#include <pybind11/stl.h>
#include "bind_sums.h"
#include "core/philox.h"
#include "cpu/direct.h"
#include "cpu/dispatch.h"
#include "cpu/fresh.h"
#include "program.h"

namespace py = pybind11;

namespace fd {

void run_call(Step& s) {
  s.past_cache = cpu::past_cache(s.bytes);
  if (cpu::small(s.B * s.E)) return cpu::run(s);
  const py::gil_scoped_release released;
  cpu::run(s);
}

}  // namespace fd

namespace {

void linear_step(py::handle T, py::handle A, py::handle index, py::handle rng, py::handle draws,
                 py::handle streams, py::handle out) {
  fd::check::Place place{fd::dl::kCpu, 0};
  fd::Step s = fd::check::step(T, A, index, rng, draws, streams, out, place);
  fd::run_call(s);
}

void fill(py::handle out, py::handle rng, py::handle draw, py::handle stream, const std::string& family,
          const std::vector<double>& constants, int64_t offset, const std::vector<int64_t>& strides,
          int64_t symmetric) {
  fd::check::Place place{fd::dl::kCpu, 0};
  const fd::Fill f =
      fd::check::fill(out, rng, draw, stream, family, constants, offset, strides, symmetric, place);
  if (fd::cpu::small(f.B * f.E)) return fd::cpu::run(f);
  const py::gil_scoped_release released;
  fd::cpu::run(f);
}

void brownian(py::handle out, py::handle rng, py::handle at, py::handle depth, py::handle coefs,
              py::handle scale) {
  fd::check::Place place{fd::dl::kCpu, 0};
  const fd::Brownian p = fd::check::brownian(out, rng, at, depth, coefs, scale, place);
  if (fd::cpu::small(p.B * p.E * fd::cpu::path_work(p.K))) return fd::cpu::run(p);
  const py::gil_scoped_release released;
  fd::cpu::run(p);
}

void error_norm(py::handle E, py::handle C, py::handle a, py::handle b, double atol, double rtol,
                const std::string& norm, py::handle work, py::handle out) {
  fd::check::Place place{fd::dl::kCpu, 0};
  const fd::Norm n = fd::check::norm(E, C, a, b, atol, rtol, norm, work, out, place);
  if (fd::cpu::small(n.B * n.E)) return fd::cpu::run(n);
  const py::gil_scoped_release released;
  fd::cpu::run(n);
}

py::object fresh(const std::vector<int64_t>& shape, uint8_t code, uint8_t bits) {
  return fd::cpu::fresh(shape.data(), static_cast<int>(shape.size()), code, bits);
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
  fd::philox<fd::Scalar>(c, key[0], key[1]);
  return {c[0], c[1], c[2], c[3]};
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "fastdiff's CPU kernels; the checked, differentiable functions are in fastdiff.ops";
  m.attr("__version__") = FASTDIFF_VERSION;
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
  fd::bind_sums(m, fd::dl::kCpu, 0, [](const auto& s, const fd::check::Place&, const char*) {
    if (fd::cpu::small(s.B * s.E)) return fd::cpu::run(s);
    const py::gil_scoped_release released;
    fd::cpu::run(s);
  });
  m.def("perturb", &fd::cpu::perturb, py::arg("T"), py::arg("columns"), py::arg("rng"), py::arg("draw"),
        py::arg("stream"), py::arg("noise").noconvert());
  m.def("regression_loss", &fd::cpu::regression_loss, py::arg("pred"), py::arg("T"), py::arg("columns"), py::arg("w"),
        py::arg("mask"), py::arg("rng"), py::arg("draws"), py::arg("streams"), py::arg("rho"), py::arg("c"),
        py::arg("mean"), py::arg("batch"), py::arg("slope"));
  m.def("fresh", &fresh, py::arg("shape"), py::arg("code"), py::arg("bits"));
  m.def("taken", &fd::cpu::taken);
  m.def("release", &fd::cpu::release);
  m.def("isa", &fd::cpu::isa);
  m.def("isas", &fd::cpu::isas);
  m.def("set_isa", &fd::cpu::set_isa, py::arg("name"));
  m.def("threads", &fd::cpu::threads);
  py::class_<fd::Program>(m, "Program")
      .def(py::init<py::handle>(), py::arg("stages"))
      .def("run", &fd::Program::run, py::arg("registers"), py::arg("rng"), py::arg("net"), py::arg("times"),
           py::arg("check"));
  m.def("philox", &philox, py::arg("counter"), py::arg("key"));
}
