// Subnormal numbers are zero in a pass, on every thread.
//
// XLA's threads treat them so, and Python's do not. Without this, the last bits of a result would depend on the thread
// that computes it: sigmoid(-88) is subnormal.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace jaxlstm {
namespace {

// While it lives, its thread reads and writes subnormal numbers as zeros.
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

}  // namespace
}  // namespace jaxlstm
