// Threads that sleep until there is work. The chunks of a job are taken from one counter, so a caller whose
// helpers do not get a core finishes alone: on a busy machine a statically divided, spinning OpenMP region
// was seen to stall for 4 to 16 ms.
#pragma once
#include <cstdint>

namespace fd::cpu {

using Chunk = void (*)(const void* job, int64_t chunk);
// chunk(job, 0 .. chunks - 1), each once, in any order, on at most `threads` threads; returns when all are
// done
void parallel(int threads, int64_t chunks, Chunk chunk, const void* job);

}  // namespace fd::cpu
