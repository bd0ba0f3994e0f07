// The executor's loop for the CPU: the linear stages of a plan with a call of the network between them.
#pragma once
#include <pybind11/pybind11.h>
#include <vector>
#include "check.h"

namespace fd {

void run_call(Step& s);  // a checked step on the CPU, without the GIL when it is large

class Program {
 public:
  explicit Program(pybind11::handle stages);
  // registers: tensors by number, None where a network output will be put; changed in place
  void run(pybind11::list registers, pybind11::object rng, pybind11::object net, pybind11::object times,
           pybind11::object check) const;

 private:
  struct Stage {
    std::vector<int> inputs, outputs, drop;
    int arg,
        raw;  // the register given to the network after the stage and the one for what it returns; -1: none
    pybind11::object A;
    dl::View matrix;
    Step columns;  // draws and streams
  };
  class Run;
  std::vector<Stage> stages_;
  int registers_ = 0;  // one more than the highest number named
};

}  // namespace fd
