// The kernels of one instruction set. This file is compiled once for each; JAXLSTM_TARGET is its name.
#include "backward.h"
#include "forward.h"
#include "gradients.h"
#include "widened_backward.h"
#include "widened_forward.h"

#if defined(__AMX_BF16__)
#include "amx_backward.h"
#include "amx_forward.h"
#include "amx_gradients.h"
#endif

namespace jaxlstm {
namespace {

#if defined(__AMX_BF16__)
typedef AmxForwardPass FloatForwardPass;
typedef AmxBackwardPass FloatBackwardPass;
typedef AmxGradientsPass FloatGradientsPass;
#else
typedef ForwardPass<float> FloatForwardPass;
typedef BackwardPass<float> FloatBackwardPass;
typedef GradientsPass<float> FloatGradientsPass;
#endif

template <class Arguments, class Implementation>
size_t scratch_bytes(const Arguments& arguments) {
  return Implementation(arguments, nullptr).scratch_bytes;
}

template <class Arguments, class Implementation>
void run(const Arguments& arguments, void* scratch, int thread, int threads, Barrier& barrier) {
  Implementation(arguments, scratch).run(thread, threads, barrier);
}

template <class Arguments, class Implementation>
constexpr Pass<Arguments> kPass{scratch_bytes<Arguments, Implementation>, run<Arguments, Implementation>};

template <class T>
size_t prepared_bytes(const ForwardArguments<T>& arguments) {
  return ForwardPass<T>(arguments, nullptr).prepared_bytes;
}

template <class T>
void prepare_weights(const ForwardArguments<T>& arguments, void* prepared) {
  ForwardPass<T>(arguments, prepared).prepare_weights();
}

template <class T, class Forward, class Backward, class Gradients>
constexpr Passes<T> kPasses{kPass<ForwardArguments<T>, Forward>, kPass<BackwardArguments<T>, Backward>,
                            kPass<GradientsArguments<T>, Gradients>, prepared_bytes<T>, prepare_weights<T>};

// Half precision by passes in float32, for each pass without one of its own.
template <class T>
using WidenedForward = WidenedForwardPass<T, FloatForwardPass>;
template <class T>
using WidenedBackward = WidenedBackwardPass<T, FloatBackwardPass>;
template <class T>
using WidenedGradients = WidenedGradientsPass<T, FloatGradientsPass>;
template <class T>
constexpr Passes<T> kWidenedPasses{kPass<ForwardArguments<T>, WidenedForward<T>>,
                                   kPass<BackwardArguments<T>, WidenedBackward<T>>,
                                   kPass<GradientsArguments<T>, WidenedGradients<T>>, nullptr, nullptr};
#if defined(__AMX_BF16__)
// Training takes float32's products on tiles, which are faster than AVX-512's products of bfloat16.
constexpr const Passes<Bfloat16>& kBfloat16Passes =
    kPasses<Bfloat16, ForwardPass<Bfloat16>, WidenedBackward<Bfloat16>, WidenedGradients<Bfloat16>>;
#elif defined(__AVX512BF16__)
constexpr const Passes<Bfloat16>& kBfloat16Passes =
    kPasses<Bfloat16, ForwardPass<Bfloat16>, BackwardPass<Bfloat16>, GradientsPass<Bfloat16>>;
#else
constexpr const Passes<Bfloat16>& kBfloat16Passes = kWidenedPasses<Bfloat16>;
#endif

void activations(const float* x, float* sigmoids, float* tanhs, long n) {
  constexpr long L = kLanes<float>;
  for (long i = 0; i < n; i += L) {
    const long count = n - i < L ? n - i : L;
    store(sigmoids + i, sigmoid(load(x + i, count)), count);
    store(tanhs + i, tanh(load(x + i, count)), count);
  }
}

}  // namespace

#define JAXLSTM_STRING_(x) #x
#define JAXLSTM_STRING(x) JAXLSTM_STRING_(x)
#define JAXLSTM_JOIN_(a, b) a##b
#define JAXLSTM_JOIN(a, b) JAXLSTM_JOIN_(a, b)

extern const InstructionSet JAXLSTM_JOIN(instruction_set_, JAXLSTM_TARGET);
const InstructionSet JAXLSTM_JOIN(instruction_set_, JAXLSTM_TARGET) = {
    JAXLSTM_STRING(JAXLSTM_TARGET),
    kPasses<float, FloatForwardPass, FloatBackwardPass, FloatGradientsPass>,
    kPasses<double, ForwardPass<double>, BackwardPass<double>, GradientsPass<double>>,
    kBfloat16Passes,
    kWidenedPasses<Float16>,
    activations,
};

}  // namespace jaxlstm
