// The dtypes as numbers, in calls from Python.
#pragma once
#include "half.h"

namespace jaxlstm {

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

}  // namespace jaxlstm
