// The arguments of the three passes over one direction of one layer, and the table of compiled passes: the contract
// between ffi.cc and the kernels.
//
// The forward pass runs over time. In training it also stores the derivative of each step, so the backward pass needs
// no nonlinearities. The backward pass runs back over time: it takes the gradients of the outputs and returns the
// gradients of the gates. From these, the gradients pass computes the gradients of weights, biases and inputs, in large
// products over all steps.
//
// Arrays are dense and row-major. T = time, B = batch, I = input_size, H = hidden_size, P = h_size. h_size is the size
// of h: proj_size with a projection, else hidden_size. The gates of an LSTM are in the order i, f, g, o.
//
// A GRU has no c and no projection. Its weights have the three blocks r, z, n. Its n takes W_ih x and W_hh h apart, so
// that a step has four gates, too: n of x, r, z, n of h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "half.h"
#include "wait.h"

namespace jaxlstm {

// The numbers are repeated in jaxlstm/layer/cell.py and gru_rnn.py.
enum class Cell : int64_t { kLstm, kGru };
// The number of blocks of H rows of the weights.
constexpr int blocks_of(Cell cell) { return cell == Cell::kGru ? 3 : 4; }

// In half precision T is the dtype of the weights, inputs and outputs, and of their gradients. Everything else is
// Wide<T>, that is float32: the state, the biases, the derivative, and the gradients of state, biases and gates.

// See jaxlstm/layer/cell.py for the equations. m = o tanh(c').
template <class T>
struct ForwardArguments {
  Cell cell;
  long time, batch, input_size, hidden_size, h_size;
  long y_stride;         // from one row of y to the next: P, or 2 P if the outputs of both directions lie side by side
  bool reverse;          // run from the last step to the first
  const T* x;            // [T, B, I]
  const T* weight_ih;    // [4H, I], of a GRU [3H, I]
  const T* weight_hh;    // [4H, P], of a GRU [3H, P]
  const Wide<T>* bias;   // [4H], of the gates, or null
  const T* weight_hr;    // [P, H], or null without a projection
  const Wide<T>*h_0, *c_0;  // [B, P], [B, H]; c_0 and c_n are null for a GRU
  const uint8_t* valid;  // [T, B], or null if all steps are valid; an invalid step keeps the state and outputs zeros
  T* y;                  // [T, B, P], with y_stride
  Wide<T>*h_n, *c_n;     // [B, P], [B, H]
  // The derivative of each step, or null in inference. With z for the gates before their nonlinearity:
  Wide<T>* by_gates;  // [T, B, 4H]: dc'/dz for i, f and g, and dm/dz for o with c' held fixed; for a GRU dh'/dz
  Wide<T>* f;         // [T, B, H]: dc'/dc; for a GRU dh'/dh with z held fixed
  Wide<T>* m_by_c;    // [T, B, H]: dm/dc'; null for a GRU
  T* m;               // [T, B, H], or null without a projection
  // Weights and bias as packed by prepare_weights, or null. If given, no other weights are read, and weight_hr only
  // needs to be non-null to indicate a projection. An instruction set that does not multiply T takes float32 weights.
  const void* prepared;
};

template <class T>
struct BackwardArguments {
  Cell cell;
  long time, batch, hidden_size, h_size;
  bool reverse;                           // as in the forward pass
  const T* weight_hh;                     // [4H, P], of a GRU [3H, P]
  const T* weight_hr;                     // [P, H], or null
  const Wide<T>*by_gates, *f, *m_by_c;    // from the forward pass
  const uint8_t* valid;                   // [T, B], or null
  const T* grad_y;                        // [T, B, P]
  const Wide<T>*grad_h_n, *grad_c_n;      // [B, P], [B, H]; grad_c_n and grad_c_0 are null for a GRU
  Wide<T>* grad_gates;                    // [T, B, 4H], of the gates before their nonlinearity; may alias by_gates
  T* grad_projected;                      // [T, B, P], of W_hr m, or null without a projection
  Wide<T>*grad_h_0, *grad_c_0;            // [B, P], [B, H]
};

// Of an LSTM. Results that are null are not computed.
template <class T>
struct GradientsArguments {
  long time, batch, input_size, hidden_size, h_size;
  bool reverse;                        // as in the forward pass
  int threads;                         // maximum number of threads
  const Wide<T>* grad_gates;           // [T, B, 4H]
  const T* x;                          // [T, B, I]
  const T *y, *h_0;                    // [T, B, P], [B, P]
  const uint8_t* valid;                // [T, B], or null
  const T* weight_ih;                  // [4H, I]
  T* grad_x;                           // [T, B, I]
  T *grad_weight_ih, *grad_weight_hh;  // [4H, I], [4H, P]
  Wide<T>* grad_bias;                  // [4H]
};

// The activation after a convolution. The numbers are repeated in jaxlstm/kernels/cpu/convolution.py.
enum class Activation : int64_t { kNone, kRelu, kRelu6, kHardswish, kSilu };

// A convolution in two dimensions with the channels last: x [batch, height, width, channels] ->
// y [batch, out_height, out_width, outputs]. Padding at the end follows from the sizes.
struct ConvolutionArguments {
  long batch, height, width, channels, out_height, out_width, outputs;
  long kernel[2], stride[2], pad[2], dilation[2], groups;
  Activation activation;
  const float *x, *weights, *bias;  // weights as packed by jaxlstm/kernels/cpu/convolution.py
  const float* gate;      // [batch, channels], factors of x, or null; for one group
  const float* residual;  // as y, added before the activation, or null
  float* gated;           // room for the weights of each image, if there is a gate
  float* y;
};

// A norm: x [batch, outer, channels, inner] -> y, where outer or inner is 1. A group of adjacent channels has a mean
// and a variance.
struct NormArguments {
  long batch, outer, channels, inner, groups;
  float eps;
  const float *x, *weight, *bias;  // weight and bias [channels], or null
  float* room;                     // room_floats() for each thread
  float* y;

