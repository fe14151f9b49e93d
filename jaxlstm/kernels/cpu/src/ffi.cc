// The handlers that XLA calls: each checks its buffers and runs a pass on the threads of XLA's pool.
#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#include "buffers.h"
#include "layer.h"
#include "team.h"

namespace jaxlstm {
namespace {

inline ffi::Error no_memory() {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jaxlstm: no memory for packed weights");
}

template <class Work>
void run_on(ffi::ThreadPool& pool, const Call& call, const Work& work) {
  run_as_team(call.threads, call.seconds, [&](auto task) { pool.Schedule(std::move(task)); }, work);
}

template <class Arguments>
ffi::Error run(const Arguments& p, const Pass<Arguments>& pass, const Call& call, ffi::ThreadPool& pool) {
  Scratch scratch(pass.scratch_bytes(p));
  if (!scratch.data()) return no_memory();
  run_on(pool, call, [&](int thread, int size, Barrier& barrier) {
    pass.run(p, scratch.data(), thread, size, barrier);
  });
  return ffi::Error::Success();
}
// Runs the pass unless the batch is empty.
template <class Arguments>
ffi::Error run(const Arguments& p, const Pass<Arguments>& pass, int64_t requested_threads, ffi::ThreadPool& pool) {
  if (p.batch == 0) return ffi::Error::Success();
  return run(p, pass, Call(cost_of(p), requested_threads, pool.num_threads()), pool);
}

// The initial and the last state, in the dtype of a call. A pass takes them in Wide<Real>, and the biases as their sum
// in Wide<Real>. The library converts them, because XLA runs a program that only calls the kernel on the calling
// thread, and a program with conversions or sums on another one.
template <class Real>
class State {
 public:
  const Wide<Real> *h, *c;
  Wide<Real> *h_end, *c_end;

  State(const Real* h_0, const Real* c_0, Real* h_n, Real* c_n, long h_count, long c_count) {
    if constexpr (kIsHalf<Real>) {
      h_n_ = h_n, c_n_ = c_n, h_count_ = h_count, c_count_ = c_count;
      wide_.resize(2 * (h_count + c_count));
      float* const next = wide_.data();
      h = next, c = next + h_count, h_end = next + h_count + c_count, c_end = h_end + h_count;
      widen(h_0, next, h_count), widen(c_0, next + h_count, c_count);
    } else {
      h = h_0, c = c_0, h_end = h_n, c_end = c_n;
    }
  }
  // Converts the results back.
  void finish() const {
    if constexpr (kIsHalf<Real>) narrow(h_end, h_n_, h_count_), narrow(c_end, c_n_, c_count_);
  }

 private:
  Real *h_n_, *c_n_;
  long h_count_, c_count_;
  std::vector<float> wide_;
};

// The arrays of one direction of a forward pass.
struct Weights {
  Buffer &ih, &hh, &bias_ih, &bias_hh, &hr;
};
struct States {
  Buffer &h_0, &c_0;
  Result &h_n, &c_n;
};

// The arguments of a forward pass, and the data that they point to. Sizes are named as in arguments.h.
template <class Real>
struct ForwardDirection {
  ForwardArguments<Real> p{};
  std::vector<Wide<Real>> bias;
  std::optional<State<Real>> state;

