// The functions that Python calls through ctypes, without XLA.
#include "cost.h"
#include "instruction_sets.h"
#include "pass.h"
#include "stack.h"

namespace jaxlstm {
namespace {

// The dtypes as numbers, in calls from Python.
// The numbers are repeated in jaxlstm/kernels/cpu/library.py.
enum Dtype : int { kFloat32 = 0, kFloat64 = 1, kBfloat16 = 2, kFloat16 = 3 };

// Returns f(T()) for the type T of a dtype.
template <class F>
auto with_dtype(Dtype dtype, F&& f) {
  switch (dtype) {
    case kFloat64: return f(double());
    case kBfloat16: return f(Bfloat16());
    case kFloat16: return f(Float16());
    default: return f(float());
  }
}

// Returns the number of elements that the packed weights take.
template <class T>
int64_t prepared_size(Cell cell, int64_t input_size, int64_t hidden_size, int64_t h_size, bool projected) {
  ForwardArguments<T> p{cell};
  const T placeholder{};
  p.input_size = input_size, p.hidden_size = hidden_size, p.h_size = h_size;
  p.weight_hr = projected ? &placeholder : nullptr;
  return int64_t(active_instruction_set().passes<T>().prepared_bytes(p) / sizeof(T));
}

template <class T>
void prepare_weights(Cell cell, int64_t input_size, int64_t hidden_size, int64_t h_size, const void* weight_ih,
                     const void* weight_hh, const void* bias, const void* weight_hr, void* prepared) {
  ForwardArguments<T> p{cell};
  p.input_size = input_size, p.hidden_size = hidden_size, p.h_size = h_size;
  p.weight_ih = static_cast<const T*>(weight_ih), p.weight_hh = static_cast<const T*>(weight_hh);
  p.bias = static_cast<const Wide<T>*>(bias), p.weight_hr = static_cast<const T*>(weight_hr);
  active_instruction_set().passes<T>().prepare_weights(p, prepared);
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {
// Returns the version of the interface to Python.
int jaxlstm_interface() { return 11; }

// Returns the name of the active instruction set.
const char* jaxlstm_instruction_set() { return active_instruction_set().name; }
// Returns the number of float32 in a vector, to which the weights of a convolution are packed.
int jaxlstm_float_lanes() { return int(active_instruction_set().float_lanes); }
// Selects the instruction set of subsequent calls. Returns false if it is unknown or cannot run here.
bool jaxlstm_use_instruction_set(const char* name) { return use_instruction_set(name); }
// Returns true if the active instruction set multiplies weights of this dtype. It prepares no others: half-precision
// weights are then prepared as float32.
bool jaxlstm_multiplies(Dtype dtype) {
  return with_dtype(dtype, [](auto real) { return active_instruction_set().multiplies<decltype(real)>(); });
}
// Returns true if the kernel takes AMX for a batch with these valid steps, [time, batch].
bool jaxlstm_pays_for_tiles(const uint8_t* valid, int64_t time, int64_t batch) {
  return amx_is_faster(used_rows(valid, time, batch));
}
// Adds to the number of concurrent calls that share the threads of the pool.
void jaxlstm_add_callers(int count) { announced.fetch_add(count); }
// Evaluates the sigmoid and tanh of a cell in a dtype at n numbers, float64 or float32, to test their accuracy.
void jaxlstm_activations(Dtype dtype, const void* x, void* sigmoids, void* tanhs, long n) {
  with_dtype(dtype, [&](auto real) {
    typedef Wide<decltype(real)> Number;
    active_instruction_set().passes<decltype(real)>().activations(
        static_cast<const Number*>(x), static_cast<Number*>(sigmoids), static_cast<Number*>(tanhs), n);
  });
}

// Packs weights and biases for jaxlstm_run_stack. Absent arrays are null. In half precision the bias is float32.
void jaxlstm_prepare_weights(Dtype dtype, Cell cell, int64_t input_size, int64_t hidden_size, int64_t h_size,
                             const void* weight_ih, const void* weight_hh, const void* bias, const void* weight_hr,
                             void* prepared) {
  with_dtype(dtype, [&](auto real) {
    prepare_weights<decltype(real)>(cell, input_size, hidden_size, h_size, weight_ih, weight_hh, bias, weight_hr,
                                    prepared);
  });
}
// Returns the number of elements that jaxlstm_prepare_weights writes.
int64_t jaxlstm_prepared_size(Dtype dtype, Cell cell, int64_t input_size, int64_t hidden_size, int64_t h_size,
                              bool projected) {
  return with_dtype(dtype, [&](auto real) {
    return prepared_size<decltype(real)>(cell, input_size, hidden_size, h_size, projected);
  });
}
// See run_stack in stack.h.
bool jaxlstm_run_stack(Stack* stack, int64_t time, const void* x, const void* valid, void* y) {
  return with_dtype(Dtype(stack->dtype), [&](auto real) {
    typedef decltype(real) T;
    return run_stack<T>(*stack, time, static_cast<const T*>(x), static_cast<const uint8_t*>(valid), static_cast<T*>(y));
  });
}
}
#pragma GCC visibility pop

}  // namespace jaxlstm
