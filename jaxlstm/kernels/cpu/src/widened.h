// Passes in half precision where the processor has no products of it: all arrays are widened to float32, and the
// results are rounded once. The pass itself runs in float32, so h is not rounded from step to step either.
#pragma once
#include "arguments.h"
#include "half.h"
#include "pass.h"

namespace jaxlstm {
namespace {

// Float32 copies of the arrays of one call, in scratch memory.
template <class T>
class WideCopies {
 public:
  explicit WideCopies(void* scratch) : arena_(scratch) {}

  // Return the copy of an operand or a result. The optional ones may be null. The rows of a result may lie apart.
  const float* operand(const T* half, long count) { return copy_of(operands_[operand_count_++], half, count); }
  const float* optional_operand(const T* half, long count) { return half ? operand(half, count) : nullptr; }
  float* result(T* half, long rows, long width, long stride) {
    Copy<T>& copy = results_[result_count_++];
    float* wide = copy_of(copy, half, rows * width);
    copy.width = width, copy.stride = stride;
    return wide;
  }
  float* result(T* half, long rows, long width) { return result(half, rows, width, width); }
  float* optional_result(T* half, long rows, long width) { return half ? result(half, rows, width) : nullptr; }
  size_t bytes() const { return arena_.used(); }

  // Convert a thread's share of each array.
  void widen_operands(int thread, int threads) const {
    for (const auto& copy : operands_) {
      const Range mine = share_of({0, copy.count}, thread, threads);
      widen(copy.half + mine.begin, copy.wide + mine.begin, mine.size());
    }
  }
  void narrow_results(int thread, int threads) const {
    for (const auto& copy : results_) {
      const Range mine = share_of({0, copy.count / copy.width}, thread, threads);
      for (long row = mine.begin; row < mine.end; row++)
        narrow(copy.wide + row * copy.width, copy.half + row * copy.stride, copy.width);
    }
  }

 private:
  template <class Half>
  struct Copy {
    Half* half = nullptr;
    float* wide = nullptr;
    long count = 0, width = 1, stride = 1;
  };
  template <class Half>
  float* copy_of(Copy<Half>& copy, Half* half, long count) {
    copy.half = half, copy.wide = arena_.take<float>(count), copy.count = count;
    // While scratch memory is only measured, the address of the array says that it is not null.
    return copy.wide ? copy.wide : reinterpret_cast<float*>(const_cast<T*>(half));
  }

  Arena arena_;
  Copy<const T> operands_[4] = {};
  Copy<T> results_[3] = {};
  int operand_count_ = 0, result_count_ = 0;
};

template <class T>
ForwardArguments<float> widened(const ForwardArguments<T>& p, WideCopies<T>& copies) {
  const long steps = p.time * p.batch, gates = blocks_of(p.cell) * p.hidden_size;
  // Prepared weights are not read here; the address of weight_hr then only indicates a projection.
  const auto weight = [&](const T* half, long count) {
    return p.prepared ? reinterpret_cast<const float*>(half) : copies.optional_operand(half, count);
  };
  return {p.cell, p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.h_size, p.reverse,
          copies.operand(p.x, steps * p.input_size), weight(p.weight_ih, gates * p.input_size),
          weight(p.weight_hh, gates * p.h_size), p.bias, weight(p.weight_hr, p.h_size * p.hidden_size), p.h_0, p.c_0,
          p.valid, copies.result(p.y, steps, p.h_size, p.y_stride), p.h_n, p.c_n, p.by_gates, p.f, p.m_by_c,
          copies.optional_result(p.m, steps, p.hidden_size), p.prepared};
}

template <class T>
BackwardArguments<float> widened(const BackwardArguments<T>& p, WideCopies<T>& copies) {
  const long steps = p.time * p.batch;
  return {p.cell, p.time, p.batch, p.hidden_size, p.h_size, p.reverse,
          copies.operand(p.weight_hh, blocks_of(p.cell) * p.hidden_size * p.h_size),
          copies.optional_operand(p.weight_hr, p.h_size * p.hidden_size), p.by_gates, p.f, p.m_by_c, p.valid,
          copies.operand(p.grad_y, steps * p.h_size), p.grad_h_n, p.grad_c_n, p.grad_gates,
          p.weight_hr ? copies.result(p.grad_projected, steps, p.h_size) : nullptr, p.grad_h_0, p.grad_c_0};
}

template <class T>
GradientsArguments<float> widened(const GradientsArguments<T>& p, WideCopies<T>& copies) {
  const long steps = p.time * p.batch, gates = 4 * p.hidden_size;
  return {p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse, p.threads, p.grad_gates,
          copies.operand(p.x, steps * p.input_size), copies.operand(p.y, steps * p.h_size),
          copies.operand(p.h_0, p.batch * p.h_size), p.valid, copies.operand(p.weight_ih, gates * p.input_size),
          copies.optional_result(p.grad_x, steps, p.input_size),
          copies.optional_result(p.grad_weight_ih, gates, p.input_size),
          copies.optional_result(p.grad_weight_hh, gates, p.h_size), p.grad_bias};
}

template <class T, template <class> class Arguments, class FloatPass>
struct WidenedPass {
  WideCopies<T> copies;
  const Arguments<float> wide;
  FloatPass pass;
  const size_t scratch_bytes;

  WidenedPass(const Arguments<T>& arguments, void* scratch)
      : copies(scratch), wide(widened(arguments, copies)),
        pass(wide, scratch ? static_cast<char*>(scratch) + copies.bytes() : nullptr),
        scratch_bytes(copies.bytes() + pass.scratch_bytes) {}

  void run(int thread, int threads, Barrier& barrier) {
    copies.widen_operands(thread, threads);
    barrier.wait();
    pass.run(thread, threads, barrier);
    barrier.wait();
    copies.narrow_results(thread, threads);
  }
};

}  // namespace
}  // namespace jaxlstm
