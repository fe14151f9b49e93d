// The entry from Python for a stack of layers, without XLA.
#include "stack.h"

namespace jaxlstm {

#pragma GCC visibility push(default)
extern "C" {
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
