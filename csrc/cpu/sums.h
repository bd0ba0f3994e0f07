// The loops of dots, regression_loss and gaussian_kl over a range of chunks of samples, compiled once per
// instruction set.
#pragma once
#include "../sums.h"

namespace fd {

#define FD_DECLARE(isa)                                       \
  namespace isa {                                             \
  void loss_range(const Loss& s, int64_t first, int64_t last); \
  void dots_range(const Dots& s, int64_t first, int64_t last); \
  void kl_range(const Kl& s, int64_t first, int64_t last);     \
  }
FD_DECLARE(base)
FD_DECLARE(avx2)
FD_DECLARE(avx512)
#undef FD_DECLARE

}  // namespace fd
