// Sigmoid and tanh of vectors. `clip`, `nearest_power` and `reciprocal` differ between instruction sets; the rest is
// common.
#pragma once
#include <cmath>

#include "vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace jaxlstm {
namespace {

// Returns x clipped to between two limits. NaN passes through: the minimum and maximum of x86 return their second
// operand if one is NaN, and elsewhere both comparisons are false.
JAXLSTM_INLINE Floats clip(Floats x, float low, float high) {
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps(_mm512_set1_ps(low), _mm512_min_ps(_mm512_set1_ps(high), (__m512)x));
#elif defined(__AVX2__)
  return (Floats)_mm256_max_ps(_mm256_set1_ps(low), _mm256_min_ps(_mm256_set1_ps(high), (__m256)x));
#elif defined(__x86_64__)
  return (Floats)_mm_max_ps(_mm_set1_ps(low), _mm_min_ps(_mm_set1_ps(high), (__m128)x));
#else
  x = x > high ? Floats{} + high : x;
  return x < low ? Floats{} + low : x;
#endif
}

// Returns the integer n nearest to x * scale, and sets power to 2^n.
JAXLSTM_INLINE Floats nearest_power(Floats x, float scale, Floats& power) {
#if defined(__AVX512F__)
  const Floats n = (Floats)_mm512_roundscale_ps((__m512)(x * scale), _MM_FROUND_TO_NEAREST_INT);
  power = (Floats)_mm512_scalef_ps(_mm512_set1_ps(1.0f), (__m512)n);
  return n;
#else
  const Floats shift = Floats{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x * scale + shift;
  power = (Floats)(((Ints)shifted << 23) + (127 << 23));
  return shifted - shift;
#endif
}

// Returns 1 / d to float32 accuracy, for 2^-126 <= d <= 2^126; for larger d, it may return 0.
JAXLSTM_INLINE Floats reciprocal(Floats d) {
#if defined(__AVX512F__)
  const Floats r = (Floats)_mm512_rcp14_ps((__m512)d);
  return r + r * (1.0f - d * r);
#else
  return 1.0f / d;
#endif
}

// Returns the minimax polynomial for (exp(r) - 1 - r) / r^2 on [-ln(2)/2, ln(2)/2].
JAXLSTM_INLINE Floats exp_polynomial(Floats r) {
  Floats p = Floats{} + 0x1.6bebf2p-10f;
  p = p * r + 0x1.1227f6p-7f;
  p = p * r + 0x1.555674p-5f;
  p = p * r + 0x1.5554b0p-3f;
  p = p * r + 0x1.fffffep-2f;
  return p;
}
// Splits exp(x), for x clipped to between -limit and limit, into power * (1 + rest) with power = 2^n and |rest| < 0.42.
// It uses Cody and Waite's range reduction.
JAXLSTM_INLINE void exp_parts(Floats x, float limit, Floats& power, Floats& rest) {
  x = clip(x, -limit, limit);
  const Floats n = nearest_power(x, 1.44269504f, power);
  const Floats r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  rest = (r * r) * exp_polynomial(r) + r;
}

// Returns 1 / (1 + exp(-x)).
JAXLSTM_INLINE Floats sigmoid(Floats x) {
  Floats power, rest;
  exp_parts(-x, 88.0f, power, rest);
  const Floats one = power + 1.0f, small = power * rest + (1.0f - (one - power)), d = one + small;
  const Floats lost = small - (d - one);  // the rounding error of d
  const Floats r = reciprocal(d);
  return r + r * ((1.0f - r * d) - r * lost);
}

// Returns tanh(x) for 0 <= x < 1, by the minimax polynomial x + x^3 P(x^2).
JAXLSTM_INLINE Floats tanh_near_zero(Floats x) {
  const Floats square = x * x;
  Floats p = Floats{} - 0.00035845154f;
  p = p * square + 0.002301363f;
  p = p * square - 0.0079461047f;
  p = p * square + 0.021486657f;
  p = p * square - 0.0538798f;
  p = p * square + 0.13332345f;
  p = p * square - 0.33333296f;
  return x + x * (square * p);
}
// Returns tanh(x): for |x| < 1 a polynomial, otherwise 1 - 2 / (exp(2|x|) + 1) with the sign of x.
JAXLSTM_INLINE Floats tanh(Floats x) {
  const Ints sign = (Ints)x & int(0x80000000);
  const Floats size = (Floats)((Ints)x ^ sign);
  Floats power, rest;
  exp_parts(size + size, 20.0f, power, rest);
  const Floats beyond = 1.0f - 2.0f * reciprocal(power * rest + (power + 1.0f));
  const Floats y = size < 1.0f ? tanh_near_zero(size) : beyond;
  return (Floats)((Ints)y | sign);
}

// float64 is used to verify results, not for speed: these call the C library for each lane.
JAXLSTM_INLINE Doubles sigmoid(Doubles x) {
  for (int l = 0; l < kLanes<double>; l++) x[l] = 1.0 / (1.0 + std::exp(-x[l]));
  return x;
}
JAXLSTM_INLINE Doubles tanh(Doubles x) {
  for (int l = 0; l < kLanes<double>; l++) x[l] = std::tanh(x[l]);
  return x;
}

// The functions of a cell in dtype T.
template <class T>
JAXLSTM_INLINE Vector<T> sigmoid(Vector<T> x) { return sigmoid(x); }
template <class T>
JAXLSTM_INLINE Vector<T> tanh(Vector<T> x) { return tanh(x); }

#if defined(__AVX512BF16__)
// Sigmoid and tanh of a cell whose products are bfloat16, in 0.5 to 0.65 of the instructions of the float32 ones.
//
// For x >= -87 their relative errors are below 2^-15, where rounding to bfloat16 has 2^-9. For |x| < 3, the factors
// 1 - sigmoid and 1 - |tanh| of the derivatives have relative errors below 2^-14 and 2^-13.

// As exp_parts in activations.h, with a shorter minimax polynomial, whose relative error is 1.5e-5.
JAXLSTM_INLINE void short_exp_parts(Floats x, float limit, Floats& power, Floats& rest) {
  constexpr float kLog2E = 1.44269504f;
  x = clip(x, -limit, limit);
  const Floats n = nearest_power(x, kLog2E, power);
  const Floats r = x * kLog2E - n;
  Floats p = Floats{} + 0x1.3b2a92p-7f;
  p = p * r + 0x1.c96b4cp-5f;
  p = p * r + 0x1.ebff08p-3f;
  p = p * r + 0x1.62e2d6p-1f;
  rest = p * r;
}

template <>
JAXLSTM_INLINE Floats sigmoid<Bfloat16>(Floats x) {
  Floats power, rest;
  short_exp_parts(-x, 87.0f, power, rest);
  return reciprocal((power * rest + power) + 1.0f);
}

// Returns e / (e + 2) with e = exp(2 x) - 1. Beyond the limit the result stays the same.
template <>
JAXLSTM_INLINE Floats tanh<Bfloat16>(Floats x) {
  Floats power, rest;
  short_exp_parts(x + x, 15.0f, power, rest);
  const Floats e = power * rest + (power - 1.0f);
  return e * reciprocal(e + 2.0f);
}
#endif

}  // namespace
}  // namespace jaxlstm
