// One layer: a direction, or both at the same time.
#pragma once
#include <algorithm>
#include <optional>

#include "cost.h"

namespace jaxlstm {

// Both directions at the same time: each half of the threads runs one of them, so fewer threads wait for each other
// after each step, and none if there are two threads. But each core then reads all weights of its direction. With two
// threads this gained 5 to 35 % up to 256 hidden units, and nothing beyond, where the weights exceed a core's cache.
constexpr double kMaxWeightBytesPerThread = 2 << 20;

// The barriers of the halves of a team.
class Halves {
 public:
  // Every thread of the team calls it.
  void make(int thread, int threads, Barrier& whole) {
    if (thread == 0)
      for (auto& barrier : barriers_) barrier.emplace(threads / 2);
    whole.wait();
  }
  Barrier& operator[](int half) { return *barriers_[half]; }

 private:
  std::optional<Barrier> barriers_[2];
};

// The passes of a layer on the same inputs; `directions` is 1 or 2.
template <class T>
struct LayerPasses {
  const ForwardArguments<T>* passes;
  int directions;

  // Of one direction; a layer needs as much for each.
  size_t scratch_bytes() const {
    size_t bytes = 0;
    for (int d = 0; d < directions; d++) bytes = std::max(bytes, pass().scratch_bytes(passes[d]));
    return (bytes + 63) / 64 * 64;
  }
  Cost cost() const {
    Cost sum{};
    for (int d = 0; d < directions; d++) {
      const Cost one = cost_of(passes[d]);
      sum.seconds += one.seconds;
      sum.useful_threads = splits(2) ? sum.useful_threads + one.useful_threads
                                     : std::max(sum.useful_threads, one.useful_threads);
    }
    return sum;
  }

  // Runs the passes and waits for all threads.
  void run(char* scratch, int thread, int threads, Barrier& barrier, Halves& halves) const {
    if (splits(threads)) {
      const int half = threads / 2, d = thread / half;  // the last one of an odd number of threads only waits
      if (d < 2) pass().run(passes[d], scratch + d * scratch_bytes(), thread % half, half, halves[d]);
      barrier.wait();
      return;
    }
    for (int d = 0; d < directions; d++) {
      pass().run(passes[d], scratch, thread, threads, barrier);
      barrier.wait();
    }
  }

 private:
  static const Pass<ForwardArguments<T>>& pass() { return active_instruction_set().passes<T>().forward; }
  bool splits(int threads) const {
    const ForwardArguments<T>& p = passes[0];
    const double weight_bytes = 1.0 * blocks_of(p.cell) * p.hidden_size * (p.input_size + p.h_size) * sizeof(T);
    return directions == 2 && threads > 1 && weight_bytes <= threads / 2 * kMaxWeightBytesPerThread;
  }
};

}  // namespace jaxlstm
