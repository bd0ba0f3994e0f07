#include "warm.h"
#include <atomic>
#include <mutex>
#include <new>
#include <vector>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sys/mman.h>
#define FD_MAPS 1
#endif

namespace fd::cpu {
namespace {

constexpr size_t kIdleBytes = size_t{256} << 20, kIdleBlocks = 64;
constexpr size_t kMappedFrom = 128 << 10;  // below, malloc keeps what it is given back
constexpr size_t kPage = 4096, kHugePage = 2 << 20, kHugeFrom = 4 << 20;

size_t up_to(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

#ifdef FD_MAPS
char* map(size_t size) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(p);
}
void unmap(char* p, size_t size) noexcept {
  if (size) munmap(p, size);
}

Block fresh(size_t bytes) {
  // Blocks that all start at the same place of a page keep the same sets of a cache and banks of memory busy.
  static std::atomic<unsigned> made{0};
  const size_t before = made++ % 16 * (kPage + 256), unit = bytes < kHugeFrom ? kPage : kHugePage;
  const size_t size = up_to(bytes + before, unit), spare = unit == kPage ? 0 : unit;
  char* p = map(size + spare);
  if (spare) {  // to where a huge page starts
    const size_t skip = up_to(reinterpret_cast<uintptr_t>(p), unit) - reinterpret_cast<uintptr_t>(p);
    unmap(p, skip), unmap(p + skip + size, spare - skip);
    p += skip;
#ifdef MADV_HUGEPAGE
    madvise(p, size, MADV_HUGEPAGE);
#endif
  }
  return {p + before, size - before, before};
}
void drop(Block b) noexcept { unmap(b.at - b.before, b.size + b.before); }
#else
Block fresh(size_t bytes) {
  const size_t size = up_to(bytes, kPage);
  return {static_cast<char*>(::operator new(size, std::align_val_t{64})), size, 0};
}
void drop(Block b) noexcept { ::operator delete(b.at, std::align_val_t{64}); }
#endif

struct Store;
Store& store();

struct Store {
  std::mutex mutex;
  std::vector<Block> idle;  // the oldest first
  size_t bytes = 0;

  Store() {
    idle.reserve(kIdleBlocks + 1);  // so that giving back never allocates
#ifdef FD_MAPS
    // a thread may hold the lock when another forks
    pthread_atfork([] { store().mutex.lock(); }, [] { store().mutex.unlock(); }, [] { store().mutex.unlock(); });
#endif
  }
};

std::atomic<size_t> asked{0};

Store& store() {
  static Store* const s = new Store;  // outlives every tensor
  return *s;
}

}  // namespace

Block take(size_t bytes) {
  asked.fetch_add(bytes, std::memory_order_relaxed);
  if (bytes < kMappedFrom) return {static_cast<char*>(::operator new(bytes, std::align_val_t{64})), bytes, kHeap};
  Store& s = store();
  {
    const std::lock_guard<std::mutex> lock(s.mutex);
    auto best = s.idle.end();
    for (auto i = s.idle.begin(); i != s.idle.end(); ++i)  // of equal ones the newest: it is in the caches
      if (i->size >= bytes && i->size <= bytes + bytes / 8 + kHugePage * (bytes >= kHugeFrom) + kPage &&
          (best == s.idle.end() || i->size <= best->size))
        best = i;
    if (best != s.idle.end()) {
      const Block b = *best;
      s.idle.erase(best), s.bytes -= b.size;
      return b;
    }
  }
  return fresh(bytes);
}

void give(Block block) noexcept {
  if (block.before == kHeap) return ::operator delete(block.at, std::align_val_t{64});
  Store& s = store();
  if (block.size > kIdleBytes) return drop(block);
  for (;;) {
    Block oldest;
    {
      const std::lock_guard<std::mutex> lock(s.mutex);
      if (block.size) s.idle.push_back(block), s.bytes += block.size, block = {};
      if (s.bytes <= kIdleBytes && s.idle.size() <= kIdleBlocks) return;
      oldest = s.idle.front();
      s.idle.erase(s.idle.begin()), s.bytes -= oldest.size;
    }
    drop(oldest);
  }
}

size_t taken() noexcept { return asked.load(std::memory_order_relaxed); }

size_t release() noexcept {
  Store& s = store();
  size_t freed = 0;
  for (;;) {
    Block b;
    {
      const std::lock_guard<std::mutex> lock(s.mutex);
      if (s.idle.empty()) return freed;
      b = s.idle.back();
      s.idle.pop_back(), s.bytes -= b.size;
    }
    freed += b.size;
    drop(b);
  }
}

}  // namespace fd::cpu
