// Products on AMX of the operands in amx_operands.h.
//
// A product a b is a sum of partial products of parts, of which the largest suffice for float32 accuracy:
//
//   a_1 b_1 + (a_1 b_2 + a_2 b_1) + (a_1 b_3 + a_2 b_2 + a_3 b_1)     with three bfloat16
//   a_1 b_1 + (a_1 b_2 + a_2 b_1)                                     with two float16
//
// They accumulate in float32. With three bfloat16 the five small terms come first for all k, then a_1 b_1: so rounding
// at the magnitude of the result occurs no more often than in a sum of float32 products. With two float16 all terms of
// a k tile are added together, which takes fewer tile loads. In bfloat16, a_1 b_1 is the product.
#pragma once
#include "amx_operands.h"

namespace jaxlstm {
namespace {

// The instruction TDPFP16PS, which compilers know since GCC 13 and Clang 16.
#define JAXLSTM_DPFP16PS(to, a, b) \
  asm volatile(".byte 0xc4, 0xe2, %c0, 0x5c, %c1" : : "i"((~(b) & 15) << 3 | 3), "i"(0xc0 | (to) << 3 | (a)))

// The tile intrinsics take register numbers as literals, hence macros. JAXLSTM_2_BY_2 multiplies two left tiles in
// registers 4 and 5 with two right tiles in 6 and 7; JAXLSTM_1_BY_4 multiplies the left tile in register `a` with the
// four tiles of a panel from memory. Results accumulate in registers 0 to 3.
#define JAXLSTM_LOAD(tile, from) _tile_loadd(tile, from, 64)
#define JAXLSTM_LOAD_RIGHT(tile, from) _tile_loadd(tile, from, Right::kRowStep * sizeof(TileBits))
#define JAXLSTM_LOAD_PAIR(from) \
  do { JAXLSTM_LOAD_RIGHT(6, from); JAXLSTM_LOAD_RIGHT(7, (from) + Right::kNext); } while (0)
#define JAXLSTM_MULTIPLY(to, a, b) \
  do { if constexpr (kIsFloat16<P>) JAXLSTM_DPFP16PS(to, a, b); else _tile_dpbf16ps(to, a, b); } while (0)
#define JAXLSTM_2_BY_2() \
  do { \
    JAXLSTM_MULTIPLY(0, 4, 6); JAXLSTM_MULTIPLY(1, 4, 7); JAXLSTM_MULTIPLY(2, 5, 6); JAXLSTM_MULTIPLY(3, 5, 7); \
  } while (0)
#define JAXLSTM_1_BY_1(n, a, b) do { JAXLSTM_LOAD_RIGHT(7, b); JAXLSTM_MULTIPLY(n, a, 7); } while (0)
#define JAXLSTM_1_BY_4(a, b, half) \
  do { \
    JAXLSTM_1_BY_1(0, a, b); JAXLSTM_1_BY_1(1, a, (b) + Right::kNext); \
    JAXLSTM_1_BY_1(2, a, (b) + half); JAXLSTM_1_BY_1(3, a, (b) + half + Right::kNext); \
  } while (0)

// For accuracy, at most this many k tiles accumulate in the tile registers. Longer products are sums of such products.
constexpr long kMaxChainTiles = 16;

// Multiplies two row tiles, starting at tile `a`, with two tiles of a panel. It calls `interleaved` after each group of
// four tile products, to run on the vector units while AMX multiplies. The empty asm statement keeps the compiler from
// moving stores to the operands past the tile loads.
//
// After every 12 or 20 products it stores a tile that nobody reads: on the Xeon of docs/benchmarks.md, loops with more
// than about 130 products between two tile stores take up to 25 % longer. The reason is not known.
template <class P, class Right, class Interleaved>
JAXLSTM_INLINE void multiply_2_by_2(const TileBits* a, long a_step, const TileBits* b, long k_tiles, float* above,
                                    float* below, Interleaved&& interleaved) {
  constexpr long kBelow = P::kCount * kTileSize, kB = Right::kPartStep, b_step = Right::kTileStep;
  alignas(64) float unused[kResultSize];
  asm volatile("" ::: "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; P::kCount == 2 && k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *a_2 = a_1 + kTileSize, *b_1 = b + k * b_step, *b_2 = b_1 + kB;
    JAXLSTM_LOAD_PAIR(b_2);
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kBelow); JAXLSTM_2_BY_2(); interleaved();
    JAXLSTM_LOAD_PAIR(b_1); JAXLSTM_2_BY_2(); interleaved();
    JAXLSTM_LOAD(4, a_2); JAXLSTM_LOAD(5, a_2 + kBelow); JAXLSTM_2_BY_2(); interleaved();
    _tile_stored(5, unused, 64);
  }
  for (long k = 0; P::kCount == 3 && k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *a_2 = a_1 + kTileSize, *a_3 = a_2 + kTileSize;
    const TileBits *b_1 = b + k * b_step, *b_2 = b_1 + kB, *b_3 = b_2 + kB;
    JAXLSTM_LOAD_PAIR(b_3);
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kBelow); JAXLSTM_2_BY_2(); interleaved();
    JAXLSTM_LOAD_PAIR(b_2); JAXLSTM_2_BY_2(); interleaved();
    JAXLSTM_LOAD(4, a_2); JAXLSTM_LOAD(5, a_2 + kBelow); JAXLSTM_2_BY_2(); interleaved();
    JAXLSTM_LOAD_PAIR(b_1); JAXLSTM_2_BY_2(); interleaved();
    JAXLSTM_LOAD(4, a_3); JAXLSTM_LOAD(5, a_3 + kBelow); JAXLSTM_2_BY_2(); interleaved();
    _tile_stored(5, unused, 64);
  }
  for (long k = 0; P::kCount != 2 && k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *b_1 = b + k * b_step;
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kBelow);
    JAXLSTM_LOAD_PAIR(b_1); JAXLSTM_2_BY_2(); interleaved();
  }
  _tile_stored(0, above, 64); _tile_stored(1, above + kResultSize, 64);
  _tile_stored(2, below, 64); _tile_stored(3, below + kResultSize, 64);
}

