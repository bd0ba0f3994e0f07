// fill: random numbers of one (draw, stream) into a tensor
#pragma once
#include "kernels.h"
#include "lanes.inl"
#include "noise.inl"

namespace fd::FD_ISA {

void fill_range(const Fill& f, int64_t first, int64_t last) {
  constexpr int64_t kTile = 256;  // groups: 4 KiB of float32, far inside the first cache
  const int64_t blocks = blocks_of(f.E);
  const Column column{f.rng, blocks, f.draw, f.stream, f.family};
  if (f.out_type == Dtype::f32 && f.E % 4 == 0) {
    draw_groups(column, first, last, static_cast<float*>(f.out) + 4 * first);
    return;
  }
  alignas(64) float z[4 * kTile];
  int64_t at = element_of(first, blocks, f.E);
  for (int64_t g = first; g < last; g += kTile) {
    const int64_t end = g + kTile < last ? g + kTile : last, next = element_of(end, blocks, f.E);
    draw_groups(column, g, end, z);
    if (f.E % 4) close_gaps(z, g, end, blocks, f.E);
    narrow(f.out_type, z, f.out, at, next - at);
    at = next;
  }
}

}  // namespace fd::FD_ISA
