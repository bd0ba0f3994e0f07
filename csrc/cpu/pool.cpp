#include "pool.h"
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace fd::cpu {
namespace {

struct Pool {
  std::mutex mutex;
  std::condition_variable work, rest;
  const pid_t owner = getpid();
  int workers = 0, wanted = 0, busy = 0;  // all under the mutex, as is `open`
  bool open = false;                      // a job is there to be joined
  Chunk chunk = nullptr;
  const void* job = nullptr;
  int64_t chunks = 0;
  std::atomic<int64_t> next{0};

  void take() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) chunk(job, i);
  }

  void live() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      work.wait(lock, [&] { return open && wanted > 0; });
      --wanted, ++busy;
      lock.unlock();
      take();
      lock.lock();
      if (--busy == 0) rest.notify_one();
    }
  }

  void grow(int size) {  // under the mutex
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals belong to the threads Python knows
    try {
      for (; workers < size; ++workers) std::thread([this] { live(); }).detach();
    } catch (const std::system_error&) {  // no more threads to be had: those there are will do
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void run(int threads, int64_t count, Chunk f, const void* what) {
    {
      std::unique_lock<std::mutex> lock(mutex);
      if (open || busy) {  // another Python thread has the helpers
        lock.unlock();
        for (int64_t i = 0; i < count; ++i) f(what, i);
        return;
      }
      if (workers < threads - 1) grow(threads - 1);
      chunk = f, job = what, chunks = count, wanted = threads - 1, open = true;
      next.store(0, std::memory_order_relaxed);
    }
    if (threads > 2) work.notify_all();
    else work.notify_one();
    take();
    std::unique_lock<std::mutex> lock(mutex);
    open = false;  // who has not come by now need not come
    rest.wait(lock, [&] { return busy == 0; });
  }
};

// Never destroyed: its threads sleep on it when the process ends. A forked child has none of the threads and
// starts afresh.
Pool& pool() {
  static std::atomic<Pool*> current{nullptr};
  Pool* p = current.load(std::memory_order_acquire);
  if (p && p->owner == getpid()) return *p;
  Pool* fresh = new Pool;
  if (current.compare_exchange_strong(p, fresh)) return *fresh;
  delete fresh;
  return *p;
}

}  // namespace

void parallel(int threads, int64_t chunks, Chunk chunk, const void* job) {
  if (threads > chunks) threads = static_cast<int>(chunks);
  if (threads < 2) {
    for (int64_t i = 0; i < chunks; ++i) chunk(job, i);
    return;
  }
  pool().run(threads, chunks, chunk, job);
}

}  // namespace fd::cpu
