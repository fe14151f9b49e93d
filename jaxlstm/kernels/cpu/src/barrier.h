// A barrier for the threads of one call.
#pragma once
#include "wait.h"

namespace jaxlstm {

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}

  // Blocks until all threads have called it.
  __attribute__((always_inline)) void wait() {
    if (threads_ == 1) return;
    const uint32_t round = round_.load();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1);
    } else {
      round_.wait_between_steps(round);
    }
  }

 private:
  const int threads_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) Signal round_{0};
};

}  // namespace jaxlstm
