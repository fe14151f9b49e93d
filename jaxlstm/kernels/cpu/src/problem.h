// What one direction of one layer reads and writes: the contract between the FFI and the kernels.
// Arrays are dense and row-major. T = time, B = batch, I = input_size, H = hidden_size, P = h_size.
#pragma once
#include <cstddef>
#include <cstdint>

#include "barrier.h"

namespace jaxlstm {

template <class T>
struct Forward {
  long time, batch, input_size, hidden_size, h_size;
  bool reverse;
  const T* x;            // [T, B, I]
  const T* weight_ih;    // [4H, I], gates in the order i, f, g, o
  const T* weight_hh;    // [4H, P]
  const T* bias;         // [4H], or null
  const T* weight_hr;    // [P, H], or null without a projection
  const T *h_0, *c_0;    // [B, P], [B, H]
  const uint8_t* valid;  // [T, B], or null if every step is
  T* y;                  // [T, B, P]
  T *h_n, *c_n;          // [B, P], [B, H]
  // The derivative of each step, see jaxlstm/cell.py; null unless it is asked for.
  T* by_gates;  // [T, B, 4H]
  T* f;         // [T, B, H]
  T* m_by_c;    // [T, B, H]
  T* m;         // [T, B, H]: o tanh(c'), or null without a projection
  // Weights and bias as prepare_weights packed them, or null. With them no others are read: of weight_hr it matters
  // only whether it is there.
  const T* prepared;
};

// From the gradients of outputs and last state to those of the gates before their nonlinearity.
template <class T>
struct Backward {
  long time, batch, hidden_size, h_size;
  bool reverse;                           // of the forward pass
  const T* weight_hh;                     // [4H, P]
  const T* weight_hr;                     // [P, H], or null
  const T *by_gates, *f, *m_by_c;         // as above
  const uint8_t* valid;                   // [T, B], or null
  const T *grad_y, *grad_h_n, *grad_c_n;  // [T, B, P], [B, P], [B, H]
  T* grad_gates;                          // [T, B, 4H]; may be by_gates itself
  T* grad_projected;                      // [T, B, P]: of W_hr m, or null without a projection
  T *grad_h_0, *grad_c_0;                 // [B, P], [B, H]
};

// From the gradients of the gates to those of what they were made of. Results that are null are not wanted.
template <class T>
struct Gradients {
  long time, batch, input_size, hidden_size, h_size;
  bool reverse;                        // of the forward pass
  int threads;                         // how many will come at most
  const T* grad_gates;                 // [T, B, 4H]
  const T* x;                          // [T, B, I]
  const T *y, *h_0;                    // [T, B, P], [B, P]
  const uint8_t* valid;                // [T, B], or null
  const T* weight_ih;                  // [4H, I]
  T* grad_x;                           // [T, B, I]
  T *grad_weight_ih, *grad_weight_hh;  // [4H, I], [4H, P]
  T* grad_bias;                        // [4H]
};

// `threads` callers run the same function at once, each with its own `thread`, sharing one barrier and one scratch of
// scratch_bytes(problem) that is aligned to 64 bytes.
template <class Problem>
struct Kernel {
  size_t (*scratch_bytes)(const Problem&);
  void (*run)(const Problem&, void* scratch, int thread, int threads, Barrier&);
};

template <class T>
struct KernelsOf {
  Kernel<Forward<T>> forward;
  Kernel<Backward<T>> backward;
  Kernel<Gradients<T>> gradients;
  size_t (*prepared_bytes)(const Forward<T>&);
  void (*prepare_weights)(const Forward<T>&, void* prepared);
};

// The kernels of one instruction set.
struct Kernels {
  const char* name;
  KernelsOf<float> of_float;
  KernelsOf<double> of_double;
  void (*activations)(const float* x, float* sigmoid, float* tanh, long n);

  template <class T>
  const KernelsOf<T>& of() const {
    if constexpr (sizeof(T) == 4) return of_float;
    else return of_double;
  }
};

}  // namespace jaxlstm
