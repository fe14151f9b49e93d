// The tile registers of AMX, which multiply numbers of 16 bits ten times as fast as vectors multiply float32.
//
// A tile register holds 16 rows of 64 bytes. A left operand is stored as tiles of 16 rows by 32 k. A right operand is
// stored as tiles of 16 pairs of k by 16 columns, since a tile product sums pairs of adjacent k; a panel (panel.h) has
// four tiles for every 32 k. A result tile has 16 by 16 float32. A "row tile" is 16 rows of a left operand, a "k tile"
// 32 k of either operand. Tiles at the edge are filled with zeros.
#pragma once
#include <immintrin.h>

#include "bfloat16.h"

namespace jaxlstm {
namespace {

typedef uint16_t TileBits;  // a bfloat16 or float16
constexpr long kTileDepth = 32;                     // k per tile
constexpr long kTileSize = 512, kResultSize = 256;  // elements per operand tile and per result tile

// Not std::min, since this header is compiled for several instruction sets (vector.h).
JAXLSTM_INLINE long minimum(long a, long b) { return a < b ? a : b; }

// Configures the tile registers of this thread as eight tiles of 64 bytes per row, for the lifetime of the object.
class TileRegisters {
 public:
  TileRegisters() { set_rows(16); }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;

  // Sets the number of rows of left operands and results, which may be less than 16 for products of one row tile
  // (multiply_1_by_4). A product of few rows takes less time. All tiles become zero.
  static void set_rows(long rows) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    for (int tile = 0; tile < 7 && rows < 16; tile++) config.rows[tile] = uint8_t(rows);
    _tile_loadconfig(&config);
  }
};

// Sets all lanes but the first n to zero: products with the zeros that fill a tile would turn NaN into more NaN.
JAXLSTM_INLINE Floats first_lanes(Floats v, long n) {
  return n == 16 ? v : (Floats)_mm512_maskz_mov_ps(__mmask16((1 << n) - 1), (__m512)v);
}

// Loads the first `count` lanes and sets the others to zero. `count` may be negative or larger than 16.
JAXLSTM_INLINE Floats load_masked(const float* p, long count) {
  return (Floats)_mm512_maskz_loadu_ps(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1, p);
}
JAXLSTM_INLINE Floats load_masked(const Bfloat16* p, long count) { return load(p, count < 0 ? 0 : count); }

// The numbers of 16 bits, called parts, that represent a number in an operand of a product.

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
