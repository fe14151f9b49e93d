// Sigmoid and tanh of a cell with the instructions of AVX-512, of which they take fewer than those in vector.h.
//
// In float32 they are as accurate. In bfloat16 their relative errors are below 2^-15, where rounding to bfloat16 has
// 2^-9; for |x| < 3, the derivatives' factors 1 - sigmoid and 1 - |tanh| have relative errors below 2^-14 and 2^-13.
#pragma once
#include <immintrin.h>

#include "vector.h"

namespace jaxlstm {
namespace {

// Splits exp(x), for x clipped to between -limit and limit, into power * (1 + rest) with power = 2^n and |rest| < 0.42.
// In bfloat16, a shorter minimax polynomial has a relative error of 1.5e-5. NaN passes through, since the minimum of a
// number and NaN is the second operand.
template <class T>
JAXLSTM_INLINE void exp_parts(Floats x, float limit, Floats& power, Floats& rest) {
  constexpr float kLog2E = 1.44269504f;
  x = (Floats)_mm512_max_ps(_mm512_set1_ps(-limit), _mm512_min_ps(_mm512_set1_ps(limit), (__m512)x));
  const Floats scaled = x * kLog2E;
  const Floats n = (Floats)_mm512_roundscale_ps((__m512)scaled, _MM_FROUND_TO_NEAREST_INT);
  power = (Floats)_mm512_scalef_ps(_mm512_set1_ps(1.0f), (__m512)n);
  if constexpr (kIsHalf<T>) {
    const Floats r = scaled - n;
    Floats p = Floats{} + 0x1.3b2a92p-7f;
    p = p * r + 0x1.c96b4cp-5f;
    p = p * r + 0x1.ebff08p-3f;
    p = p * r + 0x1.62e2d6p-1f;
    rest = p * r;
  } else {
    const Floats r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    rest = (r * r) * exp_polynomial(r) + r;
  }
}

// Returns 1 / d to float32 accuracy, for 2^-126 <= d <= 2^126, and 0 for larger d.
JAXLSTM_INLINE Floats fast_reciprocal(Floats d) {
  const Floats r = (Floats)_mm512_rcp14_ps((__m512)d);
  return r + r * (1.0f - d * r);
}

// Returns 1 / (1 + exp(-x)).
template <>
JAXLSTM_INLINE Floats sigmoid<float>(Floats x) {
  Floats power, rest;
  exp_parts<float>(-x, 88.0f, power, rest);
  const Floats one = power + 1.0f, small = power * rest + (power - (one - 1.0f)), d = one + small;
  const Floats lost = small - (d - one);  // the rounding error of d
  const Floats r = fast_reciprocal(d);
  return r + r * ((1.0f - r * d) - r * lost);
}
template <>
JAXLSTM_INLINE Floats sigmoid<Bfloat16>(Floats x) {
  Floats power, rest;
  exp_parts<Bfloat16>(-x, 87.0f, power, rest);
  return fast_reciprocal((power * rest + power) + 1.0f);
}

// As tanh(x) in vector.h.
template <>
JAXLSTM_INLINE Floats tanh<float>(Floats x) {
  const Ints sign = (Ints)x & int(0x80000000);
  const Floats size = (Floats)((Ints)x ^ sign);
  Floats power, rest;
  exp_parts<float>(size + size, 20.0f, power, rest);
  const Floats beyond = 1.0f - 2.0f * fast_reciprocal(power * rest + (power + 1.0f));
  const Floats y = size < 1.0f ? tanh_near_zero(size) : beyond;
  return (Floats)((Ints)y | sign);
}
// Returns e / (e + 2) with e = exp(2 x) - 1. Beyond the limit the result stays the same.
template <>
JAXLSTM_INLINE Floats tanh<Bfloat16>(Floats x) {
  Floats power, rest;
  exp_parts<Bfloat16>(x + x, 15.0f, power, rest);
  const Floats e = power * rest + (power - 1.0f);
  return e * fast_reciprocal(e + 2.0f);
}

}  // namespace
}  // namespace jaxlstm
