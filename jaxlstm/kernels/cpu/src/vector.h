// Vectors of one instruction set, in the extensions of GCC and Clang, and the two nonlinearities on them.
//
// This file and those that include it are compiled once for each instruction set. All in them is in an
// unnamed namespace: a linker may otherwise keep one copy of an inline function for all, built for a
// processor that is not there.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>

#define JAXLSTM_INLINE inline __attribute__((always_inline))

namespace jaxlstm {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 6, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kTileRows = 3, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kTileRows = 6, kRegisters = 32;
#else
constexpr int kVectorBytes = 16, kTileRows = 2, kRegisters = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
JAXLSTM_INLINE Vector<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}
template <class T>
JAXLSTM_INLINE void store(T* p, Vector<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}
// The first n lanes, n <= kLanes: the last vector of a row, where memory ends.
template <class T>
JAXLSTM_INLINE Vector<T> load(const T* p, long n) {
  if (n == kLanes<T>) return load(p);
  T part[kLanes<T>] = {};
  for (long l = 0; l < n; l++) part[l] = p[l];
  return load(part);
}
template <class T>
JAXLSTM_INLINE void store(T* p, Vector<T> v, long n) {
  if (n == kLanes<T>) return store(p, v);
  for (long l = 0; l < n; l++) p[l] = v[l];
}
// The value in a register, of which the compiler knows nothing more.
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
  return opaque(s - Vector<T>{});  // GCC would read it from memory anew for each product
}
// a b + c d, rounded in one way wherever it is inlined: compilers choose which product they fuse with the sum.
template <class V>
JAXLSTM_INLINE V sum_of_products(V a, V b, V c, V d) {
  return a * b + opaque(c * d);
}

// Of two vectors, one whose lane l is lane l of a, or lane l - S of b where l has the bit S; and the other half.
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
// Rows become columns: a square of kLanes by kLanes.
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

// 1 / (d + rest), for d from 1 to 2^127 and |rest| below its spacing: an estimate, or a division where there is
// none, and Newton's steps.
JAXLSTM_INLINE Floats reciprocal(Floats d, Floats rest = Floats{}) {
#if defined(__AVX512F__)
  typedef float V16 __attribute__((vector_size(64)));
  Floats r = (Floats)__builtin_ia32_rcp14ps512_mask((V16)d, V16{}, (unsigned short)-1);
  r += r * (1.0f - d * r);
#else
  const Floats r = 1.0f / d;
#endif
  return r + r * ((1.0f - d * r) - rest * r);
}

// exp(x) = power * (1 + rest) with power = 2^n and |rest| < 0.42, for |x| <= 88. Cody and Waite's reduction;
// the polynomial is a minimax fit of expm1 on [-ln(2)/2, ln(2)/2].
JAXLSTM_INLINE void exp_parts(Floats x, Floats& power, Floats& rest) {
  const Floats shift = Floats{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x * 1.44269504f + shift;
  const Floats n = shifted - shift;
  const Floats high = x - n * 0.693145752f, r = high - n * 1.42860677e-6f;
  const Floats lost = (high - r) - n * 1.42860677e-6f;  // of r, by rounding
  Floats p = Floats{} + 0x1.6bebf2p-10f;
  p = p * r + 0x1.1227f6p-7f;
  p = p * r + 0x1.555674p-5f;
  p = p * r + 0x1.5554b0p-3f;
  p = p * r + 0x1.fffffep-2f;
  rest = ((r * r) * p + lost) + r;
  power = (Floats)(((Ints)shifted << 23) + (127 << 23));
}

// 1 / (1 + exp(-x)). NaN stays NaN, since neither comparison holds for it.
JAXLSTM_INLINE Floats sigmoid(Floats x) {
  Floats y = -x, power, rest;
  y = y < -88.0f ? Floats{} - 88.0f : y;
  y = y > 88.0f ? Floats{} + 88.0f : y;
  exp_parts(y, power, rest);
  const Floats larger = power < 1.0f ? Floats{} + 1.0f : power, smaller = power < 1.0f ? power : Floats{} + 1.0f;
  const Floats sum = power + 1.0f, lost = smaller - (sum - larger);  // by rounding, exactly (Dekker 1971)
  const Floats small = power * rest + lost, d = sum + small;
  return reciprocal(d, small - (d - sum));
}

// x + x^3 P(x^2) below 1, a minimax fit, and 1 - 2 / (exp(2|x|) + 1) from there on.
JAXLSTM_INLINE Floats tanh(Floats x) {
  const Ints sign = (Ints)x & int(0x80000000);
  Floats size = (Floats)((Ints)x ^ sign);
  const Floats square = x * x;
  Floats p = Floats{} - 0.00035845154f;
  p = p * square + 0.002301363f;
  p = p * square - 0.0079461047f;
  p = p * square + 0.021486657f;
  p = p * square - 0.0538798f;
  p = p * square + 0.13332345f;
  p = p * square - 0.33333296f;
  const Floats near_zero = size + size * (square * p);
  const Floats capped = size > 10.0f ? Floats{} + 10.0f : size;
  Floats power, rest;
  exp_parts(capped + capped, power, rest);
  const Floats beyond = 1.0f - 2.0f * reciprocal(power * rest + (power + 1.0f));
  const Floats y = size < 1.0f ? near_zero : beyond;
  return (Floats)((Ints)y | sign);
}

// float64 serves to verify, not to be fast: the functions of the C library, lane by lane.
JAXLSTM_INLINE Doubles sigmoid(Doubles x) {
  for (int l = 0; l < kLanes<double>; l++) x[l] = 1.0 / (1.0 + std::exp(-x[l]));
  return x;
}
JAXLSTM_INLINE Doubles tanh(Doubles x) {
  for (int l = 0; l < kLanes<double>; l++) x[l] = std::tanh(x[l]);
  return x;
}

}  // namespace
}  // namespace jaxlstm
