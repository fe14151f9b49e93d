// Weights that are packed once, for many calls.
#pragma once
#include "instruction_sets.h"

namespace jaxlstm {

// How many elements they take. Weights of a projection are given by their being there alone.
template <class T>
int64_t prepared_size(int64_t input_size, int64_t hidden_size, int64_t h_size, bool projected) {
  Forward<T> p{};
  const T there{};
  p.input_size = input_size, p.hidden_size = hidden_size, p.h_size = h_size;
  p.weight_hr = projected ? &there : nullptr;
  return int64_t(kernels().of<T>().prepared_bytes(p) / sizeof(T));
}

template <class T>
void prepare_weights(int64_t input_size, int64_t hidden_size, int64_t h_size, const void* weight_ih,
                     const void* weight_hh, const void* bias, const void* weight_hr, void* prepared) {
  Forward<T> p{};
  p.input_size = input_size, p.hidden_size = hidden_size, p.h_size = h_size;
  p.weight_ih = static_cast<const T*>(weight_ih), p.weight_hh = static_cast<const T*>(weight_hh);
  p.bias = static_cast<const T*>(bias), p.weight_hr = static_cast<const T*>(weight_hr);
  kernels().of<T>().prepare_weights(p, prepared);
}

}  // namespace jaxlstm
