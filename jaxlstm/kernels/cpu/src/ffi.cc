// The door to XLA: checks every shape and dtype, picks the instruction set, and runs a kernel on XLA's threads.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "instruction_sets.h"
#include "memory.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace jaxlstm {

namespace {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

std::atomic<const Kernels*> chosen{nullptr};

const Kernels& kernels() {
  const Kernels* found = chosen.load();
  if (found) return *found;
  for (const Kernels* each : kAllKernels)
    if (!found && runs_here(*each)) found = each;
  chosen.store(found);
  return *found;
}

// How many threads one call is worth: below this many multiplications a step, meeting costs more than it saves, and so
// does calling helpers for less than this time.
constexpr double kMultiplicationsPerThread = 40e3, kWorthHelpers = 200e-6;
// With few rows it is the reading of weights that takes time, from the second cache or beyond.
constexpr double kMultiplicationsPerSecond = 100e9;
double seconds_to_read(double bytes) { return bytes / (bytes <= (1 << 20) ? 120e9 : 25e9); }

// How long a call is: all of its multiplications, those between two meetings of its threads, and the time that it
// takes to read the weights as often as it does.
struct Effort {
  double all, step, reading;

  double seconds() const { return std::max(all / kMultiplicationsPerSecond, reading); }
};

// Calls at the same time share the pool's threads: those that run at this moment, or those that were said to come.
std::atomic<int> running{0}, announced{0};

// One of the calls that run, for as long as it lives, and its part of the threads: `wanted`, or with 0 as many as it
// is worth.
class Call {
 public:
  Call(const Effort& effort, int64_t wanted, ffi::ThreadPool& pool) : pool(pool), seconds(effort.seconds()) {
    const int calls = std::max(running.fetch_add(1) + 1, announced.load());
    if (wanted <= 0) wanted = seconds < kWorthHelpers ? 1 : pool.num_threads() / calls;
    threads = int(std::max<int64_t>(1, std::min<int64_t>(wanted, int64_t(effort.step / kMultiplicationsPerThread))));
  }
  ~Call() { running.fetch_sub(1); }
  Call(const Call&) = delete;

  ffi::ThreadPool& pool;
  double seconds;
  int threads;
};

std::string text(ffi::Span<const int64_t> dimensions) {
  std::string out = "(";
  for (int64_t d : dimensions) out += std::to_string(d) + ",";
  return out + ")";
}

// Checks arrays against one dtype and their shapes; keeps the first complaint. An axis of 0 elements alone stands
// for an array that is left out.
class Checker {
 public:
  explicit Checker(ffi::DataType dtype) : dtype_(dtype) {
    if (dtype != ffi::F32 && dtype != ffi::F64) complain("inputs must be float32 or float64");
  }
  void check(const char* name, const Buffer& array, std::initializer_list<int64_t> shape) {
    check(name, array, shape, dtype_);
  }
  void check(const char* name, const Buffer& array, std::initializer_list<int64_t> shape, ffi::DataType dtype) {
    const auto dimensions = array.dimensions();
    if (array.element_type() != dtype) complain(std::string(name) + " has the wrong dtype");
    if (!std::equal(dimensions.begin(), dimensions.end(), shape.begin(), shape.end()))
      complain(std::string(name) + " must have shape " + text({shape.begin(), shape.size()}) + ", got " +
               text(dimensions));
  }
  void complain(std::string message) {
    if (message_.empty()) message_ = "jaxlstm: " + message;
  }
  bool failed() const { return !message_.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(message_); }

