// Waiting for another thread: a millisecond of spinning at most, since it mostly takes microseconds, and then sleep,
// since it may not be running at all.
//
// A thread that spins on keeps a core from the very thread that it waits for, as soon as there are more threads
// than cores, of this process or of others.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

namespace jaxlstm {

typedef std::chrono::steady_clock Clock;

// A number that threads can wait on. What is not inline is compiled once, for any processor.
class Signal {
 public:
  explicit Signal(uint32_t value) : value_(value) {}

  __attribute__((always_inline)) uint32_t load() const { return value_.load(std::memory_order_acquire); }
  void store(uint32_t value);
  void add(uint32_t amount);

  // Returns once the value is another than `old`.
  __attribute__((always_inline)) void wait_while(uint32_t old) {
    for (int spins = 0; spins < 100; spins++)
      if (load() != old) return;
    wait_longer(old, nullptr);
  }
  // The same, or at the deadline.
  void wait_while(uint32_t old, Clock::time_point deadline) { wait_longer(old, &deadline); }

 private:
  void wait_longer(uint32_t old, const Clock::time_point* deadline);
  void sleep_while(uint32_t old, const Clock::time_point* deadline);
  void wake();

  std::atomic<uint32_t> value_;
  std::atomic<int> sleepers_{0};
};

}  // namespace jaxlstm
