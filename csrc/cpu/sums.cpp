#include "sums.h"
#include "dispatch.h"
#include "pool.h"
#include "tree.h"

namespace fd::cpu {
namespace {

constexpr int64_t kAtOnce = 16;  // chunks of a task

template <class Job>
using Range = void (*)(const Job&, int64_t, int64_t);

template <class Job>
struct Task {
  const Job& job;
  Range<Job> range;
  int64_t chunks;
};

template <class Job>
void run_some(const void* p, int64_t i) {
  const auto& t = *static_cast<const Task<Job>*>(p);
  const Ieee ieee;
  t.range(t.job, i * kAtOnce, std::min(t.chunks, (i + 1) * kAtOnce));
}

// finish(b, sums of sample b)
template <class Job, class Finish>
void run_sums(const Job& job, const Range<Job> (&ranges)[3], int64_t each, const Finish& finish) {
  const int64_t chunks = chunks_of(job.E);
  if (job.E > 0) {
    const Task<Job> task{job, ranges[std::min(level(), 2)], job.B * chunks};
    parallel(small(job.B * job.E * each) ? 1 : threads(), (task.chunks + kAtOnce - 1) / kAtOnce, run_some<Job>,
             &task);
  }
  const Ieee ieee;
  double sums[kMaxPairs];
  for (int64_t b = 0; b < job.B; ++b) {
    for (int p = 0; p < job.n; ++p)
      sums[p] = job.E > 0 ? add(join_all<false>(job.work + (b * job.n + p) * chunks, chunks), 0.0) : 0.0;
    finish(b, sums);
  }
}

void put(const Sums& s, int64_t at, double x) {
  if (s.wide) static_cast<double*>(s.out)[at] = x;
  else static_cast<float*>(s.out)[at] = static_cast<float>(x);
}

#if FASTDIFF_X86
#define FD_RANGES(name) {base::name, avx2::name, avx512::name}
#else
#define FD_RANGES(name) {base::name, base::name, base::name}
#endif

}  // namespace

void run(const Loss& given) {
  Loss s = given;
  const int64_t row = width_of(s.pred_type) + (s.slope ? width_of(s.slope_type) : 0);
  s.past_cache = past_cache(s.B * s.E * (row + s.terms.n_in * width_of(s.pred_type)));
  run_sums<Loss>(s, FD_RANGES(loss_range), 1, [&](int64_t b, const double* sums) {
    double w = 1.0;
    if (s.w) w = s.wide ? static_cast<const double*>(s.w)[b] : static_cast<const float*>(s.w)[b];
    put(s, b, weighted(w, of_sample(s.rho, sums[0], s.c), s.count));
  });
}

void run(const Dots& s) {
  run_sums<Dots>(s, FD_RANGES(dots_range), s.n, [&](int64_t b, const double* sums) {
    for (int p = 0; p < s.n && s.out; ++p) put(s, b * s.n + p, sums[p]);
    for (int p = 0; p < s.n && s.total; ++p)
      s.total[b] = add(s.total[b], mul(s.weights[b * s.weights_step + p], sums[p]));
  });
}

void run(const Kl& s) {
  run_sums<Kl>(s, FD_RANGES(kl_range), 8, [&](int64_t b, const double* sums) {
    put(s, b, weighted(s.w ? s.w[b] : 1.0, sums[0], s.count));
  });
}

}  // namespace fd::cpu
