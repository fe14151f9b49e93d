// The forward pass in half precision where the processor has no products of it: all arrays are widened to float32, and
// the results are rounded once. The pass itself runs in float32, so h is not rounded from step to step either.
#pragma once
#include "arena.h"
#include "arguments.h"
#include "half_conversion.h"
#include "work_sharing.h"

namespace jaxlstm {
namespace {

template <class T>
void widen_range(const T* from, float* to, Range range) { widen(from + range.begin, to + range.begin, range.size()); }
template <class T>
void narrow_range(const float* from, T* to, Range range) { narrow(from + range.begin, to + range.begin, range.size()); }

template <class T, class FloatPass>
struct WidenedForwardPass {
  const ForwardArguments<T>& p;
  Arena arena;
  const long steps = p.time * p.batch, gate_count = 4 * p.hidden_size;
  // Float32 copies, in scratch memory.
  float* x = arena.take<float>(steps * p.input_size);
  float* y = arena.take<float>(steps * p.h_size);
  float* m = p.m ? arena.take<float>(steps * p.hidden_size) : nullptr;
  float* weight_ih = p.prepared ? nullptr : arena.take<float>(gate_count * p.input_size);
  float* weight_hh = p.prepared ? nullptr : arena.take<float>(gate_count * p.h_size);
  float* weight_hr = p.prepared || !p.weight_hr ? nullptr : arena.take<float>(p.h_size * p.hidden_size);
  const ForwardArguments<float> wide;
  FloatPass pass;
  const size_t scratch_bytes;

  WidenedForwardPass(const ForwardArguments<T>& arguments, void* scratch)
      : p(arguments), arena(scratch), wide(widened()),
        pass(wide, scratch ? static_cast<char*>(scratch) + arena.used() : nullptr),
        scratch_bytes(arena.used() + pass.scratch_bytes) {}

  void run(int thread, int threads, Barrier& barrier) {
    const auto mine = [&](long count) { return share_of({0, count}, thread, threads); };
    widen_range(p.x, x, mine(steps * p.input_size));
    if (!p.prepared) {
      widen_range(p.weight_ih, weight_ih, mine(gate_count * p.input_size));
      widen_range(p.weight_hh, weight_hh, mine(gate_count * p.h_size));
      if (weight_hr) widen_range(p.weight_hr, weight_hr, mine(p.h_size * p.hidden_size));
    }
    barrier.wait();
    pass.run(thread, threads, barrier);
    barrier.wait();
    narrow_range(y, p.y, mine(steps * p.h_size));
    if (m) narrow_range(m, p.m, mine(steps * p.hidden_size));
  }

 private:
  ForwardArguments<float> widened() const {
    // The address of p.weight_hr indicates a projection where no copy exists: with prepared weights, and while scratch
    // memory is only measured.
    const float* projection = weight_hr ? weight_hr : reinterpret_cast<const float*>(p.weight_hr);
    float* const m_or_not_null = m ? m : reinterpret_cast<float*>(p.m);
    return {p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse, x, weight_ih, weight_hh, p.bias,
            projection, p.h_0, p.c_0, p.valid, y, p.h_n, p.c_n, p.by_gates, p.f, p.m_by_c, m_or_not_null, p.prepared};
  }
};

}  // namespace
}  // namespace jaxlstm
