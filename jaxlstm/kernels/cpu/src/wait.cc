#include "wait.h"

#include <algorithm>

#if defined(__linux__)
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#else
#include <sched.h>
#endif

namespace jaxlstm {
namespace {

// A thread that sleeps early loses its core to the spinning threads of other libraries. Next to such a library, with a
// batch of 1, steps took 1.4 to 1.7 times as long with a limit of 50 microseconds.
constexpr auto kSpinTime = std::chrono::microseconds(1000);
// A wait with a deadline is for a thread that may not have started. It may even be queued for the core of the waiting
// thread, so a spin is brief and then gives way to it. A sleep would end a millisecond late where the system's timers
// are coarse.
constexpr auto kSpinTimeToDeadline = std::chrono::microseconds(20);
// If another process occupies a core, two threads of a call may share the other core. There a spinning thread keeps the
// awaited one from running, step after step. A spin in vain suggests that, so for some time all waits between steps are
// brief. This time doubles if the next spin in vain follows soon: the threads of other libraries spin for milliseconds,
// but another process may compute for minutes.
constexpr auto kSpinTimeIfCrowded = std::chrono::microseconds(5);
constexpr long kShortestCrowd = 2000000, kLongCrowd = 16000000, kLongestCrowd = 64000000;  // nanoseconds
std::atomic<Clock::time_point> crowded_until{Clock::time_point::min()};
std::atomic<long> crowded_nanoseconds{kShortestCrowd};

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

bool cores_are_crowded() { return Clock::now() < crowded_until.load(std::memory_order_relaxed); }

void expect_crowd() {
  const auto now = Clock::now();
  const long last = crowded_nanoseconds.load(std::memory_order_relaxed);
  const bool soon = now < crowded_until.load(std::memory_order_relaxed) + std::chrono::nanoseconds(last);
  const long next = soon ? std::min(2 * last, kLongestCrowd) : kShortestCrowd;
  crowded_nanoseconds.store(next, std::memory_order_relaxed);
  crowded_until.store(now + std::chrono::nanoseconds(next), std::memory_order_relaxed);
}

}  // namespace

void Signal::store(uint32_t value) { value_.store(value), wake(); }
void Signal::add(uint32_t amount) { value_.fetch_add(amount), wake(); }

bool Signal::replace(uint32_t old, uint32_t value) {
  if (!value_.compare_exchange_strong(old, value)) return false;
  wake();
  return true;
}

bool Signal::changes_within(std::chrono::nanoseconds limit, uint32_t old) const {
  const auto end = Clock::now() + limit;
  do
    for (int spins = 0; spins < 16; spins++) {
      if (load() != old) return true;
      pause_briefly();
    }
  while (Clock::now() < end);
  return false;
}

void Signal::wait_longer(uint32_t old) {
  if (!changes_within(kSpinTime, old)) sleep_while(old);
}

void Signal::wait_while(uint32_t old, Clock::time_point deadline) const {
  const std::chrono::nanoseconds left = deadline - Clock::now();
  if (changes_within(std::min<std::chrono::nanoseconds>(kSpinTimeToDeadline, left), old)) return;
  while (load() == old && Clock::now() < deadline) sched_yield();
}

void Signal::wait_longer_between_steps(uint32_t old) {
  const bool crowded = cores_are_crowded();
  if (changes_within(crowded ? kSpinTimeIfCrowded : kSpinTime, old)) return;
  if (!crowded) expect_crowd();
  sleep_while(old);
}

bool cores_stay_crowded() {
  return crowded_nanoseconds.load(std::memory_order_relaxed) >= kLongCrowd && cores_are_crowded();
}

void Signal::sleep_while(uint32_t old) {
  // The sleeper registers first and reads the value second; store() and add() write the value first and look for
  // sleepers second. So either the sleeper sees the new value, or wake() sees the sleeper.
  sleepers_.fetch_add(1);
  while (value_.load() == old) sleep_once(old);
  sleepers_.fetch_sub(1);
}

#if defined(__linux__)
int current_core() { return sched_getcpu(); }

OffCore::OffCore(int core, bool may_move) : shares_core(sched_getcpu() == core) {
  if (!shares_core || !may_move || sched_getaffinity(0, sizeof before_, &before_) != 0) return;
  cpu_set_t others = before_;
  CPU_CLR(core, &others);
  moved_ = CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0;
  shares_core = !moved_;
}
OffCore::~OffCore() {
  if (moved_) sched_setaffinity(0, sizeof before_, &before_);
}

bool keep_off_this_core(std::thread::native_handle_type thread) {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) != 0) return true;  // more cores than a set holds
  CPU_CLR(sched_getcpu(), &cores);
  return CPU_COUNT(&cores) > 0 && pthread_setaffinity_np(thread, sizeof cores, &cores) == 0;
}

static_assert(sizeof(std::atomic<uint32_t>) == 4, "a futex is 4 bytes");

void Signal::sleep_once(uint32_t old) {
  syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
}
void Signal::wake() {
  if (sleepers_.load()) syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}
#else
int current_core() { return -1; }
OffCore::OffCore(int, bool) {}
OffCore::~OffCore() {}
bool keep_off_this_core(std::thread::native_handle_type) { return true; }
void Signal::sleep_once(uint32_t) { sched_yield(); }
void Signal::wake() {}
#endif

}  // namespace jaxlstm
