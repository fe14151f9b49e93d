#include "wait.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#else
#include <sched.h>
#endif

namespace jaxlstm {
namespace {

// Measured at B=1 beside another library whose threads spin: a thread that sleeps earlier loses its core to them, and
// steps took 1.4 to 1.7 times as long with 50 microseconds.
constexpr auto kSpinTime = std::chrono::microseconds(1000);
// What is waited for with a deadline may not have begun to run: it may be in the queue of this thread's very core.
constexpr auto kSpinTimeToDeadline = std::chrono::microseconds(100);

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

bool over(const Clock::time_point* deadline) { return deadline && Clock::now() >= *deadline; }

}  // namespace

void Signal::store(uint32_t value) {
  value_.store(value);
  wake();
}

void Signal::add(uint32_t amount) {
  value_.fetch_add(amount);
  wake();
}

void Signal::wait_longer(uint32_t old, const Clock::time_point* deadline) {
  const auto end = Clock::now() + (deadline ? kSpinTimeToDeadline : kSpinTime);
  while (Clock::now() < end && !over(deadline))
    for (int spins = 0; spins < 16; spins++) {
      if (load() != old) return;
      pause_briefly();
    }
  // In this order, and the other way round in store() and wake(): either the sleeper sees the new value or is seen.
  sleepers_.fetch_add(1);
  while (value_.load() == old && !over(deadline)) sleep_while(old, deadline);
  sleepers_.fetch_sub(1);
}

#if defined(__linux__)
static_assert(sizeof(std::atomic<uint32_t>) == 4, "a futex is 4 bytes");

void Signal::sleep_while(uint32_t old, const Clock::time_point* deadline) {
  timespec most{};
  if (deadline) {
    const long left = std::chrono::nanoseconds(*deadline - Clock::now()).count();
    if (left <= 0) return;
    most = {left / 1000000000, left % 1000000000};
  }
  syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, old, deadline ? &most : nullptr, nullptr, 0);
}
void Signal::wake() {
  if (sleepers_.load()) syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}
#else
void Signal::sleep_while(uint32_t, const Clock::time_point*) { sched_yield(); }
void Signal::wake() {}
#endif

}  // namespace jaxlstm
