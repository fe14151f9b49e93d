// A stack of layers in one call, from prepared weights and arrays of the caller: the step of a stream without XLA.
//
// The same passes compute a step and a whole sequence, so both have the same bits.
#pragma once
#include "cost.h"
#include "dtypes.h"
#include "helpers.h"
#include "memory.h"
#include "prepared_weights.h"

namespace jaxlstm {

// The layout of these structs is repeated in jaxlstm/kernels/cpu/stack.py. Sizes are named as in arguments.h.
struct Layer {
  int64_t input_size;
  const void* prepared;  // from jaxlstm_prepare_weights
};
struct Stack {
  int64_t dtype;  // a Dtype
  int64_t layer_count, batch, hidden_size, h_size;
  int64_t threads, spin_nanoseconds;  // maximum number of threads, and how long helpers spin after a call
  const Layer* layers;
  // The state of all layers, [layer_count, batch, h_size] and [layer_count, batch, hidden_size], in float32 for half
  // precision. It has two buffers: each call reads the current one, writes the other, and makes that current.
  void *h[2], *c[2];
  int64_t current;
};

// Runs `time` steps. x is [time, batch, input_size of the first layer], valid [time, batch] or null, y [time, batch,
// h_size]. Returns false, with an unchanged state, if there is no memory.
template <class T>
bool run_stack(Stack& stack, long time, const T* x, const uint8_t* valid, T* y) {
  const long B = stack.batch, H = stack.hidden_size, P = stack.h_size, from = stack.current;
  const Pass<ForwardArguments<T>>& pass = active_instruction_set().passes<T>().forward;
  std::vector<ForwardArguments<T>> layers(stack.layer_count);
  size_t pass_bytes = 0;
  Cost cost{};
  for (long i = 0; i < stack.layer_count; i++) {
    ForwardArguments<T>& p = layers[i] = {time, B, stack.layers[i].input_size, H, P, false};
    p.prepared = stack.layers[i].prepared;
    p.weight_hr = P == H ? nullptr : static_cast<const T*>(p.prepared);  // any non-null pointer
    const auto part = [i](void* state, long size) { return static_cast<Wide<T>*>(state) + i * size; };
    p.h_0 = part(stack.h[from], B * P), p.h_n = part(stack.h[!from], B * P);
    p.c_0 = part(stack.c[from], B * H), p.c_n = part(stack.c[!from], B * H);
    p.valid = valid;
    pass_bytes = std::max(pass_bytes, (pass.scratch_bytes(p) + 63) / 64 * 64);
    const Cost layer_cost = cost_of(p);
    cost.multiplications += layer_cost.multiplications, cost.reading_seconds += layer_cost.reading_seconds;
    cost.step_multiplications = std::max(cost.step_multiplications, layer_cost.step_multiplications);
  }
  // The outputs of a layer are the inputs of the next one, which overwrites the inputs of this one.
  const size_t y_bytes = stack.layer_count > 1 ? (time * B * P * sizeof(T) + 63) / 64 * 64 : 0;
  Scratch scratch(pass_bytes + 2 * y_bytes);
  if (!scratch.data()) return false;
  char* const outputs = static_cast<char*>(scratch.data()) + pass_bytes;
  for (long i = 0; i < stack.layer_count; i++) {
    layers[i].x = i ? layers[i - 1].y : x;
    layers[i].y = i + 1 < stack.layer_count ? reinterpret_cast<T*>(outputs + i % 2 * y_bytes) : y;
  }
  const Call call(cost, 0, stack.threads, 0);
  Helpers::of_process().run(call.threads, call.seconds, std::chrono::nanoseconds(stack.spin_nanoseconds),
                            [&](int thread, int threads, Barrier& barrier) {
    for (const ForwardArguments<T>& p : layers) {
      pass.run(p, scratch.data(), thread, threads, barrier);
      barrier.wait();
    }
  });
  stack.current = !from;
  return true;
}

}  // namespace jaxlstm
