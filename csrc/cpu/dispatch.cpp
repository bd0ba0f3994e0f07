#include "dispatch.h"
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <thread>
#ifdef _OPENMP
#include <omp.h>
#endif
#include "kernels.h"
#include "ladder.h"
#include "pool.h"
#include "tree.h"

namespace fd::cpu {
namespace {

struct Set {
  const char* name;
  void (*step)(const Step&, int64_t, int64_t);
  void (*fill)(const Fill&, int64_t, int64_t);
  void (*brownian)(const PathJob&, int64_t, int64_t);
  void (*norm)(const Norm&, int64_t, int64_t);
};

std::vector<Set> usable() {  // best last
  std::vector<Set> sets{{"base", base::step_range, base::fill_range, base::brownian_range, base::norm_range}};
#if FASTDIFF_X86
  __builtin_cpu_init();
  const auto all = [](auto... has) { return (has && ...); };
#define FD_HAS(f) (__builtin_cpu_supports(f) != 0)
  if (!all(FD_HAS("avx2"), FD_HAS("fma"), FD_HAS("bmi"), FD_HAS("bmi2"), FD_HAS("f16c"))) return sets;
  sets.push_back({"avx2", avx2::step_range, avx2::fill_range, avx2::brownian_range, avx2::norm_range});
  if (!all(FD_HAS("avx512f"), FD_HAS("avx512bw"), FD_HAS("avx512cd"), FD_HAS("avx512dq"), FD_HAS("avx512vl")))
    return sets;
  sets.push_back({"avx512", avx512::step_range, avx512::fill_range, avx512::brownian_range, avx512::norm_range});
  if (!FD_HAS("avx512bf16")) return sets;
  sets.push_back({"avx512-bf16", avx512_bf16::step_range, avx512::fill_range, avx512::brownian_range, avx512::norm_range});
#undef FD_HAS
#endif
  return sets;
}

const std::vector<Set>& sets() {
  static const std::vector<Set> s = usable();
  return s;
}

const Set& find(const std::string& name) {
  std::string known;
  for (const Set& s : sets()) {
    if (s.name == name) return s;
    known += std::string(known.empty() ? "" : ", ") + s.name;
  }
  throw std::invalid_argument("set_isa: '" + name + "' is not to be had on this processor; there are " +
                              known);
}

std::atomic<const Set*>& current() {
  static std::atomic<const Set*> c{[] {
    const char* name = std::getenv("FASTDIFF_ISA");
    return name && *name ? &find(name) : &sets().back();
  }()};
  return c;
}

constexpr int64_t kChunk = 4096;       // groups: fixed, though no result depends on it
constexpr int64_t kPathChunk = 512;    // of a path, where each costs as much as ten of the others
constexpr int64_t kAlone = 64 * 1024;  // elements below which one thread is the quicker

template <class Job>
struct Task {
  const Job* job;
  void (*range)(const Job&, int64_t, int64_t);
  int64_t groups, chunk;
};

template <class Job>
void run_chunk(const void* p, int64_t i) {
  const auto& t = *static_cast<const Task<Job>*>(p);
  const Ieee ieee;
  t.range(*t.job, i * t.chunk, std::min(t.groups, (i + 1) * t.chunk));
}

template <class Job>
void run_all(const Job& job, int64_t B, int64_t E, void (*range)(const Job&, int64_t, int64_t),
             int64_t chunk = kChunk, int64_t each = 1) {
  const int64_t groups = B * blocks_of(E);
  if (groups == 0) return;
  int n = 1;
  if (!small(B * E * each)) n = threads();
  if (n == 1) {
    const Ieee ieee;
    return range(job, 0, groups);
  }
  const Task<Job> task{&job, range, groups, chunk};
  parallel(n, (groups + chunk - 1) / chunk, run_chunk<Job>, &task);
}

constexpr int64_t kNormTask = 16;  // chunks of a norm

void run_norm(const void* p, int64_t i) {
  const auto& t = *static_cast<const Task<Norm>*>(p);
  const Ieee ieee;
  t.range(*t.job, i * kNormTask, std::min(t.groups, (i + 1) * kNormTask));
}

template <bool kLargest>
void finish(const Norm& n) {
  const Ieee ieee;
  const int64_t chunks = chunks_of(n.E);
  for (int64_t b = 0; b < n.B; ++b) n.out[b] = norm_of<kLargest>(join_all<kLargest>(n.work + b * chunks, chunks), n.E);
}

}  // namespace

const char* isa() { return current().load(std::memory_order_relaxed)->name; }

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Set& s : sets()) names.emplace_back(s.name);
  return names;
}

int level() { return static_cast<int>(current().load(std::memory_order_relaxed) - sets().data()); }

void set_isa(const std::string& name) { current().store(&find(name)); }

int threads() {
#ifdef _OPENMP
  return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#endif
}

bool small(int64_t elements) { return elements < kAlone; }
int64_t path_work(int64_t K) { return 8 * K; }

bool past_cache(int64_t bytes) {
  static const int64_t cache = [] {
    int64_t size = 0;
    // what a core sees; sysconf adds up the caches of a socket on some processors (320 MiB for 32)
    std::ifstream("/sys/devices/system/cpu/cpu0/cache/index3/size") >> size;  // "32768K"
    if (size > 0) return size << 10;
#ifdef _SC_LEVEL3_CACHE_SIZE
    size = std::max<int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE));
#endif
    return size > 0 ? size : int64_t(32) << 20;
  }();
  return bytes > cache;
}

void run(const Step& s) { run_all(s, s.B, s.E, current().load(std::memory_order_relaxed)->step); }
void run(const Fill& f) { run_all(f, f.B, f.E, current().load(std::memory_order_relaxed)->fill); }

void run(const Brownian& given) {
  Brownian p = given;
  if (p.B * p.E == 0) return;
  // Many increments are read one by one, long after: 1.79 -> 1.65 ms each for 20 of a MiB
  const int64_t bytes = p.K * p.B * p.E * width_of(p.out_type) * (p.out[1] ? 2 : 1);
  p.past_cache = past_cache(p.K > 1 ? 4 * bytes : bytes);
  Ladder ladder;
  if (!p.own) {
    ladder.build(p.at, p.K, p.depth);
    if (p.coefs && p.rows != ladder.halvings + 1)
      throw std::invalid_argument("brownian: coefs has " + std::to_string(p.rows) +
                                  " rows; these boundaries need " + std::to_string(ladder.halvings + 1) +
                                  ", the root's and one for each halving");
  }
  run_all(PathJob{p, &ladder}, p.B, p.E, current().load(std::memory_order_relaxed)->brownian, kPathChunk,
          path_work(p.K));
}

void run(const Norm& n) {
  const Task<Norm> task{&n, current().load(std::memory_order_relaxed)->norm, n.B * chunks_of(n.E)};
  parallel(small(n.B * n.E) ? 1 : threads(), (task.groups + kNormTask - 1) / kNormTask, run_norm, &task);
  n.largest ? finish<true>(n) : finish<false>(n);
}

}  // namespace fd::cpu
