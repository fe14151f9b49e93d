// Weights and biases that are packed once for many calls.
#pragma once
#include "instruction_sets.h"

namespace jaxlstm {

// Returns the number of elements that the packed weights take.
template <class T>
int64_t prepared_size(int64_t input_size, int64_t hidden_size, int64_t h_size, bool projected) {
  ForwardArguments<T> p{};
  const T placeholder{};
  p.input_size = input_size, p.hidden_size = hidden_size, p.h_size = h_size;
  p.weight_hr = projected ? &placeholder : nullptr;
  return int64_t(active_instruction_set().passes<T>().prepared_bytes(p) / sizeof(T));
}

template <class T>
void prepare_weights(int64_t input_size, int64_t hidden_size, int64_t h_size, const void* weight_ih,
                     const void* weight_hh, const void* bias, const void* weight_hr, void* prepared) {
  ForwardArguments<T> p{};
  p.input_size = input_size, p.hidden_size = hidden_size, p.h_size = h_size;
  p.weight_ih = static_cast<const T*>(weight_ih), p.weight_hh = static_cast<const T*>(weight_hh);
  p.bias = static_cast<const Wide<T>*>(bias), p.weight_hr = static_cast<const T*>(weight_hr);
  active_instruction_set().passes<T>().prepare_weights(p, prepared);
}

}  // namespace jaxlstm
