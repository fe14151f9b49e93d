// A stack of layers in one call, from prepared weights and arrays of the caller: a Runner or a stream without XLA.
//
// The same passes compute a step and a whole sequence, so both have the same bits.
#pragma once
#include <cstring>
#include <optional>
#include <vector>

#include "cost.h"
#include "memory.h"
#include "team.h"

namespace jaxlstm {

// The layout of these structs is repeated in jaxlstm/kernels/cpu/stack.py. Sizes are named as in arguments.h.
struct Layer {
  int64_t input_size;
  const void* prepared[2];  // of each direction, from jaxlstm_prepare_weights
};
struct Stack {
  int64_t dtype;  // a Dtype
  int64_t layer_count, directions, batch, hidden_size, h_size;
  int64_t threads, spin_nanoseconds;  // maximum number of threads, and how long helpers spin after a call
  const Layer* layers;
  // The state of all layers, [layer_count * directions, batch, h_size] and [layer_count * directions, batch,
  // hidden_size], in float32 for half precision. It has two buffers: each call reads the current one, writes the other,
  // and makes that current.
  void *h[2], *c[2];
  int64_t current;
};

// The arguments of the forward pass of each layer and direction, and the memory between them.
template <class T>
class StackCall {
 public:
  // x is [time, batch, input_size of the first layer], valid [time, batch] or null, and y [time, batch, directions *
  // h_size].
  StackCall(const Stack& stack, long time, const T* x, const uint8_t* valid, T* y)
      : directions_(stack.directions), rows_(time * stack.batch), size_(stack.h_size) {
    const long B = stack.batch, H = stack.hidden_size, P = stack.h_size;
    for (long i = 0; i < stack.layer_count * directions_; i++) {
      const Layer& layer = stack.layers[i / directions_];
      ForwardArguments<T> p{time, B, layer.input_size, H, P, i % directions_ == 1};
      p.prepared = layer.prepared[i % directions_];
      p.weight_hr = P == H ? nullptr : static_cast<const T*>(p.prepared);  // any non-null pointer
      const auto part = [i](void* state, long size) { return static_cast<Wide<T>*>(state) + i * size; };
      p.h_0 = part(stack.h[stack.current], B * P), p.h_n = part(stack.h[!stack.current], B * P);
      p.c_0 = part(stack.c[stack.current], B * H), p.c_n = part(stack.c[!stack.current], B * H);
      p.valid = valid;
      pass_bytes_ = std::max(pass_bytes_, rounded(pass_.scratch_bytes(p)));
      add(cost_of(p));
      passes_.push_back(p);
    }
    // The outputs of a layer are the inputs of the next one, which overwrites the inputs of this one.
    const size_t side_bytes = rounded(rows_ * size_ * sizeof(T)), y_bytes = directions_ * side_bytes;
    scratch_.emplace(pass_bytes_ + (joins() ? y_bytes : 0) + (stack.layer_count > 1 ? 2 * y_bytes : 0));
    if (failed()) return;
    char* const sides = static_cast<char*>(scratch_->data()) + pass_bytes_;
    char* const between = sides + (joins() ? y_bytes : 0);
    for (long d = 0; d < 2; d++) sides_[d] = reinterpret_cast<T*>(sides + d * side_bytes);
    for (long layer = 0; layer < stack.layer_count; layer++) {
      outputs_.push_back(layer + 1 < stack.layer_count ? reinterpret_cast<T*>(between + layer % 2 * y_bytes) : y);
      for (long d = 0; d < directions_; d++) {
        ForwardArguments<T>& p = passes_[layer * directions_ + d];
        p.x = layer ? outputs_[layer - 1] : x;
        p.y = joins() ? sides_[d] : outputs_[layer];
      }
    }
  }

  bool failed() const { return !scratch_->data(); }
  const Cost& cost() const { return cost_; }

  void run(int thread, int threads, Barrier& barrier) const {
    for (size_t i = 0; i < passes_.size(); i++) {
      pass_.run(passes_[i], scratch_->data(), thread, threads, barrier);
      barrier.wait();
      if (joins() && i % 2 == 1) {
        join(outputs_[i / 2], rows_ * thread / threads, rows_ * (thread + 1) / threads);
        barrier.wait();
      }
    }
  }

 private:
  bool joins() const { return directions_ == 2; }
  static size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

  void add(const Cost& other) {
    cost_.seconds += other.seconds;
    cost_.useful_threads = std::max(cost_.useful_threads, other.useful_threads);
  }

  // Writes both directions of some rows side by side.
  void join(T* y, long begin, long end) const {
    for (long row = begin; row < end; row++)
      for (long d = 0; d < 2; d++) std::memcpy(y + (2 * row + d) * size_, sides_[d] + row * size_, size_ * sizeof(T));
  }

  const Pass<ForwardArguments<T>>& pass_ = active_instruction_set().passes<T>().forward;
  const long directions_, rows_, size_;
  std::vector<ForwardArguments<T>> passes_;
  std::vector<T*> outputs_;  // of each layer
  T* sides_[2];              // the outputs of both directions of a layer
  size_t pass_bytes_ = 0;
  Cost cost_{};
  std::optional<Scratch> scratch_;
};

// Runs `time` steps, with arrays as in StackCall. Returns false, with an unchanged state, if an allocation fails.
template <class T>
bool run_stack(Stack& stack, long time, const T* x, const uint8_t* valid, T* y) {
  const StackCall<T> work(stack, time, x, valid, y);
  if (work.failed()) return false;
  const Call call(work.cost(), 0, stack.threads, 0);
  Helpers::of_process().run(
      call.threads, call.seconds, std::chrono::nanoseconds(stack.spin_nanoseconds),
      [&](int thread, int threads, Barrier& barrier) { work.run(thread, threads, barrier); });
  stack.current = !stack.current;
  return true;
}

}  // namespace jaxlstm
