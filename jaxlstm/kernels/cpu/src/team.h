// The threads of a call: a team from a pool that other calls share, or helper threads that spin between calls.
#pragma once
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "cost.h"
#include "wait.h"

namespace jaxlstm {

// A call must not rely on a pool: all its threads may be busy, or waiting for this very call. So the caller schedules
// invitations, waits briefly, and starts with the helpers that have arrived. A helper that arrives later is turned
// away. No thread ever waits for a thread that may not run.

// A sleeping thread takes 50 microseconds to arrive, and occasionally milliseconds on a virtual machine. The caller
// waits for kWaitShare of the time that it would need without helpers, within these limits. With a share of 0.05, one
// call in twenty started without its helper on a virtual machine.
constexpr double kShortestWait = 50e-6, kLongestWait = 2e-3, kWaitShare = 0.2;

inline std::chrono::nanoseconds wait_for_helpers(double seconds) {
  return std::chrono::nanoseconds(long(1e9 * std::min(kLongestWait, std::max(kShortestWait, kWaitShare * seconds))));
}

// The times of calls whose helpers may sleep, as shares of their estimates: without the helpers, and with them.
// Estimates are for another processor and for warm caches, and a helper may arrive late or lose its core. So a call
// goes the way that was faster for calls of about its length, and now and then tries the other.
class Experience {
 public:
  // The weights of a call that is slower or faster than usual. It counts at most as `most` times the usual one.
  struct Weights { double slow, fast, most; };
  // With helpers, a call may take `patience` times as long as without.
  Experience(Weights weights, double patience) : weights_(weights), patience_(patience) {}

  bool helpers_pay(double seconds) {
    const auto& [alone, helped] = like(seconds);
    const uint32_t calls = alone.calls.load() + helped.calls.load();
    const bool is_trial = calls % kTrial == 0 || (calls & (calls - 1)) == 0;  // more often at first
    return (helped.share.load() < patience_ * alone.share.load()) != is_trial;
  }
  // Adds a call that began at `begin` and ends now. Threads may overwrite each other's additions.
  void add(double seconds, bool helped, Clock::time_point begin) {
    Way& way = helped ? like(seconds).helped : like(seconds).alone;
    const double old = way.share.load(), first = 1.0 / (way.calls.fetch_add(1) + 1);
    double share = std::chrono::duration<double>(Clock::now() - begin).count() / seconds;
    if (old > 0) share = std::min(share, weights_.most * old);
    way.share.store(old + std::max(first, share > old ? weights_.slow : weights_.fast) * (share - old));
  }

