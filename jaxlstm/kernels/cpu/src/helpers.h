// Helper threads for calls that follow each other closely, such as the steps of a stream or the batches of a Runner.
//
// XLA's pool puts a thread to sleep after each call, and waking it takes longer than a step. A helper instead spins for
// a bounded time after a call. If the next call arrives meanwhile, the helper joins it within a fraction of a
// microsecond; otherwise the helper sleeps.
//
// The helpers belong to the process, not to a stream: they serve one call at a time, and calls of other threads run
// without helpers. So there are never more helpers than cores, and a stream leaves nothing behind. A call only takes
// helpers that are already spinning, so it never waits for a thread that may not run.
#pragma once
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "cost.h"
#include "team.h"
#include "wait.h"

namespace jaxlstm {

class Helpers {
 public:
  // The helpers of this process. They are never destroyed, because one may spin while the process exits.
  static Helpers& of_process() {
    static const bool renewed_after_fork = (renew(), pthread_atfork(nullptr, nullptr, renew) == 0);
    (void)renewed_after_fork;
    return *current();
  }

  // Calls work(thread, threads, barrier) on at most `max_threads` threads, including this one, and returns when all
  // have finished. `seconds` is the estimated time of the work on one thread. The helpers then spin for `spin`.
  template <class Work>
  void run(int max_threads, double seconds, std::chrono::nanoseconds spin, const Work& work) {
    std::vector<Helper*> team;
    if (max_threads > 1 && !busy_.exchange(true)) {
      const auto begin = Clock::now();
      if (begin >= alone_until_) recruit(size_t(max_threads) - 1, seconds, spin, team);
      start(team, spin, work);
      last_end_ = Clock::now();
      if (!team.empty() && last_end_ - begin > longest_call(seconds)) alone_until_ = last_end_ + kTimeAlone;
      busy_.store(false);
    } else {
      start(team, spin, work);
    }
  }

 private:
  // A call with helpers that takes far longer than it should on one thread has waited for a helper that lost its core
  // to another process. For a while, calls then take no helpers, since the next one would wait as well.
  static constexpr auto kTimeAlone = std::chrono::milliseconds(100);
  static std::chrono::nanoseconds longest_call(double seconds) {
    return std::chrono::nanoseconds(long(10e9 * seconds)) + std::chrono::microseconds(500);
  }

  // The states of a helper. A caller takes a spinning helper, sets its task, and starts it.
  enum : uint32_t { kAsleep, kWoken, kSpinning, kTaken, kWorking };

  struct Helper {
    Signal state{kAsleep};
    std::atomic<int64_t> spin{0};  // nanoseconds
    void (*run)(const void* work, int thread, int threads, Barrier&);
    const void* work;
    int thread, threads;
    Barrier* barrier;

    void live() {
      for (;;) {
        state.sleep_while(kAsleep);
        state.replace(kWoken, kSpinning);
        do {
          for (uint32_t now; (now = state.load()) != kSpinning;) {
            if (now == kTaken) state.wait_while(kTaken);
            if (state.load() != kWorking) continue;
            run(work, thread, threads, *barrier);
            state.store(kSpinning);
          }
        } while (state.changes_within(std::chrono::nanoseconds(spin.load()), kSpinning) ||
                 !state.replace(kSpinning, kAsleep));
      }
    }
  };

  // Adds up to `count` spinning helpers to the team. Wakes sleeping ones if they can be useful: for this call, if it is
  // long, or for the next one, if calls follow each other within `spin`.
  void recruit(size_t count, double seconds, std::chrono::nanoseconds spin, std::vector<Helper*>& team) {
    const bool long_call = seconds >= kMinSecondsForHelpers;
    const auto wait = wait_for_helpers(seconds);
    const bool wake = long_call || Clock::now() - last_end_ < spin;
    while (wake && helpers_.size() < count && add_helper()) {}
    count = std::min(count, helpers_.size());
    for (size_t i = 0; wake && i < count; i++) {
      helpers_[i]->spin.store(std::max(spin, long_call ? wait : spin).count());
      helpers_[i]->state.replace(kAsleep, kWoken);
    }
    const auto deadline = Clock::now() + wait;
    for (size_t i = 0; i < count; i++) {
      if (long_call)
        while (helpers_[i]->state.load() == kWoken && Clock::now() < deadline)
          helpers_[i]->state.wait_while(kWoken, deadline);
      if (helpers_[i]->state.replace(kSpinning, kTaken)) team.push_back(helpers_[i]);
    }
  }

  template <class Work>
  static void start(const std::vector<Helper*>& team, std::chrono::nanoseconds spin, const Work& work) {
    const int threads = int(team.size()) + 1;
    Barrier barrier(threads);
    for (int i = 1; i < threads; i++) {
      Helper& helper = *team[i - 1];
      helper.run = [](const void* work, int thread, int threads, Barrier& barrier) {
        (*static_cast<const Work*>(work))(thread, threads, barrier);
      };
      helper.work = &work, helper.thread = i, helper.threads = threads, helper.barrier = &barrier;
      helper.spin.store(spin.count());
      helper.state.store(kWorking);
    }
    work(0, threads, barrier);
    for (Helper* helper : team)
      while (helper->state.load() == kWorking) helper->state.wait_while(kWorking);
  }

  // Returns false if the system refuses another thread, or if threads here cannot sleep without using their core.
  bool add_helper() {
#if defined(__linux__)
    auto helper = std::make_unique<Helper>();
    // The signals of the process are for its own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool added = true;
    try {
      std::thread(&Helper::live, helper.get()).detach();
      helpers_.push_back(helper.release());
    } catch (const std::system_error&) {
      added = false;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return added;
#else
    return false;
#endif
  }

  // A forked process has none of its parent's threads, so it starts with no helpers.
  static void renew() { current() = new Helpers; }
  static Helpers*& current() {
    static Helpers* helpers;
    return helpers;
  }

  std::atomic<bool> busy_{false};
  std::vector<Helper*> helpers_;  // only used by the thread that set busy_
  Clock::time_point last_end_{}, alone_until_{};
};

}  // namespace jaxlstm
