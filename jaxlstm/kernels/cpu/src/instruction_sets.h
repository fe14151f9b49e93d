// The kernels that were compiled, which of them this processor and system can run, and those in force.
#pragma once
#include <atomic>
#include <cstring>

#include "problem.h"

#if defined(JAXLSTM_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace jaxlstm {

extern const Kernels kernels_baseline;
#if defined(JAXLSTM_X86)
extern const Kernels kernels_avx2, kernels_avx512;
#endif
#if defined(JAXLSTM_AMX)
extern const Kernels kernels_amx;
#endif

// Best first.
constexpr const Kernels* kAllKernels[] = {
#if defined(JAXLSTM_AMX)
    &kernels_amx,
#endif
#if defined(JAXLSTM_X86)
    &kernels_avx512, &kernels_avx2,
#endif
    &kernels_baseline};

inline bool runs_avx512() {
#if defined(JAXLSTM_X86)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

// Tiles of bfloat16. Linux gives a process the registers for them only when it asks.
inline bool runs_amx() {
#if defined(JAXLSTM_AMX_IN_SOFTWARE)  // see tools/kernel_harness
  return runs_avx512();
#elif defined(JAXLSTM_AMX)
  unsigned a, b, c, d;
  if (!runs_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tiles = d & (1u << 24), bfloat16_tiles = d & (1u << 22);
  if (!tiles || !bfloat16_tiles || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
  const bool bfloat16_vectors = a & (1u << 5);
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return bfloat16_vectors && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

inline bool runs_here(const Kernels& kernels) {
#if defined(JAXLSTM_AMX)
  if (&kernels == &kernels_amx) return runs_amx();
#endif
#if defined(JAXLSTM_X86)
  if (&kernels == &kernels_avx512) return runs_avx512();
  if (&kernels == &kernels_avx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
  return true;
}

inline std::atomic<const Kernels*> in_force{nullptr};

// The best that run here, unless others were chosen.
inline const Kernels& kernels() {
  const Kernels* found = in_force.load();
  if (found) return *found;
  for (const Kernels* each : kAllKernels)
    if (!found && runs_here(*each)) found = each;
  in_force.store(found);
  return *found;
}
// Chooses for the calls that follow; false if those cannot run here.
inline bool use_kernels(const char* name) {
  for (const Kernels* each : kAllKernels)
    if (!std::strcmp(each->name, name) && runs_here(*each)) {
      in_force.store(each);
      return true;
    }
  return false;
}

}  // namespace jaxlstm
