// Checks the threads of a call: how many it asks for, and which of them join it.
#include <sched.h>

#include <cstdio>

#include "cost.h"
#include "team.h"

using namespace jaxlstm;

// Returns the number of threads of a forward pass in float32, of 2 available ones.
static int threads_of(long time, long batch, long input_size, long hidden_size) {
  const ForwardArguments<float> p{time, batch, input_size, hidden_size, hidden_size};
  return Call(cost_of(p), 0, 2).threads;
}

static void move_to(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  sched_setaffinity(0, sizeof cores, &cores);
}

// Returns true if a helper on the core of its caller returns at once, and the caller works without it.
static bool helper_declines_on_the_core_of_its_caller() {
  const int core = current_core();
  move_to(core);
  Signal returned{0};
  std::thread helper;
  bool at_once = false;
  int size = 0;
  const auto schedule = [&](auto task) {
    helper = std::thread([&, task] { move_to(core), task(), returned.store(1); });
    at_once = returned.changes_within(std::chrono::seconds(60), 0);
  };
  run_as_team(2, 1e-3, schedule, [&](int, int threads, Barrier& barrier) { size = threads, barrier.wait(); });
  helper.join();
  return at_once && size == 1;
}

int main() {
  int wrong = 0;
  const auto check = [&](bool holds, const char* what) {
    if (!holds) std::printf("%s\n", what), wrong++;
  };
  check(threads_of(8, 64, 64, 32) == 1, "a call of 0.2 ms takes a helper");
  check(threads_of(18, 64, 64, 32) == 2, "a call of 0.4 ms takes no helper");
  check(helper_declines_on_the_core_of_its_caller(), "a helper stays on the core of its caller");
  return wrong;
}
