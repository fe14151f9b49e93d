// Vectors of one instruction set, in the vector extensions of GCC and Clang, with sigmoid and tanh.
//
// This header and the headers that include it are compiled once for each instruction set. Everything in them is in an
// unnamed namespace. Otherwise the linker could keep a single copy of an inline function, compiled for instructions
// that the processor lacks.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__AMX_BF16__)
#include <immintrin.h>
#endif

#include "half.h"

#define JAXLSTM_INLINE inline __attribute__((always_inline))

namespace jaxlstm {
namespace {

// The size of a vector, the number of rows in a register block (panel.h), and the number of vector registers.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kMaxBlockRows = 6, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kMaxBlockRows = 3, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kMaxBlockRows = 6, kRegisters = 32;
#else
constexpr int kVectorBytes = 16, kMaxBlockRows = 2, kRegisters = 16;
#endif

// A vector of half-precision numbers holds them widened to float32.
template <class T>
struct VectorOf {
  typedef Wide<T> Element;
  typedef Element type __attribute__((vector_size(kVectorBytes)));
  typedef Element unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(Element)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(Wide<T>));

template <class T>
JAXLSTM_INLINE Vector<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}
template <class T>
JAXLSTM_INLINE void store(T* p, Vector<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}
// Loads and stores only the first n lanes, for the last vector of a row.
template <class T>
JAXLSTM_INLINE Vector<T> load(const T* p, long n) {
  if (n == kLanes<T>) return load(p);
  T lanes[kLanes<T>] = {};
  for (long l = 0; l < n; l++) lanes[l] = p[l];
  return load(lanes);
}
template <class T>
JAXLSTM_INLINE void store(T* p, Vector<T> v, long n) {
  if (n == kLanes<T>) return store(p, v);
  for (long l = 0; l < n; l++) p[l] = v[l];
}
// Stores past the caches, so that the processor does not first read the lines that it overwrites. The calling thread
// must call finish_streams before other threads read or overwrite them. This was faster on a Xeon with AMX, and not on
// AMD Zen 4.
#if defined(__AMX_BF16__)
constexpr bool kStreams = true;
template <class T>
JAXLSTM_INLINE void stream(T* p, Vector<T> v, long n) {
  if (n == kLanes<T> && uintptr_t(p) % 64 == 0) _mm512_stream_si512((__m512i*)p, (__m512i)v);
  else store(p, v, n);
}
JAXLSTM_INLINE void finish_streams() { _mm_sfence(); }
#else
constexpr bool kStreams = false;
template <class T>
JAXLSTM_INLINE void stream(T* p, Vector<T> v, long n) { store(p, v, n); }
JAXLSTM_INLINE void finish_streams() {}
#endif
template <class T>
JAXLSTM_INLINE void copy_rounded(const T* from, T* to, long count) { std::memcpy(to, from, size_t(count) * sizeof(T)); }
template <class T>
JAXLSTM_INLINE void copy_widened(const T* from, T* to, long count) { std::memcpy(to, from, size_t(count) * sizeof(T)); }
// Returns v in a register, and hides from the optimizer how it was computed.
template <class V>
JAXLSTM_INLINE V opaque(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}
template <class T>
JAXLSTM_INLINE Vector<T> broadcast(T s) {
  // Without `opaque`, GCC reads the element from memory again for each product.
  return opaque(s - Vector<T>{});
}
// Returns a b + c d. Compilers choose which of the products they fuse with the sum, so the rounding would depend on
// where the function is inlined; `opaque` fixes the choice.
template <class V>
JAXLSTM_INLINE V sum_of_products(V a, V b, V c, V d) {
  return a * b + opaque(c * d);
}

// One stage of a transposition: exchanges the lanes of a whose index has the bit S with the lanes of b that lack it.
template <int S, class T>
JAXLSTM_INLINE void exchange_lanes(Vector<T>& a, Vector<T>& b) {
  constexpr int L = kLanes<T>;
#if defined(__clang__)
  Vector<T> low, high;
  for (int l = 0; l < L; l++) low[l] = l & S ? b[l - S] : a[l], high[l] = l & S ? b[l] : a[l + S];
#else
  typedef typename std::conditional<sizeof(T) == 4, int, long>::type Index __attribute__((vector_size(kVectorBytes)));
  Index from_low, from_high;
  for (int l = 0; l < L; l++) from_low[l] = l & S ? L + l - S : l, from_high[l] = l & S ? L + l : l + S;
  const Vector<T> low = __builtin_shuffle(a, b, from_low), high = __builtin_shuffle(a, b, from_high);
#endif
  a = low, b = high;
}
// Transposes a square of kLanes x kLanes, in log2(kLanes) stages.
template <class T, int S = 1>
JAXLSTM_INLINE void transpose(Vector<T> (&rows)[kLanes<T>]) {
  if constexpr (S < kLanes<T>) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; i++)
      if (!(i & S)) exchange_lanes<S, T>(rows[i], rows[i + S]);
    transpose<T, 2 * S>(rows);
  }
}

typedef Vector<float> Floats;
typedef int Ints __attribute__((vector_size(kVectorBytes)));
typedef Vector<double> Doubles;

// Returns 1 / (d + rest), for 1 <= d <= 2^127 and |rest| smaller than the spacing of floats at d, by a division and
// a step of Newton's method.
JAXLSTM_INLINE Floats reciprocal(Floats d, Floats rest = Floats{}) {
  const Floats r = 1.0f / d;
  return r + r * ((1.0f - d * r) - rest * r);
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
// Splits exp(x), for |x| <= 88, into power * (1 + rest) with power = 2^n and |rest| < 0.42. It uses Cody and Waite's
// range reduction.
JAXLSTM_INLINE void exp_parts(Floats x, Floats& power, Floats& rest) {
  const Floats shift = Floats{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x * 1.44269504f + shift;
  const Floats n = shifted - shift;
  const Floats high = x - n * 0.693145752f, r = high - n * 1.42860677e-6f;
  const Floats lost = (high - r) - n * 1.42860677e-6f;  // the rounding error of r
  rest = ((r * r) * exp_polynomial(r) + lost) + r;
  power = (Floats)(((Ints)shifted << 23) + (127 << 23));
}

// Returns 1 / (1 + exp(-x)). NaN passes through, because both comparisons with it are false.
JAXLSTM_INLINE Floats sigmoid(Floats x) {
  Floats y = -x, power, rest;
  y = y < -88.0f ? Floats{} - 88.0f : y;
  y = y > 88.0f ? Floats{} + 88.0f : y;
  exp_parts(y, power, rest);
  const Floats larger = power < 1.0f ? Floats{} + 1.0f : power, smaller = power < 1.0f ? power : Floats{} + 1.0f;
  const Floats sum = power + 1.0f, lost = smaller - (sum - larger);  // exact (Dekker 1971)
  const Floats small = power * rest + lost, d = sum + small;
  return reciprocal(d, small - (d - sum));
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
  const Floats capped = size > 10.0f ? Floats{} + 10.0f : size;
  Floats power, rest;
  exp_parts(capped + capped, power, rest);
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

// The functions of a cell in dtype T. For AVX-512, avx512_activations.h has others.
template <class T>
JAXLSTM_INLINE Vector<T> sigmoid(Vector<T> x) { return sigmoid(x); }
template <class T>
JAXLSTM_INLINE Vector<T> tanh(Vector<T> x) { return tanh(x); }

}  // namespace
}  // namespace jaxlstm
