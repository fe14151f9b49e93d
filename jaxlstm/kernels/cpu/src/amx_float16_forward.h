// The forward pass on AMX with tiles of float16, which takes half as many tile products as bfloat16.
#pragma once
#include "amx_forward.h"

namespace jaxlstm {
namespace {

// Computes in bfloat16 what float16 can't represent.
struct AmxFloat16ForwardPass {
  AmxForwardPass<float, TwoFloat16> pass;
  AmxForwardPass<float, ThreeBfloat16> fallback;
  const size_t scratch_bytes = pass.scratch_bytes > fallback.scratch_bytes ? pass.scratch_bytes : fallback.scratch_bytes;

  AmxFloat16ForwardPass(const ForwardArguments<float>& arguments, void* scratch)
      : pass(arguments, scratch), fallback(arguments, scratch) {}

  void run(int thread, int threads, Barrier& barrier) {
    if (pass.run_on_tiles(thread, threads, barrier)) return;
    barrier.wait();  // all threads know that the pass failed, before one of them overwrites its memory
    fallback.run(thread, threads, barrier);
  }
};

}  // namespace
}  // namespace jaxlstm