 private:
  static constexpr uint32_t kTrial = 128;  // so rare that trials do not reach the 99th percentile
  struct Way {
    std::atomic<double> share{0};
    std::atomic<uint32_t> calls{0};
  };
  struct Ways {
    Way alone, helped;
  };
  Ways& like(double seconds) { return ways_[std::clamp(std::ilogb(seconds * 1e6), 0, 31)]; }
  Ways ways_[32];
  const Weights weights_;
  const double patience_;
};
// For calls that follow each other closely, the usual time counts most; for other calls, the slow ones do.
constexpr Experience::Weights kInARow{0.05, 0.25, 2}, kApart{0.25, 0.05, INFINITY};
// A call that wakes helpers may take this many times as long as one without them: the next calls then take less time.
constexpr double kPatience = 1.25;

// A helper that wakes up on the core of its caller keeps the caller from running, with its spins too. It moves to
// another core, but a call below this time goes on without it. Waking helpers costs little to a longer call of XLA's,
// so that it does not ask experience, which cold calls would spoil.
constexpr double kTooShortToMove = 2e-3;

// A thread of the pool sleeps about this time after its last work. On a virtual machine with Zen 4, helpers came in 0.7
// microseconds (median) up to 40 after the last team, and in 35 from 60 on.
constexpr auto kPoolSpins = std::chrono::microseconds(40);
inline std::atomic<Clock::time_point> last_call_end{Clock::time_point::min()}, last_team_end{Clock::time_point::min()};

// Calls work(thread, threads, barrier) on at most `max_threads` threads, including this one, and returns when all have
// finished. `seconds` is the estimated time of the work on one thread. `schedule` takes a copyable function without
// arguments and runs it at any later time, on any thread.
template <class Schedule, class Work>
void run_as_team(int max_threads, double seconds, Schedule&& schedule, const Work& work) {
  constexpr uint32_t kOpen = 0, kClosed = 1u << 31;
  struct Team {
    std::atomic<uint32_t> admitted{kOpen};  // number of helpers; the bit kClosed ends admission
    Signal answered{0}, started{0}, finished{0};
    const int core = current_core();  // of the caller
    int size = 0;  // `size`, `work` and `barrier` are set before `started`, and outlive every member
    const Work* work = nullptr;
    Barrier* barrier = nullptr;
    std::thread::id caller = std::this_thread::get_id();
  };
  static Experience awake{kInARow, 1}, waking{kInARow, kPatience}, apart{kApart, 1};  // for this kind of work
  const auto begin = Clock::now();
  const bool are_awake = begin < last_team_end.load() + kPoolSpins, crowded = cores_stay_crowded();
  Experience& experience = are_awake ? awake : begin < last_call_end.load() + kPoolSpins ? waking : apart;
  const bool learns = max_threads > 1 && !crowded && seconds < (are_awake ? kMinSecondsForHelpers : kTooShortToMove);
  const bool pays = learns ? experience.helpers_pay(seconds) : !crowded || seconds >= kLongCall;
  const bool alone = max_threads <= 1 || !pays;
  const auto finish = [&] {
    if (learns) experience.add(seconds, !alone, begin);
    last_call_end.store(Clock::now());
    if (!alone) last_team_end.store(last_call_end.load());
  };
  if (alone) {
    Barrier barrier(1);
    work(0, 1, barrier);
    return finish();
  }
  auto team = std::make_shared<Team>();
  for (int i = 1; i < max_threads; i++) {
    schedule([team, may_move = seconds >= kTooShortToMove] {
      // A pool without threads runs the function immediately.
      if (std::this_thread::get_id() == team->caller) return;
      const OffCore elsewhere(team->core, may_move);
      if (elsewhere.shares_core) return void(team->answered.add(1));
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
  finish();
}

// Helper threads for calls that follow each other closely, such as the steps of a stream or the batches of a Runner.
//
// XLA's pool puts a thread to sleep after each call, and waking it takes longer than a step. A helper instead spins for
// a bounded time after a call. If the next call arrives meanwhile, the helper joins it within a fraction of a
// microsecond; otherwise the helper sleeps.
//
// The helpers belong to the process, not to a stream: they serve one call at a time, and calls of other threads run
// without helpers. So there are never more helpers than cores, and a stream leaves nothing behind. A helper wakes up on
// another core than its caller, which it would keep from running. If it does not arrive in time, the call goes on
// without it, so no call waits for a thread that may not run.
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
    if (max_threads <= 1 || busy_.exchange(true)) return start(team, spin, work);
    const auto begin = Clock::now();
    const bool crowded = begin < alone_until_, awake = begin - last_end_ < spin;
    const bool may_wait = !awake && !crowded && seconds >= kMinSecondsForHelpers;
    const bool waits = may_wait && (seconds >= kLongCall || experience_.helpers_pay(seconds));
    if (!crowded && (awake || waits)) recruit(size_t(max_threads) - 1, waits ? seconds : 0, spin, team);
    start(team, spin, work);
    last_end_ = Clock::now();
    if (may_wait) experience_.add(seconds, waits, begin);
    if (!team.empty() && last_end_ - begin > longest_call(seconds)) alone_until_ = last_end_ + kTimeAlone;
    busy_.store(false);
  }

 private:
  // A call with helpers that takes far longer than it should on one thread has waited for a helper that lost its core
  // to another process. For a while, calls then take no helpers, since the next one would wait as well.
  static constexpr auto kTimeAlone = std::chrono::milliseconds(100);
  static std::chrono::duration<double> longest_call(double seconds) {
    return std::chrono::duration<double>(10 * seconds + 500e-6);
  }

  // The states of a helper. A caller takes a spinning helper, sets its task, and starts it.
  enum : uint32_t { kAsleep, kWoken, kSpinning, kTaken, kWorking };

  struct Helper {
    Signal state{kAsleep};
    std::thread::native_handle_type self;
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

  // Adds up to `count` helpers to the team: spinning ones, and sleeping ones that arrive within a share of
  // `seconds`. If that is 0, sleeping ones are woken for the next call.
  void recruit(size_t count, double seconds, std::chrono::nanoseconds spin, std::vector<Helper*>& team) {
    while (helpers_.size() < count && add_helper()) {}
    count = std::min(count, helpers_.size());
    for (size_t i = 0; i < count; i++) {
      helpers_[i]->spin.store(spin.count());
      if (helpers_[i]->state.load() != kAsleep) continue;
      if (!keep_off_this_core(helpers_[i]->self)) return;
      helpers_[i]->state.replace(kAsleep, kWoken);
    }
    const auto deadline = Clock::now() + (seconds ? wait_for_helpers(seconds) : std::chrono::nanoseconds(0));
    for (size_t i = 0; i < count; i++) {
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
      std::thread thread(&Helper::live, helper.get());
      helper->self = thread.native_handle();
      thread.detach();
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
  Experience experience_{kApart, 1};  // of calls whose helpers sleep
};

}  // namespace jaxlstm
