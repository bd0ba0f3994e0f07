// The kernels, all of (Step, Fill or Leg, Grid); those of a norm of (Norm, chunks, all of them). A file of
// instances each, compiled side by side.
#pragma once
#include <atomic>

namespace fd::cuda {

struct Kernel {
  const void* address;
  std::atomic<int> resident{
      0};  // blocks that one multiprocessor holds at a time; asked for at the first launch
};

Kernel& fast_f32(int n_in, int n_out, bool noise);
Kernel& fast_f16(int n_in, int n_out, bool noise);
Kernel& fast_bf16(int n_in, int n_out, bool noise);
Kernel& general_step(bool wide, bool short_parts);
Kernel& fill_kernel(bool mapped);
Kernel& brownian_kernel(bool area);
Kernel& norm_kernel(bool wide, bool largest);
Kernel& norm_finish(bool largest);
Kernel& loss_kernel(bool wide, bool end);  // of (Loss, chunks, whether all begins on vectors), as the next two
Kernel& dots_kernel(bool wide, bool end);
Kernel& kl_kernel(bool end);

}  // namespace fd::cuda
