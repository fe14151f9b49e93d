// Sigmoid and tanh for a cell in bfloat16, in half the instructions of those in vector.h. Their relative errors are
// below 2^-15; rounding to bfloat16 has 2^-9. For |x| < 3, the derivatives' factors 1 - sigmoid and 1 - |tanh| have
// relative errors below 2^-14 and 2^-13.
#pragma once
#include <immintrin.h>

#include "vector.h"

namespace jaxlstm {
namespace {

// Splits 2^x, for x between -limit and limit, into power * (1 + rest) with power = 2^n and |rest| < 0.42. The minimax
// polynomial for (2^r - 1) / r on [-1/2, 1/2] has a relative error of 1.5e-5. NaN passes through, since the minimum of
// a number and NaN is the second operand.
JAXLSTM_INLINE void exp2_parts(Floats x, float limit, Floats& power, Floats& rest) {
  const __m512 largest = _mm512_set1_ps(limit), smallest = _mm512_set1_ps(-limit);
  x = (Floats)_mm512_max_ps(smallest, _mm512_min_ps(largest, (__m512)x));
  const Floats n = (Floats)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT), r = x - n;
  Floats p = Floats{} + 0x1.3b2a92p-7f;
  p = p * r + 0x1.c96b4cp-5f;
  p = p * r + 0x1.ebff08p-3f;
  p = p * r + 0x1.62e2d6p-1f;
  rest = p * r;
  power = (Floats)_mm512_scalef_ps(_mm512_set1_ps(1.0f), (__m512)n);
}

// Returns 1 / d to float32 accuracy, for 2^-126 <= d <= 2^126.
JAXLSTM_INLINE Floats fast_reciprocal(Floats d) {
  const Floats r = (Floats)_mm512_rcp14_ps((__m512)d);
  return r + r * (1.0f - d * r);
}

constexpr float kLog2E = 1.44269504f;

template <>
JAXLSTM_INLINE Floats sigmoid<Bfloat16>(Floats x) {
  Floats power, rest;
  exp2_parts(x * -kLog2E, 126.0f, power, rest);
  return fast_reciprocal((power * rest + power) + 1.0f);
}

// Returns e / (e + 2) with e = exp(2 x) - 1. From |x| = 7.6 on, e is large enough for the result to stay the same.
template <>
JAXLSTM_INLINE Floats tanh<Bfloat16>(Floats x) {
  Floats power, rest;
  exp2_parts(x * (2 * kLog2E), 22.0f, power, rest);
  const Floats e = power * rest + (power - 1.0f);
  return e * fast_reciprocal(e + 2.0f);
}

}  // namespace
}  // namespace jaxlstm
