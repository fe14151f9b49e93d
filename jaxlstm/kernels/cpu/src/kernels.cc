// The kernels for one instruction set: compiled once for each, with JAXLSTM_TARGET naming it.
#include "backward.h"
#include "forward.h"
#include "gradients.h"

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

template <class Problem, class Pass>
size_t scratch_bytes(const Problem& problem) {
  return Pass(problem, nullptr).scratch_bytes;
}

template <class Problem, class Pass>
void run(const Problem& problem, void* scratch, int thread, int threads, Barrier& barrier) {
  Pass(problem, scratch).run(thread, threads, barrier);
}

template <class Problem, class Pass>
constexpr Kernel<Problem> kKernel{scratch_bytes<Problem, Pass>, run<Problem, Pass>};

template <class T>
size_t prepared_bytes(const Forward<T>& problem) {
  return ForwardPass<T>(problem, nullptr).prepared_bytes;
}

template <class T>
void prepare_weights(const Forward<T>& problem, void* prepared) {
  ForwardPass<T>(problem, prepared).prepare_weights();
}

template <class T, class FPass, class BPass, class GPass>
constexpr KernelsOf<T> kKernels{kKernel<Forward<T>, FPass>, kKernel<Backward<T>, BPass>, kKernel<Gradients<T>, GPass>,
                                prepared_bytes<T>, prepare_weights<T>};

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

extern const Kernels JAXLSTM_JOIN(kernels_, JAXLSTM_TARGET);
const Kernels JAXLSTM_JOIN(kernels_, JAXLSTM_TARGET) = {
    JAXLSTM_STRING(JAXLSTM_TARGET),
    kKernels<float, FloatForwardPass, FloatBackwardPass, FloatGradientsPass>,
    kKernels<double, ForwardPass<double>, BackwardPass<double>, GradientsPass<double>>,
    activations,
};

}  // namespace jaxlstm
