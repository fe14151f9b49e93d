// The backward pass and the gradients in half precision where no pass multiplies it: as in widened_forward.h, all
// arrays are widened to float32, and the results are rounded once.
#pragma once
#include "arena.h"
#include "arguments.h"
#include "widened_forward.h"

namespace jaxlstm {
namespace {

template <class T, class FloatPass>
struct WidenedBackwardPass {
  const BackwardArguments<T>& p;
  Arena arena;
  const long weight_count = 4 * p.hidden_size * p.h_size, projection_count = p.h_size * p.hidden_size;
  const long y_count = p.time * p.batch * p.h_size;
  // Float32 copies, in scratch memory.
  float* weight_hh = arena.take<float>(weight_count);
  float* grad_y = arena.take<float>(y_count);
  float* weight_hr = p.weight_hr ? arena.take<float>(projection_count) : nullptr;
  float* grad_projected = p.weight_hr ? arena.take<float>(y_count) : nullptr;
  const BackwardArguments<float> wide;
  FloatPass pass;
  const size_t scratch_bytes;

  WidenedBackwardPass(const BackwardArguments<T>& arguments, void* scratch)
      : p(arguments), arena(scratch), wide(widened()),
        pass(wide, scratch ? static_cast<char*>(scratch) + arena.used() : nullptr),
        scratch_bytes(arena.used() + pass.scratch_bytes) {}

  void run(int thread, int threads, Barrier& barrier) {
    const auto mine = [&](long count) { return share_of({0, count}, thread, threads); };
    widen_range(p.weight_hh, weight_hh, mine(weight_count));
    widen_range(p.grad_y, grad_y, mine(y_count));
    if (p.weight_hr) widen_range(p.weight_hr, weight_hr, mine(projection_count));
    barrier.wait();
    pass.run(thread, threads, barrier);
    barrier.wait();
    if (p.weight_hr) narrow_range(grad_projected, p.grad_projected, mine(y_count));
  }

 private:
  BackwardArguments<float> widened() const {
    // The address of p.weight_hr indicates a projection while scratch memory is only measured.
    const float* projection = weight_hr ? weight_hr : reinterpret_cast<const float*>(p.weight_hr);
    return {p.time, p.batch, p.hidden_size, p.h_size, p.reverse, weight_hh, projection, p.by_gates, p.f, p.m_by_c,
            p.valid, grad_y, p.grad_h_n, p.grad_c_n, p.grad_gates, grad_projected, p.grad_h_0, p.grad_c_0};
  }
};

template <class T, class FloatPass>
struct WidenedGradientsPass {
  const GradientsArguments<T>& p;
  Arena arena;
  const long x_count = p.time * p.batch * p.input_size, y_count = p.time * p.batch * p.h_size;
  const long h_count = p.batch * p.h_size;
  const long weight_ih_count = 4 * p.hidden_size * p.input_size, weight_hh_count = 4 * p.hidden_size * p.h_size;
  // Float32 copies, in scratch memory. Results that are not requested have none.
  float* x = arena.take<float>(x_count);
  float* y = arena.take<float>(y_count);
  float* h_0 = arena.take<float>(h_count);
  float* weight_ih = arena.take<float>(weight_ih_count);
  float* grad_x = arena.take<float>(p.grad_x ? x_count : 0);
  float* grad_weight_ih = arena.take<float>(p.grad_weight_ih ? weight_ih_count : 0);
  float* grad_weight_hh = arena.take<float>(p.grad_weight_hh ? weight_hh_count : 0);
  const GradientsArguments<float> wide;
  FloatPass pass;
  const size_t scratch_bytes;

  WidenedGradientsPass(const GradientsArguments<T>& arguments, void* scratch)
      : p(arguments), arena(scratch), wide(widened()),
        pass(wide, scratch ? static_cast<char*>(scratch) + arena.used() : nullptr),
        scratch_bytes(arena.used() + pass.scratch_bytes) {}

  void run(int thread, int threads, Barrier& barrier) {
    const auto mine = [&](long count) { return share_of({0, count}, thread, threads); };
    widen_range(p.x, x, mine(x_count));
    widen_range(p.y, y, mine(y_count));
    widen_range(p.h_0, h_0, mine(h_count));
    widen_range(p.weight_ih, weight_ih, mine(weight_ih_count));
    barrier.wait();
    pass.run(thread, threads, barrier);
    barrier.wait();
    if (p.grad_x) narrow_range(grad_x, p.grad_x, mine(x_count));
    if (p.grad_weight_ih) narrow_range(grad_weight_ih, p.grad_weight_ih, mine(weight_ih_count));
    if (p.grad_weight_hh) narrow_range(grad_weight_hh, p.grad_weight_hh, mine(weight_hh_count));
  }

 private:
  GradientsArguments<float> widened() const {
    // The addresses of p.grad_x and so on indicate requested results while scratch memory is only measured.
    const auto wide_result = [](T* half, float* copy) {
      return !half ? nullptr : copy ? copy : reinterpret_cast<float*>(half);
    };
    return {p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse, p.threads, p.grad_gates, x, y, h_0,
            p.valid, weight_ih, wide_result(p.grad_x, grad_x), wide_result(p.grad_weight_ih, grad_weight_ih),
            wide_result(p.grad_weight_hh, grad_weight_hh), p.grad_bias};
  }
};

}  // namespace
}  // namespace jaxlstm
