// Which kernel a call goes to and what its items are; no CUDA in here.
#pragma once
#include "../step.h"
#include "grid.h"

namespace fd::cuda {

FD_HD constexpr int lanes(Dtype type) {
  return type == Dtype::f32 ? 4 : 8;
}  // elements in a vector of 16 bytes

// Numbers of tensors that have a kernel of their own: those whose matrix and vectors fit into 128 registers
FD_HD constexpr bool is_fast(Dtype type, int n_in, int n_out) {
  return n_in <= (n_out > 2 && type != Dtype::f32 ? 3 : 8);
}

struct StepPlan {
  Step s;     // seen as one long sample where nothing depends on samples
  Grid g;     // without its threads
  bool fast;  // else general
  bool short_parts;
};
struct MappedFill : Fill {
  Divisor size[kMapDims], n;  // of the map's dimensions; the rows of a symmetric sample
};
struct FillPlan {
  MappedFill f;
  Grid g;
  bool mapped;  // each number from a block of its own
};

StepPlan plan(const Step& s);
FillPlan plan(const Fill& f);

}  // namespace fd::cuda
