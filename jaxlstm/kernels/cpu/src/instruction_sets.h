// The compiled instruction sets, the test whether this machine can run them, and the active one.
#pragma once
#include <atomic>
#include <cstring>

#include "arguments.h"

#if defined(JAXLSTM_X86)
#include <cpuid.h>
#endif
#if defined(JAXLSTM_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace jaxlstm {

// Defined by kernels.cc, once for each instruction set.
extern const InstructionSet instruction_set_baseline;
#if defined(JAXLSTM_X86)
extern const InstructionSet instruction_set_avx2, instruction_set_avx512, instruction_set_avx512_bf16;
#endif
#if defined(JAXLSTM_AMX)
extern const InstructionSet instruction_set_amx, instruction_set_amx_float16;
#endif

#if defined(JAXLSTM_X86)
inline bool supports_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}

inline bool supports_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma");
}

// Checks for products of bfloat16 vectors.
inline bool supports_avx512_bf16() {
  unsigned a, b, c, d;
  return supports_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & (1u << 5);
}
#endif

#if defined(JAXLSTM_AMX)
// Checks for AMX with bfloat16, and asks Linux for the tile registers, which a process gets only on request.
inline bool supports_amx() {
  unsigned a, b, c, d;
  if (!supports_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tiles = d & (1u << 24), bfloat16_tiles = d & (1u << 22);
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return tiles && bfloat16_tiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Checks for AMX with float16, which some virtual machines do not report. AMX together with version 1 of AVX10 means
// Granite Rapids, which has it.
inline bool supports_amx_float16() {
  unsigned a, b, c, d;
  if (!supports_amx() || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
  const bool float16_tiles = a & (1u << 21), avx10 = d & (1u << 19);
  return float16_tiles || (avx10 && __get_cpuid_count(0x24, 0, &a, &b, &c, &d) && (b & 0xff) == 1);
}
#endif

struct Candidate {
  const InstructionSet* instruction_set;
  bool (*runs_here)();
};
// From fastest to slowest.
constexpr Candidate kCandidates[] = {
#if defined(JAXLSTM_AMX)
    {&instruction_set_amx_float16, supports_amx_float16},
    {&instruction_set_amx, supports_amx},
#endif
#if defined(JAXLSTM_X86)
    {&instruction_set_avx512_bf16, supports_avx512_bf16},
    {&instruction_set_avx512, supports_avx512},
    {&instruction_set_avx2, supports_avx2},
#endif
    {&instruction_set_baseline, [] { return true; }}};

inline std::atomic<const InstructionSet*> active{nullptr};

// Returns the instruction set chosen by use_instruction_set, by default the fastest that runs here.
inline const InstructionSet& active_instruction_set() {
  const InstructionSet* fastest = active.load();
  if (fastest) return *fastest;
  for (const Candidate& candidate : kCandidates)
    if (!fastest && candidate.runs_here()) fastest = candidate.instruction_set;
  active.store(fastest);
  return *fastest;
}
// Selects the instruction set of subsequent calls. Returns false if it is unknown or cannot run here.
inline bool use_instruction_set(const char* name) {
  for (const auto& [candidate, runs_here] : kCandidates)
    if (!std::strcmp(candidate->name, name) && runs_here()) {
      active.store(candidate);
      return true;
    }
  return false;
}

}  // namespace jaxlstm
