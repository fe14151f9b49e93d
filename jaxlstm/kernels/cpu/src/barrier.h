// Where the threads of one call meet after each time step.
#pragma once
#include <sched.h>

#include <atomic>

namespace jaxlstm {

inline __attribute__((always_inline)) void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}

  // Returns once all threads have called it. Spins, since a step takes microseconds; yields the core after a
  // while, so that it ends even where there are more threads than cores.
  __attribute__((always_inline)) void wait() {
    if (threads_ == 1) return;
    const long round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++) {
      if (spins > 4000) {
        sched_yield();
      } else if (spins > 100) {
        pause_briefly();
      }
    }
  }

 private:
  const int threads_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<long> round_{0};
};

}  // namespace jaxlstm
