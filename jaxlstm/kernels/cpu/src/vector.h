// Vectors of one instruction set, in the vector extensions of GCC and Clang.
//
// This header and the headers that include it are compiled once for each instruction set. Everything in them is in an
// unnamed namespace. Otherwise the linker could keep a single copy of an inline function, compiled for instructions
// that the processor lacks.
#pragma once
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__)
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
#if defined(__AVX512F__)
JAXLSTM_INLINE Vector<float> load(const float* p, long n) {
  return (Vector<float>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
JAXLSTM_INLINE void store(float* p, Vector<float> v, long n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
}
#endif
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
// Copies numbers, in half precision (bfloat16.h) rounded or widened.
template <class T>
JAXLSTM_INLINE void copy_numbers(const T* from, T* to, long count) { std::memcpy(to, from, size_t(count) * sizeof(T)); }
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

}  // namespace
}  // namespace jaxlstm
