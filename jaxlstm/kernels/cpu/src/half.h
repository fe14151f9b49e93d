// Half precision: the types that hold a number in 16 bits.
#pragma once
#include <cstdint>
#include <type_traits>

namespace jaxlstm {

struct Bfloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

template <class T>
constexpr bool kIsHalf = std::is_same_v<T, Bfloat16> || std::is_same_v<T, Float16>;
// The type of sums and of the state: float for half precision, else T.
template <class T>
using Wide = std::conditional_t<kIsHalf<T>, float, T>;

}  // namespace jaxlstm
