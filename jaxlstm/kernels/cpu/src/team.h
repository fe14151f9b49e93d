// A team of threads for one call, from a pool that other calls use too.
//
// A call cannot count on a pool's threads: they may all be busy, or waiting for this very call. So the caller
// invites helpers, waits for a moment, and starts with those that came; one that comes later finds the door
// closed and goes. No thread waits for one that may never run.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "barrier.h"

namespace jaxlstm {

// A thread that sleeps takes 50 microseconds to come, and now and then some milliseconds. For long work it is worth
// waiting for: this share of the time that the caller would need alone.
constexpr double kShortestWait = 50e-6, kLongestWait = 10e-3, kShareOfWork = 0.05;

// Work is called as work(thread, threads, barrier), on each of at most `wanted` threads, and is done when this
// returns; alone it would take about `seconds`. Schedule is called with a copyable function that takes no argument, to be run some time, anywhere.
template <class Schedule, class Work>
void run_as_team(int wanted, double seconds, Schedule&& schedule, const Work& work) {
  struct Team {
    std::atomic<int> members{1};  // closed once negative
    std::atomic<int> size{0};     // set when it is closed
    std::atomic<int> left{0};
    const Work* work;             // outlives every member
    std::atomic<Barrier*> barrier{nullptr};
    std::thread::id caller = std::this_thread::get_id();
  };
  if (wanted <= 1) {
    Barrier barrier(1);
    work(0, 1, barrier);
    return;
  }
  auto team = std::make_shared<Team>();
  team->work = &work;
  for (int i = 1; i < wanted; i++) {
    schedule([team] {
      if (std::this_thread::get_id() == team->caller) return;  // a pool without threads runs it at once
      int thread = team->members.load();
      do {
        if (thread < 0) return;
      } while (!team->members.compare_exchange_weak(thread, thread + 1));
      Barrier* barrier;
      while (!(barrier = team->barrier.load(std::memory_order_acquire))) pause_briefly();
      (*team->work)(thread, team->size.load(), *barrier);
      team->left.fetch_add(1, std::memory_order_release);
    });
  }
  const double wait = std::min(kLongestWait, std::max(kShortestWait, kShareOfWork * seconds));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::nanoseconds(long(wait * 1e9));
  while (team->members.load() < wanted && std::chrono::steady_clock::now() < deadline) pause_briefly();
  const int size = team->members.exchange(-1);
  team->size.store(size);
  Barrier barrier(size);
  team->barrier.store(&barrier, std::memory_order_release);
  work(0, size, barrier);
  for (int spins = 0; team->left.load(std::memory_order_acquire) < size - 1; spins++) {
    if (spins > 4000) sched_yield();
    pause_briefly();
  }
}

}  // namespace jaxlstm