  // The number of parts of the outer positions.
  long slots() const { return outer < 16 ? outer : 16; }
  long room_floats() const { return (2 * slots() + 2) * channels; }
};

// One compiled pass. All threads of a call run it at the same time, each with its own index `thread`. They share one
// barrier, and scratch memory of scratch_bytes(arguments) bytes that is aligned to 64 bytes.
template <class Arguments>
struct Pass {
  size_t (*scratch_bytes)(const Arguments&);
  void (*run)(const Arguments&, void* scratch, int thread, int threads, Barrier&);
};

// The passes for one dtype.
template <class T>
struct Passes {
  Pass<ForwardArguments<T>> forward;
  Pass<BackwardArguments<T>> backward;
  Pass<GradientsArguments<T>> gradients;
  // Null for a dtype whose weights the forward pass does not multiply as they are.
  size_t (*prepared_bytes)(const ForwardArguments<T>&);
  void (*prepare_weights)(const ForwardArguments<T>&, void* prepared);
  // The sigmoid and tanh of n numbers, as in a cell.
  void (*activations)(const Wide<T>* x, Wide<T>* sigmoids, Wide<T>* tanhs, long n);
  // A thread must have this many multiplications per step, or synchronization costs more than the thread saves.
  double multiplications_per_thread;
};

// Everything that is compiled for one instruction set.
struct InstructionSet {
  const char* name;
  const Passes<float>& float_passes;
  const Passes<double>& double_passes;
  const Passes<Bfloat16>& bfloat16_passes;
  const Passes<Float16>& float16_passes;
  // Each computes a thread's share.
  void (*convolve)(const ConvolutionArguments&, int thread, int threads, Barrier&);
  void (*normalize)(const NormArguments&, int thread, int threads, Barrier&);
  long float_lanes;

  template <class T>
  const auto& passes() const {
    if constexpr (std::is_same_v<T, float>) return float_passes;
    else if constexpr (std::is_same_v<T, double>) return double_passes;
    else if constexpr (std::is_same_v<T, Bfloat16>) return bfloat16_passes;
    else return float16_passes;
  }
  // Returns true if an LSTM's weights of type T are multiplied as they are, and not widened to float32.
  template <class T>
  bool multiplies() const { return passes<T>().prepared_bytes != nullptr; }
};

}  // namespace jaxlstm