 private:
  ffi::DataType dtype_;
  std::string message_;
};

bool left_out(const Buffer& array) { return array.dimensions().size() == 1 && array.element_count() == 0; }

template <class T>
T* data(const Buffer& array) {
  return left_out(array) ? nullptr : static_cast<T*>(array.untyped_data());
}
template <class T>
T* output(Result& array) {
  T* found = data<T>(*array);
  if (found) advise_huge_pages(found, array->size_bytes());
  return found;
}

template <class Problem>
ffi::Error run(const Problem& problem, size_t (*scratch_bytes)(const Problem&),
               void (*kernel)(const Problem&, void*, int, int, Barrier&), const Call& call) {
  Scratch scratch(scratch_bytes(problem));
  if (!scratch.data()) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jaxlstm: no memory for packed weights");
  run_as_team(call.threads, call.seconds, [&](auto task) { call.pool.Schedule(std::move(task)); },
              [&](int thread, int size, Barrier& barrier) { kernel(problem, scratch.data(), thread, size, barrier); });
  return ffi::Error::Success();
}

// How many steps have a valid row, and how many valid rows there are in all.
template <class Problem>
std::pair<double, double> how_many(const Problem& p) {
  if (!p.valid) return {double(p.time), double(p.time) * p.batch};
  long steps = 0, rows = 0;
  for (long t = 0; t < p.time; t++) {
    const long found = std::count(p.valid + t * p.batch, p.valid + (t + 1) * p.batch, 1);
    steps += found > 0, rows += found;
  }
  return {double(steps), double(rows)};
}

template <class T>
size_t prepared_bytes(const Forward<T>& p) {
  if constexpr (sizeof(T) == 4) return kernels().prepared_bytes_f32(p);
  else return kernels().prepared_bytes_f64(p);
}

// Weights of a projection are given by their being there alone.
template <class T>
int64_t prepared_size(int64_t input_size, int64_t hidden_size, int64_t h_size, bool projected) {
  Forward<T> p{};
  const T there{};
  p.input_size = input_size, p.hidden_size = hidden_size, p.h_size = h_size;
  p.weight_hr = projected ? &there : nullptr;
  return int64_t(prepared_bytes(p) / sizeof(T));
}

template <class T>
void prepare_weights(int64_t input_size, int64_t hidden_size, int64_t h_size, const void* weight_ih,
                     const void* weight_hh, const void* bias, const void* weight_hr, void* prepared) {
  Forward<T> p{};
  p.input_size = input_size, p.hidden_size = hidden_size, p.h_size = h_size;
  p.weight_ih = static_cast<const T*>(weight_ih), p.weight_hh = static_cast<const T*>(weight_hh);
  p.bias = static_cast<const T*>(bias), p.weight_hr = static_cast<const T*>(weight_hr);
  if constexpr (sizeof(T) == 4) kernels().prepare_weights_f32(p, prepared);
  else kernels().prepare_weights_f64(p, prepared);
}

// With `prepared`, `bias` is what jaxlstm_prepare_weights made of the weights and the bias, and `valid` the lengths.
template <class T>
ffi::Error forward(Buffer& x, Buffer& weight_ih, Buffer& weight_hh, Buffer& bias, Buffer& weight_hr, Buffer& h_0,
                   Buffer& c_0, Buffer& valid, Result& y, Result& h_n, Result& c_n, Result* derivative,
                   bool prepared, bool reverse, int64_t wanted, ffi::ThreadPool& pool) {
  Forward<T> p{};
  p.time = x.dimensions()[0], p.batch = x.dimensions()[1], p.input_size = x.dimensions()[2];
  p.hidden_size = c_0.dimensions()[1], p.h_size = h_0.dimensions()[1], p.reverse = reverse;
  p.x = data<const T>(x), p.weight_ih = data<const T>(weight_ih), p.weight_hh = data<const T>(weight_hh);
  (prepared ? p.prepared : p.bias) = data<const T>(bias), p.weight_hr = data<const T>(weight_hr);
  p.h_0 = data<const T>(h_0), p.c_0 = data<const T>(c_0);
  std::vector<uint8_t> inside;
  if (prepared && !left_out(valid)) {
    const int32_t* lengths = data<const int32_t>(valid);
    for (long t = 0; t < p.time; t++)
      for (long row = 0; row < p.batch; row++) inside.push_back(t < lengths[row]);
  }
  p.valid = prepared ? inside.data() : data<const uint8_t>(valid);
  p.y = output<T>(y), p.h_n = output<T>(h_n), p.c_n = output<T>(c_n);
  if (derivative) {
    p.by_gates = output<T>(derivative[0]), p.f = output<T>(derivative[1]);
    p.m_by_c = output<T>(derivative[2]), p.m = output<T>(derivative[3]);
  }
  if (p.batch == 0) return ffi::Error::Success();
  const double row = 4.0 * p.hidden_size * (p.input_size + p.h_size);
  const auto [steps, rows] = how_many(p);
  const Call call(Effort{row * rows, row * p.batch, steps * seconds_to_read(row * sizeof(T))}, wanted, pool);
  if constexpr (sizeof(T) == 4) return run(p, kernels().forward_scratch_f32, kernels().forward_f32, call);
  else return run(p, kernels().forward_scratch_f64, kernels().forward_f64, call);
}

ffi::Error forward_checked(ffi::ThreadPool& pool, Buffer& x, Buffer& weight_ih, Buffer& weight_hh, Buffer& bias,
                           Buffer& weight_hr, Buffer& h_0, Buffer& c_0, Buffer& valid, Result& y, Result& h_n,
                           Result& c_n, Result* derivative, bool prepared, bool reverse, int64_t threads) {
  Checker checker(x.element_type());
  if (x.dimensions().size() != 3) checker.complain("x must have 3 axes");
  if (h_0.dimensions().size() != 2 || c_0.dimensions().size() != 2) checker.complain("h_0 and c_0 must have 2 axes");
  if (checker.failed()) return checker.error();
  const int64_t T = x.dimensions()[0], B = x.dimensions()[1], I = x.dimensions()[2];
  const int64_t P = h_0.dimensions()[1], H = c_0.dimensions()[1];
  if (T < 1 || H < 1 || P < 1) checker.complain("time, hidden_size and h_size must be at least 1");
  checker.check("weight_ih", weight_ih, {4 * H, I});
  checker.check("weight_hh", weight_hh, {4 * H, P});
  if (prepared) {
    const auto size = x.element_type() == ffi::F64 ? prepared_size<double> : prepared_size<float>;
    checker.check("prepared", bias, {size(I, H, P, !left_out(weight_hr))});
  } else if (!left_out(bias)) {
    checker.check("bias", bias, {4 * H});
  }
  if (!left_out(weight_hr)) checker.check("weight_hr", weight_hr, {P, H});
  if (left_out(weight_hr) && P != H) checker.complain("h_0 must be as wide as c_0 without weight_hr");
  checker.check("h_0", h_0, {B, P});
  checker.check("c_0", c_0, {B, H});
  if (!left_out(valid) && prepared) checker.check("lengths", valid, {B}, ffi::S32);
  if (!left_out(valid) && !prepared) checker.check("valid", valid, {T, B}, ffi::PRED);
  checker.check("y", *y, {T, B, P});
  checker.check("h_n", *h_n, {B, P});
  checker.check("c_n", *c_n, {B, H});
  if (derivative) {
    checker.check("by_gates", *derivative[0], {T, B, 4 * H});
    checker.check("f", *derivative[1], {T, B, H});
    checker.check("m_by_c", *derivative[2], {T, B, H});
    if (!left_out(*derivative[3])) checker.check("m", *derivative[3], {T, B, H});
  }
  if (checker.failed()) return checker.error();
  const auto run = x.element_type() == ffi::F32 ? forward<float> : forward<double>;
  return run(x, weight_ih, weight_hh, bias, weight_hr, h_0, c_0, valid, y, h_n, c_n, derivative, prepared,
             reverse, threads, pool);
}

ffi::Error run_forward(ffi::ThreadPool pool, Buffer x, Buffer weight_ih, Buffer weight_hh, Buffer bias,
                       Buffer weight_hr, Buffer h_0, Buffer c_0, Buffer valid, Result y, Result h_n, Result c_n,
                       bool reverse, int64_t threads) {
  return forward_checked(pool, x, weight_ih, weight_hh, bias, weight_hr, h_0, c_0, valid, y, h_n, c_n, nullptr,
                         false, reverse, threads);
}

ffi::Error run_forward_prepared(ffi::ThreadPool pool, Buffer x, Buffer weight_ih, Buffer weight_hh, Buffer prepared,
                                Buffer weight_hr, Buffer h_0, Buffer c_0, Buffer lengths, Result y, Result h_n,
                                Result c_n, bool reverse, int64_t threads) {
  return forward_checked(pool, x, weight_ih, weight_hh, prepared, weight_hr, h_0, c_0, lengths, y, h_n, c_n, nullptr,
                         true, reverse, threads);
}

ffi::Error run_forward_and_differentiate(ffi::ThreadPool pool, Buffer x, Buffer weight_ih, Buffer weight_hh,
                                         Buffer bias, Buffer weight_hr, Buffer h_0, Buffer c_0, Buffer valid,
                                         Result y, Result h_n, Result c_n, Result by_gates, Result f, Result m_by_c,
                                         Result m, bool reverse, int64_t threads) {
  Result derivative[] = {by_gates, f, m_by_c, m};
  return forward_checked(pool, x, weight_ih, weight_hh, bias, weight_hr, h_0, c_0, valid, y, h_n, c_n, derivative,
                         false, reverse, threads);
}

template <class T>
ffi::Error backward(ffi::ThreadPool& pool, Buffer& weight_hh, Buffer& weight_hr, Buffer& by_gates, Buffer& f,
                    Buffer& m_by_c, Buffer& valid, Buffer& grad_y, Buffer& grad_h_n, Buffer& grad_c_n,
                    Result& grad_gates, Result& grad_projected, Result& grad_h_0, Result& grad_c_0, bool reverse,
                    int64_t wanted) {
  Backward<T> p{};
  p.time = grad_y.dimensions()[0], p.batch = grad_y.dimensions()[1], p.h_size = grad_y.dimensions()[2];
  p.hidden_size = grad_c_n.dimensions()[1], p.reverse = reverse;
  p.weight_hh = data<const T>(weight_hh), p.weight_hr = data<const T>(weight_hr);
  p.by_gates = data<const T>(by_gates), p.f = data<const T>(f), p.m_by_c = data<const T>(m_by_c);
  p.valid = data<const uint8_t>(valid);
  p.grad_y = data<const T>(grad_y), p.grad_h_n = data<const T>(grad_h_n), p.grad_c_n = data<const T>(grad_c_n);
  p.grad_gates = output<T>(grad_gates), p.grad_projected = output<T>(grad_projected);
  p.grad_h_0 = output<T>(grad_h_0), p.grad_c_0 = output<T>(grad_c_0);
  if (p.batch == 0) return ffi::Error::Success();
  const double step = double(p.batch) * 4 * p.hidden_size * p.h_size;
  const auto [steps, rows] = how_many(p);
  const Effort effort{step / p.batch * rows, step, steps * seconds_to_read(step / p.batch * sizeof(T))};
  const Call call(effort, wanted, pool);
  if constexpr (sizeof(T) == 4) return run(p, kernels().backward_scratch_f32, kernels().backward_f32, call);
  else return run(p, kernels().backward_scratch_f64, kernels().backward_f64, call);
}

ffi::Error run_backward(ffi::ThreadPool pool, Buffer weight_hh, Buffer weight_hr, Buffer by_gates, Buffer f,
                        Buffer m_by_c, Buffer valid, Buffer grad_y, Buffer grad_h_n, Buffer grad_c_n,
                        Result grad_gates, Result grad_projected, Result grad_h_0, Result grad_c_0, bool reverse,
                        int64_t threads) {
  Checker checker(grad_y.element_type());
  if (grad_y.dimensions().size() != 3) checker.complain("grad_y must have 3 axes");
  if (grad_c_n.dimensions().size() != 2) checker.complain("grad_c_n must have 2 axes");
  if (checker.failed()) return checker.error();
  const int64_t T = grad_y.dimensions()[0], B = grad_y.dimensions()[1], P = grad_y.dimensions()[2];
  const int64_t H = grad_c_n.dimensions()[1];
  if (T < 1 || H < 1 || P < 1) checker.complain("time, hidden_size and h_size must be at least 1");
  checker.check("weight_hh", weight_hh, {4 * H, P});
  if (!left_out(weight_hr)) checker.check("weight_hr", weight_hr, {P, H});
  if (left_out(weight_hr) && P != H) checker.complain("grad_y must be as wide as grad_c_n without weight_hr");
  checker.check("by_gates", by_gates, {T, B, 4 * H});
  checker.check("f", f, {T, B, H});
  checker.check("m_by_c", m_by_c, {T, B, H});
  if (!left_out(valid)) checker.check("valid", valid, {T, B}, ffi::PRED);
  checker.check("grad_h_n", grad_h_n, {B, P});
  checker.check("grad_c_n", grad_c_n, {B, H});
  checker.check("grad_gates", *grad_gates, {T, B, 4 * H});
  if (!left_out(weight_hr)) checker.check("grad_projected", *grad_projected, {T, B, P});
  checker.check("grad_h_0", *grad_h_0, {B, P});
  checker.check("grad_c_0", *grad_c_0, {B, H});
  if (checker.failed()) return checker.error();
  const auto run = grad_y.element_type() == ffi::F32 ? backward<float> : backward<double>;
  return run(pool, weight_hh, weight_hr, by_gates, f, m_by_c, valid, grad_y, grad_h_n, grad_c_n, grad_gates,
             grad_projected, grad_h_0, grad_c_0, reverse, threads);
}

template <class T>
ffi::Error gradients(ffi::ThreadPool& pool, Buffer& grad_gates, Buffer& x, Buffer& y, Buffer& h_0, Buffer& valid,
                     Buffer& weight_ih, Result& grad_x, Result& grad_weight_ih, Result& grad_weight_hh,
                     Result& grad_bias, bool reverse, int64_t wanted) {
  Gradients<T> p{};
  p.time = x.dimensions()[0], p.batch = x.dimensions()[1], p.input_size = x.dimensions()[2];
  p.hidden_size = grad_gates.dimensions()[2] / 4, p.h_size = h_0.dimensions()[1], p.reverse = reverse;
  p.grad_gates = data<const T>(grad_gates), p.x = data<const T>(x), p.y = data<const T>(y), p.h_0 = data<const T>(h_0);
  p.valid = data<const uint8_t>(valid), p.weight_ih = data<const T>(weight_ih);
  p.grad_x = output<T>(grad_x), p.grad_weight_ih = output<T>(grad_weight_ih);
  p.grad_weight_hh = output<T>(grad_weight_hh), p.grad_bias = output<T>(grad_bias);
  if (p.batch == 0) {
    for (Result* sum : {&grad_weight_ih, &grad_weight_hh, &grad_bias})
      std::fill_n(static_cast<T*>((*sum)->untyped_data()), (*sum)->element_count(), T(0));
    return ffi::Error::Success();
  }
  const double rows = double(p.time) * p.batch;
  const double columns = double(p.input_size) * (!!p.grad_x + !!p.grad_weight_ih) + p.h_size;
  const double row = 4 * columns * p.hidden_size;
  const Call call(Effort{row * rows, row * std::min(rows, 256.0), 0}, wanted, pool);
  p.threads = call.threads;
  if constexpr (sizeof(T) == 4) return run(p, kernels().gradients_scratch_f32, kernels().gradients_f32, call);
  else return run(p, kernels().gradients_scratch_f64, kernels().gradients_f64, call);
}

ffi::Error run_gradients(ffi::ThreadPool pool, Buffer grad_gates, Buffer x, Buffer y, Buffer h_0, Buffer valid,
                         Buffer weight_ih, Result grad_x, Result grad_weight_ih, Result grad_weight_hh,
                         Result grad_bias, bool reverse, int64_t threads) {
  Checker checker(x.element_type());
  if (grad_gates.dimensions().size() != 3 || x.dimensions().size() != 3)
    checker.complain("grad_gates and x must have 3 axes");
  if (h_0.dimensions().size() != 2) checker.complain("h_0 must have 2 axes");
  if (checker.failed()) return checker.error();
  const int64_t T = x.dimensions()[0], B = x.dimensions()[1], I = x.dimensions()[2];
  const int64_t P = h_0.dimensions()[1], gates = grad_gates.dimensions()[2];
  if (T < 1 || P < 1 || gates < 4 || gates % 4) checker.complain("time, hidden_size and h_size must be at least 1");
  checker.check("grad_gates", grad_gates, {T, B, gates});
  checker.check("x", x, {T, B, I});
  checker.check("y", y, {T, B, P});
  checker.check("h_0", h_0, {B, P});
  if (!left_out(valid)) checker.check("valid", valid, {T, B}, ffi::PRED);
  checker.check("weight_ih", weight_ih, {gates, I});
  if (!left_out(*grad_x)) checker.check("grad_x", *grad_x, {T, B, I});
  if (!left_out(*grad_weight_ih)) checker.check("grad_weight_ih", *grad_weight_ih, {gates, I});
  if (!left_out(*grad_weight_hh)) checker.check("grad_weight_hh", *grad_weight_hh, {gates, P});
  if (!left_out(*grad_bias)) checker.check("grad_bias", *grad_bias, {gates});
  if (checker.failed()) return checker.error();
  const auto run = x.element_type() == ffi::F32 ? gradients<float> : gradients<double>;
  return run(pool, grad_gates, x, y, h_0, valid, weight_ih, grad_x, grad_weight_ih, grad_weight_hh, grad_bias,
             reverse, threads);
}

}  // namespace
}  // namespace jaxlstm

