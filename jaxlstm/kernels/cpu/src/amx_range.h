// The range of numbers within which products on AMX are accurate.
#pragma once
#include "amx.h"

namespace jaxlstm {
namespace {

// The largest magnitude in an operand, as the bits of a float. Parts represent a float32 only if neither the parts nor
// their products overflow or underflow, which excludes NaN and infinity too. A bfloat16 has no such limits, and its
// magnitude stays 0.
template <class T>
class Magnitude {
 public:
  JAXLSTM_INLINE void update(Floats v) {
    if constexpr (kIsHalf<T>) return;
    const __m512i bits = _mm512_and_si512((__m512i)v, _mm512_set1_epi32(0x7fffffff));
    largest_ = _mm512_max_epu32(largest_, bits);
  }
  __m512i lanes() const { return largest_; }
  uint32_t bits() const { return _mm512_reduce_max_epu32(largest_); }
  // Returns the magnitude divided by 2^exponent. If it is not zero, neither is the quotient.
  Magnitude over_power_of_two(int exponent) const {
    const __m512i divisor = _mm512_set1_epi32(exponent << 23);
    const __m512i least = _mm512_add_epi32(divisor, _mm512_set1_epi32(1));
    Magnitude quotient;
    quotient.largest_ = _mm512_maskz_sub_epi32(_mm512_test_epi32_mask(largest_, largest_),
                                               _mm512_max_epu32(largest_, least), divisor);
    return quotient;
  }
  // Returns the largest magnitudes, where infinity replaces any above `limit`.
  Floats limited_to(float limit) const {
    const __mmask16 above = _mm512_cmpgt_epu32_mask(largest_, (__m512i)_mm512_set1_ps(limit));
    return (Floats)_mm512_mask_mov_epi32(largest_, above, (__m512i)_mm512_set1_ps(INFINITY));
  }
  static bool in_range(uint32_t bits) {
    constexpr uint32_t k2To60 = (127 + 60) << 23, k2ToMinus60 = (127 - 60) << 23;
    return bits == 0 || (bits >= k2ToMinus60 && bits <= k2To60);
  }

 private:
  __m512i largest_ = _mm512_setzero_si512();
};

// The magnitudes that all threads of a call have found in its operands, in shared memory.
template <class T>
class Magnitudes {
 public:
  static constexpr int kMaxThreads = 1024;
  static constexpr long kOperands = 4, kSize = kOperands * kMaxThreads;
  explicit Magnitudes(uint32_t* magnitudes) : magnitudes_(magnitudes) {}
  void record(int thread, const Magnitude<T>& a, const Magnitude<T>& b, const Magnitude<T>& c = {},
              const Magnitude<T>& d = {}) {
    const Magnitude<T>* operands[kOperands] = {&a, &b, &c, &d};
    for (int i = 0; i < kOperands; i++) magnitudes_[kOperands * thread + i] = operands[i]->bits();
  }
  bool in_range(int threads) const {
    uint32_t largest[kOperands] = {};
    for (int i = 0; i < kOperands * threads; i++)
      if (magnitudes_[i] > largest[i % kOperands]) largest[i % kOperands] = magnitudes_[i];
    for (uint32_t bits : largest)
      if (!Magnitude<T>::in_range(bits)) return false;
    return true;
  }

 private:
  uint32_t* magnitudes_;
};

}  // namespace
}  // namespace jaxlstm
