// The estimated cost of a call, and the number of threads that it gets.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "instruction_sets.h"

namespace jaxlstm {

// A shorter call runs on the calling thread, since waking helpers would take longer.
constexpr double kMinSecondsForHelpers = 300e-6;
// A call above this time on one thread takes helpers even if the cores are crowded, or if the helpers sleep. So does a
// call that requests a number of threads.
constexpr double kLongCall = 20e-3;
// The speed of one thread, as measured with float32 on AMD Zen 4: of products, and of the activations of a hidden unit.
template <class T>
constexpr double kMultiplicationsPerSecond = 200e9 / sizeof(T);
constexpr double kActivationSeconds = 5e-9;
// With few rows, reading the weights dominates, from the second-level cache (1 MiB) or beyond.
inline double seconds_to_read(double bytes) { return bytes / (bytes <= (1 << 20) ? 120e9 : 25e9); }

// The time of a call on one thread in seconds, and the number of threads that its multiplications between two
// synchronizations keep busy.
struct Cost {
  double seconds, useful_threads;
};
template <class T>
double useful_threads(double step_multiplications) {
  return step_multiplications / active_instruction_set().passes<T>().multiplications_per_thread;
}

// Returns the number of steps that have a valid row, and the number of valid rows of all steps.
template <class Arguments>
std::pair<double, double> count_valid(const Arguments& p) {
  if (!p.valid) return {double(p.time), double(p.time) * p.batch};
  long steps = 0, rows = 0;
  for (long t = 0; t < p.time; t++) {
    const long valid_rows = std::count(p.valid + t * p.batch, p.valid + (t + 1) * p.batch, 1);
    steps += valid_rows > 0, rows += valid_rows;
  }
  return {double(steps), double(rows)};
}

// Returns the cost of a pass that runs step by step.
template <class T, class Arguments>
Cost cost_of_steps(const Arguments& p, double multiplications_per_row, double activations_per_row) {
  const auto [steps, rows] = count_valid(p);
  const double row_seconds =
      multiplications_per_row / kMultiplicationsPerSecond<T> + activations_per_row * kActivationSeconds;
  const double reading_seconds = seconds_to_read(multiplications_per_row * sizeof(T));
  return {std::max(rows * row_seconds, steps * reading_seconds), useful_threads<T>(multiplications_per_row * p.batch)};
}
template <class T>
Cost cost_of(const ForwardArguments<T>& p) {
  return cost_of_steps<T>(p, 1.0 * blocks_of(p.cell) * p.hidden_size * (p.input_size + p.h_size), p.hidden_size);
}
template <class T>
Cost cost_of(const BackwardArguments<T>& p) {
  return cost_of_steps<T>(p, 1.0 * blocks_of(p.cell) * p.hidden_size * p.h_size, 0);
}
template <class T>
Cost cost_of(const GradientsArguments<T>& p) {
  const double rows = double(p.time) * p.batch;
  const double columns = double(p.input_size) * (!!p.grad_x + !!p.grad_weight_ih) + p.h_size;
  const double multiplications_per_row = 4 * columns * p.hidden_size;
  return {multiplications_per_row * rows / kMultiplicationsPerSecond<T>,
          useful_threads<T>(multiplications_per_row * std::min(rows, 256.0))};
}

// Concurrent calls share the threads of the pool: `running` counts the calls at this moment, `announced` the concurrent
// calls to expect, as set by jaxlstm_add_callers.
inline std::atomic<int> running{0}, announced{0};

// Counts as a running call for its lifetime, and computes the number of threads to use: `requested`, or if that is 0
// the call's share of the available ones, which a call shorter than `min_seconds` does not take.
class Call {
 public:
  Call(const Cost& cost, int64_t requested, int64_t available, double min_seconds = kMinSecondsForHelpers)
      : seconds(cost.seconds) {
    const int calls = std::max(running.fetch_add(1) + 1, announced.load());
    if (requested > 0) seconds = std::max(seconds, kLongCall);
    else requested = seconds < min_seconds ? 1 : available / calls;
    const int64_t useful = int64_t(cost.useful_threads);
    threads = int(std::max<int64_t>(1, std::min<int64_t>(requested, useful)));
  }
  ~Call() { running.fetch_sub(1); }
  Call(const Call&) = delete;

  double seconds;
  int threads;
};

}  // namespace jaxlstm
