// Between the Python module and the kernels: nothing of pybind11 beyond this line, nothing of CUDA before it.
#pragma once
#include <string>
#include "../sums.h"

namespace fd::cuda {

// Queue the work on a stream (a cudaStream_t) of a device. Nothing here allocates, copies or waits, so a CUDA
// graph can record it. std::runtime_error when CUDA refuses.
void run(const Step& s, int device, void* stream);
void run(const Fill& f, int device, void* stream);
void run(const Brownian& p, int device, void* stream);
void run(const Norm& n, int device, void* stream);
void run(const Loss& s, int device, void* stream);
void run(const Dots& s, int device, void* stream);
void run(const Kl& s, int device, void* stream);

int device_count(std::string& why);  // 0, and why, where there is no driver

}  // namespace fd::cuda
