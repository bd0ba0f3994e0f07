#include <algorithm>
#include <atomic>
#include <stdexcept>
#include "kernels.h"
#include "launch.h"
#include "plan.h"

namespace fd::cuda {
namespace {

constexpr int kBlocks = 16;  // of one launch on a multiprocessor, at most
constexpr int kDevices = 64;

void check(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  (void)cudaGetLastError();  // it is reported here and not to whom asks next
  throw std::runtime_error(std::string("fastdiff CUDA: ") + what + ": " + cudaGetErrorString(e));
}

class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "the current device");
    if (before_ != device) check(cudaSetDevice(device), "changing the device");
    else before_ = -1;
  }
  ~OnDevice() {
    if (before_ >= 0) (void)cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = -1;
};

int multiprocessors(int device) {
  static std::atomic<int> known[kDevices];
  const bool cached = device < kDevices;
  int n = cached ? known[device].load(std::memory_order_relaxed) : 0;
  if (n) return n;
  check(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device), "the number of multiprocessors");
  if (cached) known[device].store(n, std::memory_order_relaxed);
  return n;
}

int resident(Kernel& k) {
  int n = k.resident.load(std::memory_order_relaxed);
  if (n) return n;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, k.address, kThreads, 0),
        "finding a kernel for this device");
  n = std::max(n, 1);
  k.resident.store(n, std::memory_order_relaxed);
  return n;
}

template <class Job>
void launch(Kernel& k, Job& job, Grid& g, int device, void* stream) {
  const OnDevice here(device);
  const int at_once = resident(k);
  const int64_t wanted = (g.n + kThreads - 1) / kThreads;
  const int64_t most =
      int64_t(multiprocessors(device)) * at_once * std::max(1, kBlocks / at_once);  // whole waves
  const int64_t blocks = std::min(wanted, most);
  g.threads(blocks * kThreads);
  void* arguments[] = {&job, &g};
  check(cudaLaunchKernel(k.address, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), arguments, 0,
                         static_cast<cudaStream_t>(stream)),
        "launch");
}

Kernel& kernel_for(const StepPlan& p) {
  const Step& s = p.s;
  if (!p.fast) return general_step(s.wide, p.short_parts);
  switch (s.out_type) {
    case Dtype::f32:
      return fast_f32(s.n_in, s.n_out, s.n_noise);
    case Dtype::f16:
      return fast_f16(s.n_in, s.n_out, s.n_noise);
    default:
      return fast_bf16(s.n_in, s.n_out, s.n_noise);
  }
}

}  // namespace

void run(const Step& s, int device, void* stream) {
  if (s.B * s.E == 0) return;
  StepPlan p = plan(s);
  launch(kernel_for(p), p.s, p.g, device, stream);
}

void run(const Fill& f, int device, void* stream) {
  if (f.B * f.E == 0) return;
  FillPlan p = plan(f);
  if (p.mapped) return launch(fill_kernel(true), p.f, p.g, device, stream);
  launch(fill_kernel(false), static_cast<Fill&>(p.f), p.g, device, stream);
}

void run(const Brownian& p, int device, void* stream) {
  if (p.B * p.E == 0) return;
  for (int64_t k = 0; k < p.K; ++k) {
    LegPlan l = plan(p, k);
    launch(brownian_kernel(p.out[1]), l.leg, l.g, device, stream);
  }
}

// A block of threads for each chunk, then one for each sample
void run(const Norm& call, int device, void* stream) {
  if (call.B == 0) return;
  const OnDevice here(device);
  Norm n = call;
  int64_t chunks = chunks_of(n.E);
  void* arguments[] = {&n, &chunks};
  const auto go = [&](Kernel& k, int64_t wanted, const char* what) {
    const int64_t most = int64_t(multiprocessors(device)) * resident(k) * kBlocks;
    check(cudaLaunchKernel(k.address, dim3(static_cast<unsigned>(std::min(wanted, most))), dim3(kThreads),
                           arguments, 0, static_cast<cudaStream_t>(stream)),
          what);
  };
  go(norm_kernel(n.wide, n.largest), n.B * chunks, "launch of a norm");
  go(norm_finish(n.largest), n.B, "launch of a norm's end");
}

namespace {

bool on_vectors(const Terms& t) {
  bool all = true;
  for (int i = 0; i < t.n_in; ++i) all = all && reinterpret_cast<uintptr_t>(t.in[i]) % 16 == 0;
  return all;
}
template <class... P>
bool on_vectors(const Sums& s, P... p) {  // null begins there too
  return s.E % 4 == 0 && ((reinterpret_cast<uintptr_t>(p) % 16 == 0) && ...);
}

// A block of threads for each chunk, then one for each sample
template <class Job>
void run_sums(const Job& call, bool aligned, Kernel& chunk, Kernel& end, size_t shared, int device, void* stream) {
  if (call.B == 0) return;
  const OnDevice here(device);
  Job job = call;
  int64_t chunks = chunks_of(job.E);
  void* arguments[] = {&job, &chunks, &aligned};
  const auto go = [&](Kernel& k, int64_t wanted, size_t bytes, const char* what) {
    const int64_t most = int64_t(multiprocessors(device)) * resident(k) * kBlocks;
    if (bytes > 32768)
      check(cudaFuncSetAttribute(k.address, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
            "shared memory for so many rows");
    check(cudaLaunchKernel(k.address, dim3(static_cast<unsigned>(std::min(wanted, most))), dim3(kThreads),
                           arguments, bytes, static_cast<cudaStream_t>(stream)),
          what);
  };
  if (job.E) go(chunk, job.B * chunks, shared, "launch of sums");
  go(end, job.B, 0, "launch of the end of sums");
}

}  // namespace

void run(const Loss& s, int device, void* stream) {
  const bool aligned = on_vectors(s.terms) && on_vectors(s, s.pred, s.mask, s.slope);
  run_sums(s, aligned, loss_kernel(s.wide, false), loss_kernel(s.wide, true), 0, device, stream);
}

void run(const Dots& s, int device, void* stream) {
  bool needed[kMaxVectors] = {};
  size_t rows = 0;
  for (int p = 0; p < s.n; ++p)
    for (const int i : {s.first[p], s.second[p]}) rows += !needed[i], needed[i] = true;
  run_sums(s, on_vectors(s.terms) && on_vectors(s), dots_kernel(s.wide, false), dots_kernel(s.wide, true),
           rows * kNormChunk * (s.wide ? 8 : 4), device, stream);
}

void run(const Kl& s, int device, void* stream) {
  const bool aligned = on_vectors(s, s.in[0], s.in[1], s.in[2], s.in[3], s.slope[0], s.slope[1]);
  run_sums(s, aligned, kl_kernel(false), kl_kernel(true), 0, device, stream);
}

int device_count(std::string& why) {
  int n = 0;
  const cudaError_t e = cudaGetDeviceCount(&n);
  if (e == cudaSuccess) return n;
  (void)cudaGetLastError();
  why = cudaGetErrorString(e);
  return 0;
}

}  // namespace fd::cuda
