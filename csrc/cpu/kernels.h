// The loops over a range of work, compiled once per instruction set (base.cpp, avx2.cpp, ...).
//
// Work is counted in groups: the ceil(E / 4) quadruples of consecutive elements of each sample, in order; a
// group is one Philox block per noise column. A range of groups is a range of elements without gaps, so
// ranges can be handed out in any order. A norm counts its work in chunks of kNormChunk elements of a sample.
#pragma once
#include "../step.h"

namespace fd {

namespace cpu {
struct Ladder;
}
struct PathJob {
  const Brownian& p;
  const cpu::Ladder* ladder;  // null where each sample has its own
};

#define FD_DECLARE(isa)                                        \
  namespace isa {                                              \
  void step_range(const Step& s, int64_t first, int64_t last); \
  void fill_range(const Fill& f, int64_t first, int64_t last); \
  void brownian_range(const PathJob& p, int64_t first, int64_t last); \
  void norm_range(const Norm& n, int64_t first, int64_t last); \
  }
FD_DECLARE(base)
FD_DECLARE(avx2)
FD_DECLARE(avx512)
FD_DECLARE(avx512_bf16)
#undef FD_DECLARE

}  // namespace fd
