// Waiting for another thread: a short spin, because most waits take microseconds, and then sleep.
//
// A thread that spins without limit may take the core from the very thread that it waits for, once this process or
// others run more threads than there are cores.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#if defined(__linux__)
#include <sched.h>
#endif

namespace jaxlstm {

typedef std::chrono::steady_clock Clock;

// Returns true for some time after several long waits between steps, one soon after the other: other processes use the
// cores.
bool cores_stay_crowded();

// Returns the number of the core that this thread runs on, or -1 if the system does not tell.
int current_core();

// Keeps this thread off a core for its lifetime: if the thread is on it and may move, the system moves it at once.
class OffCore {
 public:
  OffCore(int core, bool may_move);
  ~OffCore();
  OffCore(const OffCore&) = delete;

  bool shares_core = false;
#if defined(__linux__)

 private:
  cpu_set_t before_;
  bool moved_ = false;
#endif
};

// Lets a thread run on all cores of this thread but its current one. Returns false if it has one core only.
bool keep_off_this_core(std::thread::native_handle_type thread);

// A number that threads can wait on. The functions in wait.cc are compiled once, for the baseline processor.
class Signal {
 public:
  explicit Signal(uint32_t value) : value_(value) {}

  __attribute__((always_inline)) uint32_t load() const { return value_.load(std::memory_order_acquire); }
  void store(uint32_t value);
  void add(uint32_t amount);

  // Blocks until the value differs from `old`.
  __attribute__((always_inline)) void wait_while(uint32_t old) {
    if (!changes_soon(old)) wait_longer(old);
  }
  // As wait_while, for threads that wait for each other at every step.
  __attribute__((always_inline)) void wait_between_steps(uint32_t old) {
    if (!changes_soon(old)) wait_longer_between_steps(old);
  }
  // Blocks until the value differs from `old` or the deadline has passed. It does not sleep.
  void wait_while(uint32_t old, Clock::time_point deadline) const;
  // Returns false after spinning for `limit` while the value stays `old`.
  bool changes_within(std::chrono::nanoseconds limit, uint32_t old) const;
  // Sleeps, without spinning, until the value differs from `old`.
  void sleep_while(uint32_t old);
  // Replaces `old` by `value`. Returns false if the value was not `old`.
  bool replace(uint32_t old, uint32_t value);

 private:
  __attribute__((always_inline)) bool changes_soon(uint32_t old) const {
    for (int spins = 0; spins < 100; spins++)
      if (load() != old) return true;
    return false;
  }
  void wait_longer(uint32_t old);
  void wait_longer_between_steps(uint32_t old);
  void sleep_once(uint32_t old);
  void wake();

  std::atomic<uint32_t> value_;
  std::atomic<int> sleepers_{0};
};

// A barrier for the threads of one call.
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