  ForwardDirection(const ForwardDirection&) = delete;
  ForwardDirection(BufferChecker& checker, const Buffer& x, const Weights& weights, const States& states,
                   const Buffer& valid, bool reverse, int64_t cell) {
    const auto [T, B, I] = checker.sizes<3>("x", x);
    const bool has_c = checker.check_cell(cell, {&weights.hr, &states.c_0, &*states.c_n});
    const long P = checker.sizes<2>("h_0", states.h_0)[1];
    const long H = has_c ? checker.sizes<2>("c_0", states.c_0)[1] : P;
    p = {Cell(cell), T, B, I, H, P, P, reverse};
    checker.require_nonzero_sizes(T, H, P);
    p.x = checker.input<Real>("x", x, {T, B, I});
    const long gates = blocks_of(p.cell) * H;
    p.weight_ih = checker.input<Real>("weight_ih", weights.ih, {gates, I});
    p.weight_hh = checker.input<Real>("weight_hh", weights.hh, {gates, P});
    const Real* const b_ih = checker.optional_input<Real>("bias_ih", weights.bias_ih, {gates});
    const Real* const b_hh = checker.optional_input<Real>("bias_hh", weights.bias_hh, {gates});
    if (!b_ih != !b_hh) checker.fail("bias_ih and bias_hh must be given together");
    p.weight_hr = checker.optional_input<Real>("weight_hr", weights.hr, {P, H});
    if (!p.weight_hr && P != H) checker.fail("h_0 must be as wide as c_0 without weight_hr");
    p.valid = checker.optional_input<uint8_t>("valid", valid, {T, B});
    const Real* const h_0 = checker.input<Real>("h_0", states.h_0, {B, P});
    const Real* const c_0 = has_c ? checker.input<Real>("c_0", states.c_0, {B, H}) : nullptr;
    Real* const h_n = checker.output<Real>("h_n", states.h_n, {B, P});
    Real* const c_n = has_c ? checker.output<Real>("c_n", states.c_n, {B, H}) : nullptr;
    if (checker.failed()) return;
    bias.resize(b_ih ? 4 * H : 0);
    for (long i = 0; i < long(bias.size()); i++)
      if (has_c) bias[i] = widen(b_ih[i]) + widen(b_hh[i]);
      else bias[i] = (i < 3 * H ? widen(b_ih[(i + 2 * H) % (3 * H)]) : 0) + (i < H ? 0 : widen(b_hh[i - H]));
    if (!bias.empty()) p.bias = bias.data();
    state.emplace(h_0, c_0, h_n, c_n, B * P, has_c ? B * H : 0);
    p.h_0 = state->h, p.c_0 = state->c, p.h_n = state->h_end, p.c_n = state->c_end;
  }
};

// The derivative (by_gates, f and m_by_c) is absent in inference.
template <class Real>
ffi::Error forward(ffi::ThreadPool& pool, Buffer& x, Buffer& weight_ih, Buffer& weight_hh, Buffer& bias_ih,
                   Buffer& bias_hh, Buffer& weight_hr, Buffer& h_0, Buffer& c_0, Buffer& valid, Result& y, Result& h_n,
                   Result& c_n, Result& by_gates, Result& f, Result& m_by_c, Result& m, bool reverse,
                   int64_t threads, int64_t cell) {
  BufferChecker checker(x);
  ForwardDirection<Real> direction(checker, x, {weight_ih, weight_hh, bias_ih, bias_hh, weight_hr},
                                   {h_0, c_0, h_n, c_n}, valid, reverse, cell);
  ForwardArguments<Real>& p = direction.p;
  const long T = p.time, B = p.batch, H = p.hidden_size;
  p.y = checker.output<Real>("y", y, {T, B, p.h_size});
  p.by_gates = checker.optional_output<Wide<Real>>("by_gates", by_gates, {T, B, 4 * H});
  p.f = checker.optional_output<Wide<Real>>("f", f, {T, B, H});
  p.m_by_c = checker.optional_output<Wide<Real>>("m_by_c", m_by_c, {T, B, H});
  const bool has_m_by_c = checker.check_cell(cell, {&*m_by_c, &*m}) ? p.m_by_c : p.f;
  if (!p.by_gates != !p.f || !p.f != !has_m_by_c) checker.fail("by_gates, f and m_by_c must be given together");
  p.m = checker.optional_output<Real>("m", m, {T, B, H});
  if (checker.failed()) return checker.error();
  const ffi::Error error = run(p, active_instruction_set().passes<Real>().forward, threads, pool);
  direction.state->finish();
  return error;
}

// Runs a layer unless the batch is empty.
template <class Real>
ffi::Error run_layer(const LayerPasses<Real>& layer, int64_t threads, double min_seconds, ffi::ThreadPool& pool) {
  if (layer.passes->batch == 0) return ffi::Error::Success();
  Scratch scratch(layer.directions * layer.scratch_bytes());
  if (!scratch.data()) return no_memory();
  const Call call(layer.cost(), threads, pool.num_threads(), min_seconds);
  Halves halves;
  run_on(pool, call, [&](int thread, int size, Barrier& barrier) {
    if (layer.directions == 2 && size > 1) halves.make(thread, size, barrier);
    layer.run(static_cast<char*>(scratch.data()), thread, size, barrier, halves);
  });
  return ffi::Error::Success();
}

// Both directions of a layer in inference. y is [T, B, 2 P].
template <class Real>
ffi::Error forward_both(ffi::ThreadPool& pool, Buffer& x, Buffer& weight_ih, Buffer& weight_hh, Buffer& bias_ih,
                        Buffer& bias_hh, Buffer& weight_hr, Buffer& weight_ih_2, Buffer& weight_hh_2,
                        Buffer& bias_ih_2, Buffer& bias_hh_2, Buffer& weight_hr_2, Buffer& h_0, Buffer& c_0,
                        Buffer& h_0_2, Buffer& c_0_2, Buffer& valid, Result& y, Result& h_n, Result& c_n,
                        Result& h_n_2, Result& c_n_2, bool, int64_t threads, int64_t cell) {
  BufferChecker checker(x);
  const ForwardDirection<Real> directions[2] = {
      {checker, x, {weight_ih, weight_hh, bias_ih, bias_hh, weight_hr}, {h_0, c_0, h_n, c_n}, valid, false,
       cell},
      {checker, x, {weight_ih_2, weight_hh_2, bias_ih_2, bias_hh_2, weight_hr_2}, {h_0_2, c_0_2, h_n_2, c_n_2}, valid,
       true, cell}};
  ForwardArguments<Real> passes[2] = {directions[0].p, directions[1].p};
  const long P = passes[0].h_size;
  if (passes[1].h_size != P || passes[1].hidden_size != passes[0].hidden_size)
    checker.fail("both directions must have the same sizes");
  Real* const outputs = checker.output<Real>("y", y, {passes[0].time, passes[0].batch, 2 * P});
  if (checker.failed()) return checker.error();
  for (long d = 0; d < 2; d++) passes[d].y_stride = 2 * P, passes[d].y = outputs + d * P;
  const ffi::Error error = run_layer(LayerPasses<Real>{passes, 2}, threads, kMinSecondsForHelpers, pool);
  for (const auto& direction : directions) direction.state->finish();
  return error;
}

template <class Real>
ffi::Error backward(ffi::ThreadPool& pool, Buffer& weight_hh, Buffer& weight_hr, Buffer& by_gates, Buffer& f,
                    Buffer& m_by_c, Buffer& valid, Buffer& grad_y, Buffer& grad_h_n, Buffer& grad_c_n,
                    Result& grad_gates, Result& grad_projected, Result& grad_h_0, Result& grad_c_0, bool reverse,
                    int64_t threads, int64_t cell) {
  BufferChecker checker(grad_y);
  const auto [T, B, P] = checker.sizes<3>("grad_y", grad_y);
  const bool has_c = checker.check_cell(cell, {&weight_hr, &m_by_c, &grad_c_n, &*grad_projected, &*grad_c_0});
  const long H = has_c ? checker.sizes<2>("grad_c_n", grad_c_n)[1] : P;
  BackwardArguments<Real> p{Cell(cell), T, B, H, P, reverse};
  checker.require_nonzero_sizes(T, H, P);
  p.grad_y = checker.input<Real>("grad_y", grad_y, {T, B, P});
  p.weight_hh = checker.input<Real>("weight_hh", weight_hh, {blocks_of(p.cell) * H, P});
  p.weight_hr = checker.optional_input<Real>("weight_hr", weight_hr, {P, H});
  if (!p.weight_hr && P != H) checker.fail("grad_y must be as wide as grad_c_n without weight_hr");
  p.by_gates = checker.input<Wide<Real>>("by_gates", by_gates, {T, B, 4 * H});
  p.f = checker.input<Wide<Real>>("f", f, {T, B, H});
  if (has_c) p.m_by_c = checker.input<Wide<Real>>("m_by_c", m_by_c, {T, B, H});
  p.valid = checker.optional_input<uint8_t>("valid", valid, {T, B});
  p.grad_gates = checker.output<Wide<Real>>("grad_gates", grad_gates, {T, B, 4 * H});
  if (p.weight_hr) p.grad_projected = checker.output<Real>("grad_projected", grad_projected, {T, B, P});
  const Real* const h_end = checker.input<Real>("grad_h_n", grad_h_n, {B, P});
  const Real* const c_end = has_c ? checker.input<Real>("grad_c_n", grad_c_n, {B, H}) : nullptr;
  Real* const h_begin = checker.output<Real>("grad_h_0", grad_h_0, {B, P});
  Real* const c_begin = has_c ? checker.output<Real>("grad_c_0", grad_c_0, {B, H}) : nullptr;
  if (checker.failed()) return checker.error();
  const State<Real> state(h_end, c_end, h_begin, c_begin, B * P, has_c ? B * H : 0);
  p.grad_h_n = state.h, p.grad_c_n = state.c, p.grad_h_0 = state.h_end, p.grad_c_0 = state.c_end;
  const ffi::Error error = run(p, active_instruction_set().passes<Real>().backward, threads, pool);
  state.finish();
  return error;
}

template <class Real>
ffi::Error gradients(ffi::ThreadPool& pool, Buffer& grad_gates, Buffer& x, Buffer& y, Buffer& h_0, Buffer& valid,
                     Buffer& weight_ih, Result& grad_x, Result& grad_weight_ih, Result& grad_weight_hh,
                     Result& grad_bias, bool reverse, int64_t threads) {
  BufferChecker checker(x);
  const auto [T, B, I] = checker.sizes<3>("x", x);
  const long P = checker.sizes<2>("h_0", h_0)[1], H = checker.sizes<3>("grad_gates", grad_gates)[2] / 4;
  GradientsArguments<Real> p{T, B, I, H, P, reverse};
  checker.require_nonzero_sizes(T, H, P);
  p.x = checker.input<Real>("x", x, {T, B, I});
  p.grad_gates = checker.input<Wide<Real>>("grad_gates", grad_gates, {T, B, 4 * H});
  p.y = checker.input<Real>("y", y, {T, B, P});
  p.h_0 = checker.input<Real>("h_0", h_0, {B, P});
  p.valid = checker.optional_input<uint8_t>("valid", valid, {T, B});
  p.weight_ih = checker.input<Real>("weight_ih", weight_ih, {4 * H, I});
  p.grad_x = checker.optional_output<Real>("grad_x", grad_x, {T, B, I});
  p.grad_weight_ih = checker.optional_output<Real>("grad_weight_ih", grad_weight_ih, {4 * H, I});
  p.grad_weight_hh = checker.optional_output<Real>("grad_weight_hh", grad_weight_hh, {4 * H, P});
  p.grad_bias = checker.optional_output<Wide<Real>>("grad_bias", grad_bias, {4 * H});
  if (checker.failed()) return checker.error();
  if (B == 0) {
    for (Result* sum : {&grad_weight_ih, &grad_weight_hh, &grad_bias})
      std::memset((*sum)->untyped_data(), 0, (*sum)->size_bytes());
    return ffi::Error::Success();
  }
  const Call call(cost_of(p), threads, pool.num_threads());
  p.threads = call.threads;
  return run(p, active_instruction_set().passes<Real>().gradients, call, pool);
}

// The operators of a program follow each other closely, so the helpers are often awake and come in a microsecond.
constexpr double kMinSecondsInProgram = 10e-6;
// A depthwise convolution loads an element for each product.
constexpr double kDepthwiseShare = 0.25;
// Other threads have just written the images, in part to the caches of other cores.
constexpr double kImageBytesPerSecond = 20e9;

// A layer, or one step of a cell, without projection. `prepared` is [directions, ...], as packed by
// jaxlstm_prepare_weights. y is [T, B, directions H].
ffi::Error layer(ffi::ThreadPool pool, Buffer x, Buffer prepared, Buffer h_0, Buffer c_0, Buffer valid, Result y,
                 Result h_n, Result c_n, bool, int64_t threads, int64_t cell) {
  BufferChecker checker(x);
  const bool has_c = checker.check_cell(cell, {&c_0, &*c_n});
  const auto [T, B, I] = checker.sizes<3>("x", x);
  const auto [D, state_B, H] = checker.sizes<3>("h_0", h_0);
  checker.require_nonzero_sizes(T, H, H);
  if (D < 1 || D > 2) checker.fail("h_0 must have one or two directions");
  ForwardArguments<float> passes[2] = {{Cell(cell), T, B, I, H, H, D * H, false},
                                       {Cell(cell), T, B, I, H, H, D * H, true}};
  const auto prepared_bytes = active_instruction_set().passes<float>().prepared_bytes;
  const int64_t size = checker.failed() ? 0 : int64_t(prepared_bytes(passes[0]) / sizeof(float));
  const float* const weights = checker.input<float>("prepared", prepared, {D, size});
  float* const outputs = checker.output<float>("y", y, {T, B, D * H});
  for (long d = 0; d < std::min(D, 2L); d++) {
    ForwardArguments<float>& p = passes[d];
    p.x = checker.input<float>("x", x, {T, B, I});
    p.prepared = weights + d * size;
    p.valid = checker.optional_input<uint8_t>("valid", valid, {T, B});
    p.h_0 = checker.input<float>("h_0", h_0, {D, B, H}) + d * B * H;
    if (has_c) p.c_0 = checker.input<float>("c_0", c_0, {D, B, H}) + d * B * H;
    p.y = outputs + d * H;
    p.h_n = checker.output<float>("h_n", h_n, {D, B, H}) + d * B * H;
    if (has_c) p.c_n = checker.output<float>("c_n", c_n, {D, B, H}) + d * B * H;
  }
  if (checker.failed()) return checker.error();
  return run_layer(LayerPasses<float>{passes, int(D)}, threads, kMinSecondsInProgram, pool);
}

// geometry: kernel, stride, padding before the first element and dilation, each for both axes; groups, activation.
ffi::Error convolve(ffi::ThreadPool pool, Buffer x, Buffer weights, Buffer bias, Buffer gate, Buffer residual, Result y,
                    bool, int64_t threads, ffi::Span<const int64_t> geometry) {
  BufferChecker checker(x);
  ConvolutionArguments p{};
  const auto [N, H, W, C] = checker.sizes<4>("x", x);
  const auto [out_N, out_H, out_W, O] = checker.sizes<4>("y", *y);
  p.batch = N, p.height = H, p.width = W, p.channels = C, p.out_height = out_H, p.out_width = out_W, p.outputs = O;
  if (geometry.size() != 10) checker.fail("geometry must have 10 numbers");
  else {
    for (long axis = 0; axis < 2; axis++)
      p.kernel[axis] = geometry[axis], p.stride[axis] = geometry[2 + axis], p.pad[axis] = geometry[4 + axis],
      p.dilation[axis] = geometry[6 + axis];
    p.groups = geometry[8], p.activation = Activation(geometry[9]);
  }
  const long L = active_instruction_set().float_lanes, kernel = p.kernel[0] * p.kernel[1];
  if (out_N != N || kernel < 1 || p.groups < 1 || C % p.groups || O % p.groups) checker.fail("sizes do not fit");
  if (*std::min_element(p.stride, p.stride + 2) < 1 || *std::min_element(p.dilation, p.dilation + 2) < 1)
    checker.fail("stride and dilation must be at least 1");
  if (checker.failed()) return checker.error();
  const bool depthwise = p.groups == C && p.groups == O;
  const long columns = depthwise ? 1 : (O / p.groups + L - 1) / L * L;
  p.x = checker.input<float>("x", x, {N, H, W, C});
  p.weights = checker.input<float>("weights", weights, {p.groups * columns * kernel * (C / p.groups)});
  p.bias = checker.input<float>("bias", bias, {O});
  p.gate = checker.optional_input<float>("gate", gate, {N, C});
  p.residual = checker.optional_input<float>("residual", residual, {N, out_H, out_W, O});
  p.y = checker.output<float>("y", y, {N, out_H, out_W, O});
  if (p.gate && p.groups != 1) checker.fail("gate requires one group");
  if (checker.failed()) return checker.error();
  Scratch gated(p.gate ? N * weights.size_bytes() : 0);
  if (p.gate && !gated.data()) return no_memory();
  p.gated = static_cast<float*>(gated.data());
  const double products = double(N) * out_H * out_W * O * kernel * (C / p.groups);
  const double multiplying = products / (kMultiplicationsPerSecond<float> * (depthwise ? kDepthwiseShare : 1));
  const double seconds = std::max(multiplying, x.size_bytes() / kImageBytesPerSecond);
  const Call call({seconds, 1e9}, threads, pool.num_threads(), kMinSecondsInProgram);
  run_on(pool, call, [&](int thread, int size, Barrier& barrier) {
    active_instruction_set().convolve(p, thread, size, barrier);
  });
  return ffi::Error::Success();
}

ffi::Error normalize(ffi::ThreadPool pool, Buffer x, Buffer weight, Buffer bias, Result y, bool, int64_t threads,
                     int64_t groups, double eps) {
  BufferChecker checker(x);
  NormArguments p{};
  const auto [N, outer, C, inner] = checker.sizes<4>("x", x);
  p.batch = N, p.outer = outer, p.channels = C, p.inner = inner, p.groups = groups, p.eps = float(eps);
  if (groups < 1 || C % groups || std::min({outer, C, inner}) < 1 || (outer > 1 && inner > 1))
    checker.fail("sizes do not fit");
  p.x = checker.input<float>("x", x, {N, outer, C, inner});
  p.weight = checker.optional_input<float>("weight", weight, {C});
  p.bias = checker.optional_input<float>("bias", bias, {C});
  p.y = checker.output<float>("y", y, {N, outer, C, inner});
  if (checker.failed()) return checker.error();
  const Call call({2 * x.size_bytes() / kImageBytesPerSecond, 1e9}, threads, pool.num_threads(), kMinSecondsInProgram);
  Scratch room(call.threads * p.room_floats() * sizeof(float));
  if (!room.data()) return no_memory();
  p.room = static_cast<float*>(room.data());
  run_on(pool, call, [&](int thread, int size, Barrier& barrier) {
    active_instruction_set().normalize(p, thread, size, barrier);
  });
  return ffi::Error::Success();
}

// Returns f(T()) for the type T of a buffer, against which a handler checks the others. Other dtypes are errors too.
template <class F>
ffi::Error by_dtype(const Buffer& buffer, F&& f) {
  switch (buffer.element_type()) {
    case ffi::F64: return f(double());
    case ffi::BF16: return f(Bfloat16());
    case ffi::F16: return f(Float16());
    default: return f(float());
  }
}
// A handler that takes the dtype of its first buffer.
#define JAXLSTM_BY_DTYPE(function)                                                                           \
  [](ffi::ThreadPool pool, Buffer first, auto... rest) {                                                     \
    return by_dtype(first, [&](auto real) { return function<decltype(real)>(pool, first, rest...); });       \
  }
// The gradients of the gates are float32 in half precision, so x determines the dtype.
constexpr auto gradients_by_dtype = [](ffi::ThreadPool pool, Buffer grad_gates, Buffer x, auto... rest) {
  return by_dtype(x, [&](auto real) { return gradients<decltype(real)>(pool, grad_gates, x, rest...); });
};

// Returns the signature of a handler: its buffers and the attributes that all handlers share.
template <int kInputs, int kOutputs, class Binding>
auto with_buffers(Binding binding) {
  if constexpr (kInputs > 0) return with_buffers<kInputs - 1, kOutputs>(std::move(binding).template Arg<Buffer>());
  else if constexpr (kOutputs > 0) return with_buffers<0, kOutputs - 1>(std::move(binding).template Ret<Buffer>());
  else return std::move(binding).template Attr<bool>("reverse").template Attr<int64_t>("threads");
}
template <int kInputs, int kOutputs>
auto signature() {
  return with_buffers<kInputs, kOutputs>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>());
}
template <int kInputs, int kOutputs>
auto cell_signature() {
  return signature<kInputs, kOutputs>().template Attr<int64_t>("cell");
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_forward, JAXLSTM_BY_DTYPE(forward), (cell_signature<9, 7>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_forward_both, JAXLSTM_BY_DTYPE(forward_both), (cell_signature<16, 5>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_backward, JAXLSTM_BY_DTYPE(backward), (cell_signature<9, 4>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_gradients, gradients_by_dtype, (signature<6, 4>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_layer, layer, (cell_signature<5, 3>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_convolve, convolve,
                              (signature<5, 1>().Attr<ffi::Span<const int64_t>>("geometry")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_normalize, normalize,
                              (signature<3, 1>().Attr<int64_t>("groups").Attr<double>("eps")));
}
#pragma GCC visibility pop

}  // namespace jaxlstm
