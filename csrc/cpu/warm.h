// Memory for results whose pages are there already. A fresh page costs more than what a step writes into it
// (256 faults for a MiB, and zeros that nobody reads), and malloc hands large blocks back to the system each
// time. Blocks of dropped tensors wait here for the next one of their size, up to a bound.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fd::cpu {

struct Block {
  char* at = nullptr;
  size_t size = 0;     // from here on
  size_t before = 0;   // of the mapping; kHeap: of the heap, where small ones come from
};
constexpr size_t kHeap = ~size_t{0};

Block take(size_t bytes);  // 64-byte aligned, contents undefined; throws std::bad_alloc
void give(Block block) noexcept;
size_t taken() noexcept;    // bytes that were asked for, in all
size_t release() noexcept;  // all idle blocks to the system: their bytes

}  // namespace fd::cpu
