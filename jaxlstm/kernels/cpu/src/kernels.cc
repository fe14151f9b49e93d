// The kernels of one instruction set. This file is compiled once for each; JAXLSTM_TARGET is its name.
#include "backward.h"
#include "convolution.h"
#include "forward.h"
#include "gradients.h"
#include "norm.h"
#include "widened.h"

#if defined(__AMX_BF16__)
#include "amx_backward.h"
#include "amx_forward.h"
#include "amx_gradients.h"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace jaxlstm {
namespace {

// Subnormal numbers are zero in a pass, on every thread. XLA's threads treat them so, and Python's do not. Without
// this, the last bits of a result would depend on the thread that computes it: sigmoid(-88) is subnormal. While an
// object lives, its thread reads and writes subnormal numbers as zeros.
class NoSubnormals {
 public:
  NoSubnormals() : before_(control()) { set_control(before_ | kZeros); }
  ~NoSubnormals() { set_control(before_); }
  NoSubnormals(const NoSubnormals&) = delete;
  NoSubnormals& operator=(const NoSubnormals&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kZeros = 0x8040;  // "flush to zero" and "denormals are zeros" of MXCSR
  static uint64_t control() { return _mm_getcsr(); }
  static void set_control(uint64_t value) { _mm_setcsr(uint32_t(value)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kZeros = 1 << 24;  // FZ of FPCR
  static uint64_t control() {
    uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set_control(uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
#else
  static constexpr uint64_t kZeros = 0;
  static uint64_t control() { return 0; }
  static void set_control(uint64_t) {}
#endif
  const uint64_t before_;
};

#if defined(JAXLSTM_FLOAT16_TILES)
// A pass with tiles of float16, which takes half as many tile products as with bfloat16. It computes in bfloat16 what
// float16 cannot represent.
template <class Arguments, template <class, class> class Pass>
struct AmxFloat16Pass {
  Pass<float, TwoFloat16> pass;
  Pass<float, ThreeBfloat16> fallback;
  const size_t scratch_bytes =
      pass.scratch_bytes > fallback.scratch_bytes ? pass.scratch_bytes : fallback.scratch_bytes;

  AmxFloat16Pass(const Arguments& arguments, void* scratch) : pass(arguments, scratch), fallback(arguments, scratch) {}

  void run(int thread, int threads, Barrier& barrier) {
    if (pass.run_on_tiles(thread, threads, barrier)) return;
    barrier.wait();  // all threads know that the pass failed, before one of them overwrites its memory
    fallback.run(thread, threads, barrier);
  }
};
typedef AmxFloat16Pass<ForwardArguments<float>, AmxForwardPass> AmxFloat16ForwardPass;
typedef AmxFloat16Pass<GradientsArguments<float>, AmxGradientsPass> AmxFloat16GradientsPass;
#endif

// The passes for float32, and for bfloat16 where the processor multiplies it.
#if defined(__AMX_BF16__)
#if defined(JAXLSTM_FLOAT16_TILES)
template <class T>
using FastForward = std::conditional_t<kIsHalf<T>, AmxForwardPass<T>, AmxFloat16ForwardPass>;
template <class T>
using FastGradients = std::conditional_t<kIsHalf<T>, AmxGradientsPass<T>, AmxFloat16GradientsPass>;
#else
template <class T>
using FastForward = AmxForwardPass<T>;
template <class T>
using FastGradients = AmxGradientsPass<T>;
#endif
template <class T>
using FastBackward = AmxBackwardPass<T>;
#else
template <class T>
using FastForward = ForwardPass<T>;
template <class T>
using FastBackward = BackwardPass<T>;
template <class T>
using FastGradients = GradientsPass<T>;
#endif

// Returns f(pass) for the pass of the cell of a call.
template <class Lstm, class Gru, class Arguments, class F>
auto by_cell(const Arguments& arguments, void* memory, F&& f) {
  if constexpr (!std::is_same_v<Lstm, Gru>)
    if (arguments.cell == Cell::kGru) {
      Gru pass(arguments, memory);
      return f(pass);
    }
  Lstm pass(arguments, memory);
  return f(pass);
}

template <class Arguments, class Lstm, class Gru>
size_t scratch_bytes(const Arguments& arguments) {
  return by_cell<Lstm, Gru>(arguments, nullptr, [](auto& pass) { return pass.scratch_bytes; });
}

template <class Arguments, class Lstm, class Gru>
void run(const Arguments& arguments, void* scratch, int thread, int threads, Barrier& barrier) {
  const NoSubnormals zeros;
  by_cell<Lstm, Gru>(arguments, scratch, [&](auto& pass) { pass.run(thread, threads, barrier); });
}

template <class Arguments, class Lstm, class Gru = Lstm>
constexpr Pass<Arguments> kPass{scratch_bytes<Arguments, Lstm, Gru>, run<Arguments, Lstm, Gru>};

// A GRU has no passes for AMX, and none of its own for half precision.
typedef ForwardPass<float, Cell::kGru> GruForward;
typedef BackwardPass<float, Cell::kGru> GruBackward;
template <class T, template <class, Cell> class Pass, class Half>
using GruPass = std::conditional_t<kIsHalf<T>, Half, Pass<Wide<T>, Cell::kGru>>;
template <class T>
using GruForwardOf = GruPass<T, ForwardPass, WidenedPass<T, ForwardArguments, GruForward>>;
template <class T>
using GruBackwardOf = GruPass<T, BackwardPass, WidenedPass<T, BackwardArguments, GruBackward>>;

// The forward pass that packs weights. A GRU has none in half precision.
template <class T>
using GruWeights = std::conditional_t<kIsHalf<T>, ForwardPass<T>, ForwardPass<Wide<T>, Cell::kGru>>;

template <class T>
size_t prepared_bytes(const ForwardArguments<T>& arguments) {
  return by_cell<ForwardPass<T>, GruWeights<T>>(arguments, nullptr, [](auto& pass) { return pass.prepared_bytes; });
}

template <class T>
void prepare_weights(const ForwardArguments<T>& arguments, void* prepared) {
  by_cell<ForwardPass<T>, GruWeights<T>>(arguments, prepared, [](auto& pass) { pass.prepare_weights(); });
}

template <class T>
void activations(const Wide<T>* x, Wide<T>* sigmoids, Wide<T>* tanhs, long n) {
  constexpr long L = kLanes<T>;
  for (long i = 0; i < n; i += L) {
    const long count = n - i < L ? n - i : L;
    store(sigmoids + i, sigmoid<T>(load(x + i, count)), count);
    store(tanhs + i, tanh<T>(load(x + i, count)), count);
  }
}

#if defined(__AMX_BF16__)
template <class T>
constexpr double kMultiplicationsPerThread = std::is_same_v<T, Bfloat16> ? 80e3 : 40e3;
#else
template <class T>
constexpr double kMultiplicationsPerThread = 40e3;
#endif

template <class T, class Forward, class Backward, class Gradients>
constexpr Passes<T> kPasses{kPass<ForwardArguments<T>, Forward, GruForwardOf<T>>,
                            kPass<BackwardArguments<T>, Backward, GruBackwardOf<T>>,
                            kPass<GradientsArguments<T>, Gradients>, prepared_bytes<T>, prepare_weights<T>,
                            activations<T>, kMultiplicationsPerThread<T>};

template <class T>
constexpr Passes<T> kFastPasses = kPasses<T, FastForward<T>, FastBackward<T>, FastGradients<T>>;

// Half precision by passes in float32.
template <class T>
constexpr Passes<T> kWidenedPasses{
    kPass<ForwardArguments<T>, WidenedPass<T, ForwardArguments, FastForward<float>>, GruForwardOf<T>>,
    kPass<BackwardArguments<T>, WidenedPass<T, BackwardArguments, FastBackward<float>>, GruBackwardOf<T>>,
    kPass<GradientsArguments<T>, WidenedPass<T, GradientsArguments, FastGradients<float>>>, nullptr, nullptr,
    activations<float>, kMultiplicationsPerThread<float>};

#if defined(__AVX512BF16__)
constexpr const Passes<Bfloat16>& kBfloat16Passes = kFastPasses<Bfloat16>;
#else
constexpr const Passes<Bfloat16>& kBfloat16Passes = kWidenedPasses<Bfloat16>;
#endif

}  // namespace

#define JAXLSTM_STRING_(x) #x
#define JAXLSTM_STRING(x) JAXLSTM_STRING_(x)
#define JAXLSTM_JOIN_(a, b) a##b
#define JAXLSTM_JOIN(a, b) JAXLSTM_JOIN_(a, b)

// The passes have external names, so that an instruction set can use the passes of another, which is compiled with
// options that make no difference to them: an option names the other one.
#define JAXLSTM_PASSES(name, Type, owner) extern const Passes<Type> JAXLSTM_JOIN(name, owner)

#if !defined(JAXLSTM_DOUBLE_OF)
#define JAXLSTM_DOUBLE_OF JAXLSTM_TARGET
JAXLSTM_PASSES(double_passes_, double, JAXLSTM_TARGET);
const Passes<double> JAXLSTM_JOIN(double_passes_, JAXLSTM_TARGET) =
    kPasses<double, ForwardPass<double>, BackwardPass<double>, GradientsPass<double>>;
void JAXLSTM_JOIN(convolve_, JAXLSTM_TARGET)(const ConvolutionArguments& arguments, int thread, int threads,
                                                Barrier& barrier) {
  const NoSubnormals zeros;
  Convolution(arguments).run(thread, threads, barrier);
}
void JAXLSTM_JOIN(normalize_, JAXLSTM_TARGET)(const NormArguments& arguments, int thread, int threads,
                                              Barrier& barrier) {
  const NoSubnormals zeros;
  Norm(arguments).run(thread, threads, barrier);
}
#endif
#if !defined(JAXLSTM_FLOAT_OF)
#define JAXLSTM_FLOAT_OF JAXLSTM_TARGET
JAXLSTM_PASSES(float_passes_, float, JAXLSTM_TARGET);
const Passes<float> JAXLSTM_JOIN(float_passes_, JAXLSTM_TARGET) = kFastPasses<float>;
JAXLSTM_PASSES(float16_passes_, Float16, JAXLSTM_TARGET);
const Passes<Float16> JAXLSTM_JOIN(float16_passes_, JAXLSTM_TARGET) = kWidenedPasses<Float16>;
#endif
#if !defined(JAXLSTM_BFLOAT16_OF)
#define JAXLSTM_BFLOAT16_OF JAXLSTM_TARGET
JAXLSTM_PASSES(bfloat16_passes_, Bfloat16, JAXLSTM_TARGET);
const Passes<Bfloat16> JAXLSTM_JOIN(bfloat16_passes_, JAXLSTM_TARGET) = kBfloat16Passes;
#endif
JAXLSTM_PASSES(double_passes_, double, JAXLSTM_DOUBLE_OF);
void JAXLSTM_JOIN(convolve_, JAXLSTM_DOUBLE_OF)(const ConvolutionArguments&, int thread, int threads, Barrier&);
void JAXLSTM_JOIN(normalize_, JAXLSTM_DOUBLE_OF)(const NormArguments&, int thread, int threads, Barrier&);
JAXLSTM_PASSES(float_passes_, float, JAXLSTM_FLOAT_OF);
JAXLSTM_PASSES(float16_passes_, Float16, JAXLSTM_FLOAT_OF);
JAXLSTM_PASSES(bfloat16_passes_, Bfloat16, JAXLSTM_BFLOAT16_OF);

extern const InstructionSet JAXLSTM_JOIN(instruction_set_, JAXLSTM_TARGET);
const InstructionSet JAXLSTM_JOIN(instruction_set_, JAXLSTM_TARGET) = {
    JAXLSTM_STRING(JAXLSTM_TARGET),
    JAXLSTM_JOIN(float_passes_, JAXLSTM_FLOAT_OF),
    JAXLSTM_JOIN(double_passes_, JAXLSTM_DOUBLE_OF),
    JAXLSTM_JOIN(bfloat16_passes_, JAXLSTM_BFLOAT16_OF),
    JAXLSTM_JOIN(float16_passes_, JAXLSTM_FLOAT_OF),
    JAXLSTM_JOIN(convolve_, JAXLSTM_DOUBLE_OF),
    JAXLSTM_JOIN(normalize_, JAXLSTM_DOUBLE_OF),
    kLanes<float>,
};

}  // namespace jaxlstm