// Multiplies one row tile with the four tiles of a panel, whose halves are `half_step` elements apart, in the same
// order of additions.
template <class P, class Right, class Interleaved>
JAXLSTM_INLINE void multiply_1_by_4(const TileBits* a, long a_step, const TileBits* b, long half_step, long k_tiles,
                                    float* results, Interleaved&& interleaved) {
  constexpr long kB = Right::kPartStep, b_step = Right::kTileStep;
  asm volatile("" ::: "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; P::kCount == 2 && k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *b_1 = b + k * b_step, *b_2 = b_1 + kB;
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kTileSize);
    JAXLSTM_1_BY_4(4, b_2, half_step); interleaved();
    JAXLSTM_1_BY_4(4, b_1, half_step); interleaved();
    JAXLSTM_1_BY_4(5, b_1, half_step); interleaved();
  }
  for (long k = 0; P::kCount == 3 && k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *b_1 = b + k * b_step, *b_2 = b_1 + kB, *b_3 = b_2 + kB;
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kTileSize); JAXLSTM_LOAD(6, a_1 + 2 * kTileSize);
    JAXLSTM_1_BY_4(4, b_3, half_step); interleaved();
    JAXLSTM_1_BY_4(4, b_2, half_step); interleaved();
    JAXLSTM_1_BY_4(5, b_2, half_step); interleaved();
    JAXLSTM_1_BY_4(5, b_1, half_step); interleaved();
    JAXLSTM_1_BY_4(6, b_1, half_step); interleaved();
  }
  for (long k = 0; P::kCount != 2 && k < k_tiles; k++) {
    JAXLSTM_LOAD(4, a + k * a_step);
    JAXLSTM_1_BY_4(4, b + k * b_step, half_step); interleaved();
  }
  _tile_stored(0, results, 64); _tile_stored(1, results + kResultSize, 64);
  _tile_stored(2, results + 2 * kResultSize, 64); _tile_stored(3, results + 3 * kResultSize, 64);
}

// Adds tiles of results.
JAXLSTM_INLINE void add_tiles(float* to, const float* from, int tiles) {
  for (long i = 0; i < tiles * kResultSize; i += 16) store(to + i, load(to + i) + load(from + i));
}

// Multiplies pairs of row tiles with two tiles of a panel, and stores the results or adds them. results(row_tile)
// points to two adjacent tiles.
template <class Right, class P, class Results, class Interleaved>
JAXLSTM_INLINE void multiply_half(const LeftOperand<P>& left, long pairs, const TileBits* b, long k_tiles,
                                  Results&& results, Interleaved&& interleaved, bool adds = false) {
  const long step = left.row_tiles * P::kCount * kTileSize;
  alignas(64) float partial[4 * kResultSize];
  for (long k = 0; k < k_tiles; k += kMaxChainTiles, adds = true)
    for (long pair = 0; pair < pairs; pair++) {
      float *above = results(2 * pair), *below = results(2 * pair + 1);
      float *to_above = adds ? partial : above, *to_below = adds ? partial + 2 * kResultSize : below;
      multiply_2_by_2<P, Right>(left.at(k, 2 * pair), step, b + k * Right::kTileStep,
                                minimum(kMaxChainTiles, k_tiles - k), to_above, to_below, interleaved);
      if (adds) add_tiles(above, to_above, 2), add_tiles(below, to_below, 2);
    }
}

// Multiplies the first `row_tiles` row tiles with one panel, and stores the results or adds them. results(row_tile)
// points to four adjacent tiles.
template <class P, class Right, class Results, class Interleaved>
JAXLSTM_INLINE void multiply_panel(const LeftOperand<P>& left, long row_tiles, const Right& right, long panel,
                                   Results&& results, Interleaved&& interleaved, bool adds = false) {
  for (int v = 0; v < 4; v += 2)
    multiply_half<Right>(left, row_tiles / 2, right.at(panel, 0, v), right.k_tiles,
                         [&](long row_tile) { return results(row_tile) + v * kResultSize; }, interleaved, adds);
  if (row_tiles % 2 == 0) return;
  const long last = row_tiles - 1, half_step = right.at(panel, 0, 2) - right.at(panel, 0, 0);
  alignas(64) float partial[4 * kResultSize];
  for (long k = 0; k < right.k_tiles; k += kMaxChainTiles, adds = true) {
    multiply_1_by_4<P, Right>(left.at(k, last), left.row_tiles * P::kCount * kTileSize, right.at(panel, k, 0),
                              half_step, minimum(kMaxChainTiles, right.k_tiles - k), adds ? partial : results(last),
                              interleaved);
    if (adds) add_tiles(results(last), partial, 4);
  }
}

// Returns how often multiply_panel calls `interleaved`.
template <class P>
JAXLSTM_INLINE long interleaved_calls(long row_tiles, long k_tiles) {
  return row_tiles * k_tiles * P::kTerms;
}

}  // namespace
}  // namespace jaxlstm
