// What the kernels share: vectors of elements, the division by a sample's length, random numbers,
// coefficients.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include "../core/hd.h"
#include "../core/normal.h"
#include "../core/philox.h"
#include "../step.h"

namespace fd::cuda {

constexpr int kThreads = 256;

// n / d for 0 <= n < 2^63 and d > 0: the product with floor((2^64 - 1) / d) is right or one short. A 64-bit
// division would be a call that costs more than the rest of a kernel.
struct Divider {
  uint64_t magic;
  int64_t d;
  explicit Divider(int64_t divisor) : magic(~uint64_t(0) / static_cast<uint64_t>(divisor)), d(divisor) {}
  __device__ __forceinline__ int64_t divide(int64_t n) const {
    const auto q = static_cast<int64_t>(__umul64hi(magic, static_cast<uint64_t>(n)));
    return q + (n - q * d >= d);
  }
};

template <class S, int kCount>
struct alignas(sizeof(S) * kCount < 16 ? sizeof(S) * kCount : 16) Pack {
  S v[kCount];
};

__device__ __forceinline__ float up(float x) { return x; }
__device__ __forceinline__ float up(__half x) { return __half2float(x); }
__device__ __forceinline__ float up(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ double up(double x) { return x; }
__device__ __forceinline__ void down(float x, float& y) { y = x; }
__device__ __forceinline__ void down(float x, __half& y) { y = __float2half_rn(x); }
__device__ __forceinline__ void down(float x, __nv_bfloat16& y) { y = __float2bfloat16_rn(x); }
__device__ __forceinline__ void down(float x, double& y) { y = x; }
__device__ __forceinline__ void down(double x, float& y) { y = __double2float_rn(x); }
// To float32 with the last bit set where something was cut off: rounding that to a half type is rounding
// once.
__device__ __forceinline__ float to_odd(double x) {
  const float f = __double2float_rz(x);
  return static_cast<double>(f) == x ? f : from_bits(to_bits(f) | 1u);
}
__device__ __forceinline__ void down(double x, __half& y) { y = __float2half_rn(to_odd(x)); }
__device__ __forceinline__ void down(double x, __nv_bfloat16& y) { y = __float2bfloat16_rn(to_odd(x)); }
__device__ __forceinline__ void down(double x, double& y) { y = x; }

// kCount elements from `at` on, in one or two loads when kWhole, else the first `count` one by one
template <class S, int kCount, bool kWhole, class R>
__device__ __forceinline__ void read(const void* p, int64_t at, int count, R (&x)[kCount]) {
  const S* s = static_cast<const S*>(p) + at;
  if constexpr (kWhole) {
    const auto pack = *reinterpret_cast<const Pack<S, kCount>*>(s);
#pragma unroll
    for (int l = 0; l < kCount; ++l) x[l] = static_cast<R>(up(pack.v[l]));
  } else {
#pragma unroll
    for (int l = 0; l < kCount; ++l) x[l] = l < count ? static_cast<R>(up(s[l])) : R(0);
  }
}
template <class S, int kCount, bool kWhole, class R>
__device__ __forceinline__ void write(void* p, int64_t at, int count, const R (&x)[kCount]) {
  S* s = static_cast<S*>(p) + at;
  Pack<S, kCount> pack;
#pragma unroll
  for (int l = 0; l < kCount; ++l) down(x[l], pack.v[l]);
  if constexpr (kWhole) {
    *reinterpret_cast<Pack<S, kCount>*>(s) = pack;
  } else {
#pragma unroll
    for (int l = 0; l < kCount; ++l)
      if (l < count) s[l] = pack.v[l];
  }
}

template <int kCount, bool kWhole, class R>
__device__ __forceinline__ void read_any(Dtype type, const void* p, int64_t at, int count, R (&x)[kCount]) {
  switch (type) {
    case Dtype::f32:
      return read<float, kCount, kWhole>(p, at, count, x);
    case Dtype::f16:
      return read<__half, kCount, kWhole>(p, at, count, x);
    case Dtype::bf16:
      return read<__nv_bfloat16, kCount, kWhole>(p, at, count, x);
    default:
      if constexpr (sizeof(R) == sizeof(double)) read<double, kCount, kWhole>(p, at, count, x);
  }
}
template <int kCount, bool kWhole, class R>
__device__ __forceinline__ void write_any(Dtype type, void* p, int64_t at, int count, const R (&x)[kCount]) {
  switch (type) {
    case Dtype::f32:
      return write<float, kCount, kWhole>(p, at, count, x);
    case Dtype::f16:
      return write<__half, kCount, kWhole>(p, at, count, x);
    case Dtype::bf16:
      return write<__nv_bfloat16, kCount, kWhole>(p, at, count, x);
    default:
      return write<double, kCount, kWhole>(p, at, count, x);
  }
}

// The four numbers of one block
__device__ __forceinline__ void draw(const int64_t* rng, int64_t sample, int64_t draw, int32_t stream,
                                     int64_t block, Family family, float (&z)[4]) {
  const auto* row = reinterpret_cast<const long long*>(rng) + 3 * sample;
  const Source s = source(__ldg(row), __ldg(row + 1), __ldg(row + 2), draw, stream);
  uint32_t w[4] = {static_cast<uint32_t>(block), s.c1, s.c2, s.c3};
  philox<Scalar>(w, s.k0, s.k1);
  draw4<Scalar>(family, w, z);
}

template <class R>
__device__ __forceinline__ R nan();
template <>
__device__ __forceinline__ float nan<float>() {
  return __int_as_float(0x7fc00000);
}
template <>
__device__ __forceinline__ double nan<double>() {
  return __longlong_as_double(0x7ff8000000000000);
}

// The matrix of one sample and element, read where it is wanted. A number outside the table, which nothing on
// the host can have seen, gives NaN and never foreign memory.
template <class R>
struct Coefficients {
  const void* A;
  bool wide, good;
  Coefficients() = default;
  __device__ __forceinline__ Coefficients(const Step& s, const Divider& run, int64_t sample, int64_t element)
      : wide(s.A_wide) {
    int64_t number = s.sample_matrices ? sample : 0;
    if (s.index) number = __ldg(s.index + sample * s.index_step + run.divide(element));
    good = number >= 0 && number < s.groups;
    const int64_t from = number * s.n_out * (s.n_in + s.n_noise);
    A = wide ? static_cast<const void*>(static_cast<const double*>(s.A) + from)
             : static_cast<const float*>(s.A) + from;
  }
  __device__ __forceinline__ R operator[](int k) const {
    if (!good) return nan<R>();
    if constexpr (sizeof(R) == sizeof(double))
      if (wide) return __ldg(static_cast<const double*>(A) + k);
    return static_cast<R>(__ldg(static_cast<const float*>(A) + k));
  }
};

inline int blocks_for(int64_t threads, int device) {
  constexpr int64_t kPerSm = 16;
  int sms = 0;
  if (cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device) != cudaSuccess || sms < 1)
    sms = 128;
  const int64_t wanted = (threads + kThreads - 1) / kThreads, most = kPerSm * sms;
  return static_cast<int>(wanted < most ? wanted : most);
}

// Static cudart has its own idea of the current device: the tensors' one for a launch, and back.
class OnDevice {
 public:
  explicit OnDevice(int device) : error(cudaGetDevice(&before_)), device_(device) {
    if (error == cudaSuccess && before_ != device_) error = cudaSetDevice(device_);
  }
  ~OnDevice() {
    if (error == cudaSuccess && before_ != device_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  cudaError_t error;

 private:
  int before_ = 0, device_;
};

inline bool aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

}  // namespace fd::cuda
