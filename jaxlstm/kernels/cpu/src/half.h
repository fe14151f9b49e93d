// Half precision: the types that hold a number in 16 bits, and their conversion.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace jaxlstm {

struct Bfloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

template <class T>
constexpr bool kIsHalf = std::is_same_v<T, Bfloat16> || std::is_same_v<T, Float16>;
// The type of sums and of the state: float for half precision, else T.
template <class T>
using Wide = std::conditional_t<kIsHalf<T>, float, T>;

namespace {

// Conversion to float32 and back, rounding to nearest even, in loops that compilers vectorize. No intermediate number
// is subnormal, since those are zeros in a pass (kernels.cc) and on XLA's threads.

template <class To, class From>
inline __attribute__((always_inline)) To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits of equal number");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class T, std::enable_if_t<!kIsHalf<T>, int> = 0>
T widen(T value) { return value; }

inline __attribute__((always_inline)) float widen(Bfloat16 half) { return same_bits<float>(uint32_t(half.bits) << 16); }

inline __attribute__((always_inline)) float widen(Float16 half) {
  constexpr uint32_t kExponent = 31u << 23;  // of infinity and NaN, in the place of a float's exponent
  const uint32_t shifted = (half.bits & 0x7fffu) << 13, sign = (half.bits & 0x8000u) << 16;
  const uint32_t normal = shifted + ((127 - 15) << 23), special = shifted + ((255 - 31) << 23);
  // A subnormal half is f 2^-24: the float 2^-14 (1 + f 2^-10) minus 2^-14.
  const float subnormal = same_bits<float>(shifted + ((127 - 14) << 23)) - 0x1p-14f;
  const uint32_t size = shifted >= kExponent ? special : shifted >> 23 ? normal : same_bits<uint32_t>(subnormal);
  return same_bits<float>(size | sign);
}

inline __attribute__((always_inline)) void narrow(float value, Bfloat16& half) {
  const uint32_t bits = same_bits<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, nan = (bits >> 16) | 0x40;
  half.bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

inline __attribute__((always_inline)) void narrow(float value, Float16& half) {
  constexpr uint32_t kOverflow = (127u + 16) << 23, kSmallestNormal = (127u - 14) << 23, kInfinity = 255u << 23;
  const uint32_t bits = same_bits<uint32_t>(value), size = bits & 0x7fffffff;
  const uint32_t normal = (size - ((127u - 15) << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
  // Adding 1/2 leaves a multiple of 2^-24, the spacing of subnormal halves, in the last bits.
  const uint32_t subnormal = same_bits<uint32_t>(same_bits<float>(size) + 0.5f) - same_bits<uint32_t>(0.5f);
  const uint32_t beyond = size > kInfinity ? 0x7e00 : 0x7c00;  // NaN or infinity
  half.bits = uint16_t((size >= kOverflow ? beyond : size < kSmallestNormal ? subnormal : normal) | bits >> 31 << 15);
}

template <class T>
void widen(const T* from, float* to, long count) {
  for (long i = 0; i < count; i++) to[i] = widen(from[i]);
}
template <class T>
void narrow(const float* from, T* to, long count) {
  for (long i = 0; i < count; i++) narrow(from[i], to[i]);
}

}  // namespace
}  // namespace jaxlstm