#define SIX_ARRAYS .Arg<xla::ffi::AnyBuffer>().Arg<xla::ffi::AnyBuffer>().Arg<xla::ffi::AnyBuffer>() \
  .Arg<xla::ffi::AnyBuffer>().Arg<xla::ffi::AnyBuffer>().Arg<xla::ffi::AnyBuffer>()
#define EIGHT_ARRAYS SIX_ARRAYS .Arg<xla::ffi::AnyBuffer>().Arg<xla::ffi::AnyBuffer>()
#define RESULT .Ret<xla::ffi::AnyBuffer>()

#pragma GCC visibility push(default)
extern "C" {
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_forward, jaxlstm::run_forward,
    xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>() EIGHT_ARRAYS RESULT RESULT RESULT
        .Attr<bool>("reverse").Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_forward_prepared, jaxlstm::run_forward_prepared,
    xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>() EIGHT_ARRAYS RESULT RESULT RESULT
        .Attr<bool>("reverse").Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_forward_and_differentiate, jaxlstm::run_forward_and_differentiate,
    xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>() EIGHT_ARRAYS RESULT RESULT RESULT RESULT RESULT RESULT RESULT
        .Attr<bool>("reverse").Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_backward, jaxlstm::run_backward,
    xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>() EIGHT_ARRAYS .Arg<xla::ffi::AnyBuffer>()
        RESULT RESULT RESULT RESULT .Attr<bool>("reverse").Attr<int64_t>("threads"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxlstm_gradients, jaxlstm::run_gradients,
    xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>() SIX_ARRAYS RESULT RESULT RESULT RESULT
        .Attr<bool>("reverse").Attr<int64_t>("threads"));

// The instruction set in force, and another one for the calls that follow; false if it cannot run here.
const char* jaxlstm_instruction_set() { return jaxlstm::kernels().name; }
bool jaxlstm_use_instruction_set(const char* name) {
  for (const jaxlstm::Kernels* found : jaxlstm::kAllKernels)
    if (!std::strcmp(found->name, name) && jaxlstm::runs_here(*found)) {
      jaxlstm::chosen.store(found);
      return true;
    }
  return false;
}
// Weights for many calls of jaxlstm_forward_prepared, packed once, and how many elements that takes. Null: not there.
void jaxlstm_prepare_weights(bool wide, int64_t input_size, int64_t hidden_size, int64_t h_size, const void* weight_ih,
                             const void* weight_hh, const void* bias, const void* weight_hr, void* prepared) {
  (wide ? jaxlstm::prepare_weights<double> : jaxlstm::prepare_weights<float>)(
      input_size, hidden_size, h_size, weight_ih, weight_hh, bias, weight_hr, prepared);
}
int64_t jaxlstm_prepared_size(bool wide, int64_t input_size, int64_t hidden_size, int64_t h_size, bool projected) {
  return (wide ? jaxlstm::prepared_size<double> : jaxlstm::prepared_size<float>)(
      input_size, hidden_size, h_size, projected);
}
void jaxlstm_add_callers(int count) { jaxlstm::announced.fetch_add(count); }
void jaxlstm_activations(const float* x, float* sigmoids, float* tanhs, long n) {
  jaxlstm::kernels().activations(x, sigmoids, tanhs, n);
}
}
#pragma GCC visibility pop
