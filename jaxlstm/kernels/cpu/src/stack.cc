// The entries from Python for a stack of layers, without XLA.
#include "stack.h"

namespace jaxlstm {

#pragma GCC visibility push(default)
extern "C" {
// Packs weights and biases for jaxlstm_run_stack. Absent arrays are null. In half precision the bias is float32.
void jaxlstm_prepare_weights(Dtype dtype, int64_t input_size, int64_t hidden_size, int64_t h_size,
                             const void* weight_ih, const void* weight_hh, const void* bias, const void* weight_hr,
                             void* prepared) {
  with_dtype(dtype, [&](auto real) {
    prepare_weights<decltype(real)>(input_size, hidden_size, h_size, weight_ih, weight_hh, bias, weight_hr, prepared);
  });
}
// Returns the number of elements that jaxlstm_prepare_weights writes.
int64_t jaxlstm_prepared_size(Dtype dtype, int64_t input_size, int64_t hidden_size, int64_t h_size, bool projected) {
  return with_dtype(dtype, [&](auto real) {
    return prepared_size<decltype(real)>(input_size, hidden_size, h_size, projected);
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
