// A team of threads for one call, from a pool that other calls use too.
//
// A call cannot count on a pool's threads: they may all be busy, or waiting for this very call. So the caller
// invites helpers, waits for a moment, and starts with those that came; one that comes later finds the door
// closed and goes. No thread waits for one that may never run.
#pragma once
#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "barrier.h"

namespace jaxlstm {

// A thread that sleeps takes 50 microseconds to come, and now and then, on a virtual machine, some milliseconds. For
// long work it is worth waiting for: this share of the time that the caller would need alone. With a share of 0.05 one
// call in twenty began without its helper there.
constexpr double kShortestWait = 50e-6, kLongestWait = 2e-3, kShareOfWork = 0.2;

// Work is called as work(thread, threads, barrier), on each of at most `wanted` threads, and is done when this
// returns; alone it would take about `seconds`. Schedule is called with a copyable function that takes no argument, to
// be run some time, anywhere.
template <class Schedule, class Work>
void run_as_team(int wanted, double seconds, Schedule&& schedule, const Work& work) {
  constexpr uint32_t kOpen = 0, kClosed = 1u << 31;
  struct Team {
    std::atomic<uint32_t> door{kOpen};  // how many helpers came; with kClosed none can any more
    Signal came{0}, started{0}, left{0};
    int size = 0;                       // these three are set before `started`, and outlive every member
    const Work* work = nullptr;
    Barrier* barrier = nullptr;
    std::thread::id caller = std::this_thread::get_id();
  };
  if (wanted <= 1) {
    Barrier barrier(1);
    work(0, 1, barrier);
    return;
  }
  auto team = std::make_shared<Team>();
  for (int i = 1; i < wanted; i++) {
    schedule([team] {
      if (std::this_thread::get_id() == team->caller) return;  // a pool without threads runs it at once
      uint32_t before = team->door.load();
      do {
        if (before & kClosed) return;
      } while (!team->door.compare_exchange_weak(before, before + 1));
      team->came.add(1);
      team->started.wait_while(0);
      (*team->work)(int(before) + 1, team->size, *team->barrier);
      team->left.add(1);
    });
  }
  const double wait = std::min(kLongestWait, std::max(kShortestWait, kShareOfWork * seconds));
  const auto deadline = Clock::now() + std::chrono::nanoseconds(long(wait * 1e9));
  for (uint32_t came; (came = team->came.load()) < uint32_t(wanted) - 1 && Clock::now() < deadline;)
    team->came.wait_while(came, deadline);
  const uint32_t helpers = team->door.fetch_or(kClosed);
  Barrier barrier(int(helpers) + 1);
  team->size = int(helpers) + 1, team->work = &work, team->barrier = &barrier;
  team->started.store(1);
  work(0, team->size, barrier);
  for (uint32_t left; (left = team->left.load()) < helpers;) team->left.wait_while(left);
}

}  // namespace jaxlstm
