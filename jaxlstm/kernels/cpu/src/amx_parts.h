// The numbers of 16 bits, called parts, that represent a number in an operand of a product on AMX.
#pragma once
#include "amx.h"

namespace jaxlstm {
namespace {

// A bfloat16 is its only part. A number of another type is rounded.
struct OneBfloat16 {
  typedef Bfloat16 Number;
  static constexpr int kCount = 1, kTerms = 1;
};
// A float32 is the exact sum of three bfloat16: a = a_1 + a_2 + a_3, of decreasing magnitude.
struct ThreeBfloat16 {
  typedef float Number;
  static constexpr int kCount = 3, kTerms = 6;
};
// A float32 is the sum of two float16 with an error of at most 2^-23 |a|, if |a| is between 2^-2 and 65504. Below, the
// error is at most 2^-25.
struct TwoFloat16 {
  typedef float Number;
  static constexpr int kCount = 2, kTerms = 3;
};
template <class T>
using Bfloat16Parts = std::conditional_t<kIsHalf<T>, OneBfloat16, ThreeBfloat16>;

template <class P>
constexpr bool kIsFloat16 = std::is_same_v<P, TwoFloat16>;

// Splits 16 numbers into their parts, largest first.
template <class P>
JAXLSTM_INLINE void split(Floats remainder, __m256i (&parts)[P::kCount]) {
#pragma GCC unroll 3
  for (int p = 0; p < P::kCount; p++) {
    if constexpr (kIsFloat16<P>) {
      parts[p] = _mm512_cvtps_ph((__m512)remainder, _MM_FROUND_TO_NEAREST_INT);
      remainder -= (Floats)_mm512_cvtph_ps(parts[p]);
    } else {
      parts[p] = (__m256i)_mm512_cvtneps_pbh((__m512)remainder);
      remainder -= (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(parts[p]), 16);
    }
  }
}
template <class T>
JAXLSTM_INLINE Floats rounded(Floats v) {
  if constexpr (!kIsHalf<T>) return v;
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v)), 16);
}
// Splits 32 adjacent numbers: one row of a left tile.
template <class P>
JAXLSTM_INLINE void split_row(Floats first, Floats second, __m512i (&parts)[P::kCount]) {
  __m256i low[P::kCount], high[P::kCount];
  split<P>(first, low), split<P>(second, high);
#pragma GCC unroll 3
  for (int p = 0; p < P::kCount; p++) parts[p] = _mm512_inserti64x4(_mm512_castsi256_si512(low[p]), high[p], 1);
}
// Splits two rows of 16 numbers, and interleaves them: one row of a right tile.
template <class P>
JAXLSTM_INLINE void split_pairs(Floats above, Floats below, __m512i (&parts)[P::kCount]) {
  __m256i low[P::kCount], high[P::kCount];
  split<P>(above, low), split<P>(below, high);
#pragma GCC unroll 3
  for (int p = 0; p < P::kCount; p++) parts[p] = (__m512i)interleave(low[p], high[p]);
}

}  // namespace
}  // namespace jaxlstm
