// Passes on AMX with tiles of float16, which take half as many tile products as with bfloat16.
#pragma once
#include "amx_forward.h"
#include "amx_gradients.h"

namespace jaxlstm {
namespace {

// Computes in bfloat16 what float16 cannot represent.
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

}  // namespace
}  // namespace jaxlstm
