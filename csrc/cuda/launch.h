// What the binding knows of the CUDA kernels: plain C++, no CUDA header. Every launch is on the stream it is
// given, allocates nothing and waits for nothing, so it can be captured in a graph.
#pragma once
#include "../step.h"

namespace fd::cuda {

// A cudaError_t; `device` is the index of the tensors' device, `stream` a cudaStream_t
int run(const Step& s, int device, void* stream);
int run(const Fill& f, int device, void* stream);

const char* message(int error);
int device_count(int& error);

}  // namespace fd::cuda
