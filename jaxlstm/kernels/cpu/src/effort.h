// How many threads a call is worth, and how many it gets while others run.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "problem.h"

namespace jaxlstm {

// Below this many multiplications a step, meeting costs more than another thread saves, and so does calling helpers
// for less than this time.
constexpr double kMultiplicationsPerThread = 40e3, kWorthHelpers = 200e-6;
// With few rows it is the reading of weights that takes time, from the second cache or beyond.
constexpr double kMultiplicationsPerSecond = 100e9;
inline double seconds_to_read(double bytes) { return bytes / (bytes <= (1 << 20) ? 120e9 : 25e9); }

// How long a call is: all of its multiplications, those between two meetings of its threads, and the time that it
// takes to read the weights as often as it does.
struct Effort {
  double all, step, reading;

  double seconds() const { return std::max(all / kMultiplicationsPerSecond, reading); }
};

// How many steps have a valid row, and how many valid rows there are in all.
template <class Problem>
std::pair<double, double> how_many(const Problem& p) {
  if (!p.valid) return {double(p.time), double(p.time) * p.batch};
  long steps = 0, rows = 0;
  for (long t = 0; t < p.time; t++) {
    const long found = std::count(p.valid + t * p.batch, p.valid + (t + 1) * p.batch, 1);
    steps += found > 0, rows += found;
  }
  return {double(steps), double(rows)};
}

// That of steps which take so many multiplications a row.
template <class Problem>
Effort effort_of_steps(const Problem& p, double row, double bytes_a_weight) {
  const auto [steps, rows] = how_many(p);
  return {row * rows, row * p.batch, steps * seconds_to_read(row * bytes_a_weight)};
}
template <class T>
Effort effort_of(const Forward<T>& p) {
  return effort_of_steps(p, 4.0 * p.hidden_size * (p.input_size + p.h_size), sizeof(T));
}
template <class T>
Effort effort_of(const Backward<T>& p) {
  return effort_of_steps(p, 4.0 * p.hidden_size * p.h_size, sizeof(T));
}
template <class T>
Effort effort_of(const Gradients<T>& p) {
  const double rows = double(p.time) * p.batch;
  const double columns = double(p.input_size) * (!!p.grad_x + !!p.grad_weight_ih) + p.h_size;
  const double row = 4 * columns * p.hidden_size;
  return {row * rows, row * std::min(rows, 256.0), 0};
}

// Calls at the same time share the pool's threads: those that run at this moment, or those that were said to come.
inline std::atomic<int> running{0}, announced{0};

// One of the calls that run, for as long as it lives, and its part of the pool's threads: `wanted`, or with 0 as many
// as it is worth.
class Call {
 public:
  Call(const Effort& effort, int64_t wanted, int64_t pool_threads) : seconds(effort.seconds()) {
    const int calls = std::max(running.fetch_add(1) + 1, announced.load());
    if (wanted <= 0) wanted = seconds < kWorthHelpers ? 1 : pool_threads / calls;
    threads = int(std::max<int64_t>(1, std::min<int64_t>(wanted, int64_t(effort.step / kMultiplicationsPerThread))));
  }
  ~Call() { running.fetch_sub(1); }
  Call(const Call&) = delete;

  double seconds;
  int threads;
};

}  // namespace jaxlstm
