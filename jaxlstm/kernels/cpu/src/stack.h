// A stack of layers in one call, from prepared weights and arrays of the caller: a Runner or a stream without XLA.
//
// The same passes compute a step and a whole sequence, so both have the same bits.
#pragma once
#include <vector>

#include "layer.h"
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
  StackCall(const Stack& stack, long time, const T* x, const uint8_t* valid, T* y) : directions_(stack.directions) {
    const long B = stack.batch, H = stack.hidden_size, P = stack.h_size, width = directions_ * P;
    for (long i = 0; i < stack.layer_count * directions_; i++) {
      const Layer& layer = stack.layers[i / directions_];
      ForwardArguments<T> p{Cell::kLstm, time, B, layer.input_size, H, P, width, i % directions_ == 1};
      p.prepared = layer.prepared[i % directions_];
      p.weight_hr = P == H ? nullptr : static_cast<const T*>(p.prepared);  // any non-null pointer
      const auto part = [i](void* state, long size) { return static_cast<Wide<T>*>(state) + i * size; };
      p.h_0 = part(stack.h[stack.current], B * P), p.h_n = part(stack.h[!stack.current], B * P);
      p.c_0 = part(stack.c[stack.current], B * H), p.c_n = part(stack.c[!stack.current], B * H);
      p.valid = valid;
      passes_.push_back(p);
    }
    size_t pass_bytes = 0;
    for (long k = 0; k < stack.layer_count; k++) {
      pass_bytes = std::max(pass_bytes, layer(k).scratch_bytes());
      const Cost cost = layer(k).cost();
      cost_ = {cost_.seconds + cost.seconds, std::max(cost_.useful_threads, cost.useful_threads)};
    }
    // The outputs of a layer are the inputs of the next one, which overwrites the inputs of this one.
    const size_t y_bytes = (time * B * width * sizeof(T) + 63) / 64 * 64;
    scratch_.emplace(directions_ * pass_bytes + (stack.layer_count > 1 ? 2 * y_bytes : 0));
    if (failed()) return;
    char* const between = static_cast<char*>(scratch_->data()) + directions_ * pass_bytes;
    for (size_t i = 0; i < passes_.size(); i++) {
      const long k = i / directions_;
      passes_[i].x = k ? reinterpret_cast<T*>(between + (k - 1) % 2 * y_bytes) : x;
      T* const outputs = k + 1 < stack.layer_count ? reinterpret_cast<T*>(between + k % 2 * y_bytes) : y;
      passes_[i].y = outputs + i % directions_ * P;
    }
  }

  bool failed() const { return !scratch_->data(); }
  const Cost& cost() const { return cost_; }

  void run(int thread, int threads, Barrier& barrier, Halves& halves) const {
    if (directions_ == 2 && threads > 1) halves.make(thread, threads, barrier);
    for (size_t k = 0; k < passes_.size() / directions_; k++)
      layer(k).run(static_cast<char*>(scratch_->data()), thread, threads, barrier, halves);
  }

 private:
  LayerPasses<T> layer(long k) const { return {&passes_[k * directions_], int(directions_)}; }

  const long directions_;
  std::vector<ForwardArguments<T>> passes_;
  Cost cost_{};
  std::optional<Scratch> scratch_;
};

// Runs `time` steps, with arrays as in StackCall. Returns false, with an unchanged state, if an allocation fails.
template <class T>
bool run_stack(Stack& stack, long time, const T* x, const uint8_t* valid, T* y) {
  const StackCall<T> work(stack, time, x, valid, y);
  if (work.failed()) return false;
  const Call call(work.cost(), 0, stack.threads, 0);
  Halves halves;
  Helpers::of_process().run(
      call.threads, call.seconds, std::chrono::nanoseconds(stack.spin_nanoseconds),
      [&](int thread, int threads, Barrier& barrier) { work.run(thread, threads, barrier, halves); });
  stack.current = !stack.current;
  return true;
}

}  // namespace jaxlstm
