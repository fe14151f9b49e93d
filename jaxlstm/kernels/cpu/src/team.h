// A team of threads for one call, taken from a pool that other calls share.
//
// A call must not rely on the pool: all its threads may be busy, or waiting for this very call. So the caller schedules
// invitations, waits briefly, and starts with the helpers that have arrived. A helper that arrives later is turned
// away. No thread ever waits for a thread that may not run.
#pragma once
#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "wait.h"

namespace jaxlstm {

// A sleeping thread takes 50 microseconds to arrive, and occasionally milliseconds on a virtual machine. The caller
// waits for kWaitShare of the time that it would need without helpers, within these limits. With a share of 0.05, one
// call in twenty started without its helper on a virtual machine.
constexpr double kShortestWait = 50e-6, kLongestWait = 2e-3, kWaitShare = 0.2;

inline std::chrono::nanoseconds wait_for_helpers(double seconds) {
  return std::chrono::nanoseconds(long(1e9 * std::min(kLongestWait, std::max(kShortestWait, kWaitShare * seconds))));
}

// A call below this time on one thread takes no helpers while the cores are crowded.
constexpr double kShortCall = 20e-3;

// A helper that wakes up on the core of its caller keeps the caller from running, with its spins too. It takes one or
// two milliseconds until the system moves one of them, so a call below this time goes on without the helper.
constexpr double kTooShortToMove = 2e-3;

// Calls work(thread, threads, barrier) on at most `max_threads` threads, including this one, and returns when all have
// finished. `seconds` is the estimated time of the work on one thread. `schedule` takes a copyable function without
// arguments and runs it at any later time, on any thread.
template <class Schedule, class Work>
void run_as_team(int max_threads, double seconds, Schedule&& schedule, const Work& work) {
  constexpr uint32_t kOpen = 0, kClosed = 1u << 31;
  struct Team {
    std::atomic<uint32_t> admitted{kOpen};  // number of helpers; the bit kClosed ends admission
    Signal answered{0}, started{0}, finished{0};
    int declines_on_core = -1;  // helpers decline on this core while the caller is awake; none for -1
    int size = 0;  // `size`, `work` and `barrier` are set before `started`, and outlive every member
    const Work* work = nullptr;
    Barrier* barrier = nullptr;
    std::thread::id caller = std::this_thread::get_id();
  };
  if (max_threads <= 1 || (seconds < kShortCall && cores_are_crowded())) {
    Barrier barrier(1);
    work(0, 1, barrier);
    return;
  }
  auto team = std::make_shared<Team>();
  if (seconds < kTooShortToMove) team->declines_on_core = current_core();
  for (int i = 1; i < max_threads; i++) {
    schedule([team] {
      // A pool without threads runs the function immediately.
      if (std::this_thread::get_id() == team->caller) return;
      if (team->declines_on_core >= 0 && current_core() == team->declines_on_core && !team->answered.has_sleepers()) {
        team->answered.add(1);
        return;
      }
      uint32_t before = team->admitted.load();
      do {
        if (before & kClosed) return;
      } while (!team->admitted.compare_exchange_weak(before, before + 1));
      team->answered.add(1);
      team->started.wait_while(0);
      (*team->work)(int(before) + 1, team->size, *team->barrier);
      team->finished.add(1);
    });
  }
  const auto deadline = Clock::now() + wait_for_helpers(seconds);
  for (uint32_t answered; (answered = team->answered.load()) < uint32_t(max_threads) - 1 && Clock::now() < deadline;)
    team->answered.wait_while(answered, deadline);
  const uint32_t helpers = team->admitted.fetch_or(kClosed);
  Barrier barrier(int(helpers) + 1);
  team->size = int(helpers) + 1, team->work = &work, team->barrier = &barrier;
  team->started.store(1);
  work(0, team->size, barrier);
  for (uint32_t finished; (finished = team->finished.load()) < helpers;) team->finished.wait_while(finished);
}

}  // namespace jaxlstm
