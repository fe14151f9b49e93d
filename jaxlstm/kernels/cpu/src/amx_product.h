// Products on AMX of the operands in amx.h.
//
// In float32, a product a b has nine partial products of parts, of which the six largest suffice for float32 accuracy:
//
//   a_1 b_1 + (a_1 b_2 + a_2 b_1) + (a_1 b_3 + a_2 b_2 + a_3 b_1)
//
// They accumulate in float32: first the five small terms for all k, then a_1 b_1. So rounding at the magnitude of the
// result occurs no more often than in a sum of float32 products. In bfloat16, a_1 b_1 is the product.
#pragma once
#include "amx.h"

namespace jaxlstm {
namespace {

template <class T>
constexpr bool kHasSmallTerms = kParts<T> > 1;

// The tile intrinsics take register numbers as literals, hence macros. JAXLSTM_2_BY_2 multiplies two left tiles in
// registers 4 and 5 with two right tiles in 6 and 7; JAXLSTM_1_BY_4 multiplies the left tile in register `a` with four
// right tiles from memory. Results accumulate in registers 0 to 3.
#define JAXLSTM_LOAD(tile, from) _tile_loadd(tile, from, 64)
#define JAXLSTM_2_BY_2() \
  do { _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7); } while (0)
#define JAXLSTM_1_BY_1(n, a, b) do { JAXLSTM_LOAD(7, (b) + n * kTileSize); _tile_dpbf16ps(n, a, 7); } while (0)
#define JAXLSTM_1_BY_4(a, b) \
  do { \
    JAXLSTM_1_BY_1(0, a, b); JAXLSTM_1_BY_1(1, a, b); JAXLSTM_1_BY_1(2, a, b); JAXLSTM_1_BY_1(3, a, b); \
  } while (0)

// Multiplies two row tiles, starting at tile `a`, with two of the four tiles of a panel. It calls `interleaved` once
// for each k tile, to run on the vector units while AMX multiplies. The empty asm statement keeps the compiler from
// moving stores to the operands past the tile loads.
template <class T, class Interleaved>
JAXLSTM_INLINE void multiply_2_by_2(const TileBits* a, long a_step, const TileBits* b, long k_tiles, float* above,
                                    float* below, Interleaved&& interleaved) {
  constexpr long kBelow = kParts<T> * kTileSize, kB = RightOperand<T>::kPartStep, b_step = RightOperand<T>::kTileStep;
  asm volatile("" ::: "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; kHasSmallTerms<T> && k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *a_2 = a_1 + kTileSize, *a_3 = a_2 + kTileSize;
    const TileBits *b_1 = b + k * b_step, *b_2 = b_1 + kB, *b_3 = b_2 + kB;
    JAXLSTM_LOAD(6, b_3); JAXLSTM_LOAD(7, b_3 + kTileSize);
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kBelow); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(6, b_2); JAXLSTM_LOAD(7, b_2 + kTileSize); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(4, a_2); JAXLSTM_LOAD(5, a_2 + kBelow); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(6, b_1); JAXLSTM_LOAD(7, b_1 + kTileSize); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(4, a_3); JAXLSTM_LOAD(5, a_3 + kBelow); JAXLSTM_2_BY_2();
    interleaved();
  }
  for (long k = 0; k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *b_1 = b + k * b_step;
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kBelow);
    JAXLSTM_LOAD(6, b_1); JAXLSTM_LOAD(7, b_1 + kTileSize); JAXLSTM_2_BY_2();
    if constexpr (!kHasSmallTerms<T>) interleaved();
  }
  _tile_stored(0, above, 64); _tile_stored(1, above + kResultSize, 64);
  _tile_stored(2, below, 64); _tile_stored(3, below + kResultSize, 64);
}

// Multiplies one row tile with all four tiles of a panel, in the same order of additions.
template <class T, class Interleaved>
JAXLSTM_INLINE void multiply_1_by_4(const TileBits* a, long a_step, const TileBits* b, long k_tiles, float* results,
                                    Interleaved&& interleaved) {
  constexpr long kB = RightOperand<T>::kPartStep, b_step = RightOperand<T>::kTileStep;
  asm volatile("" ::: "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; kHasSmallTerms<T> && k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *b_1 = b + k * b_step, *b_2 = b_1 + kB, *b_3 = b_2 + kB;
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kTileSize); JAXLSTM_LOAD(6, a_1 + 2 * kTileSize);
    JAXLSTM_1_BY_4(4, b_3);
    JAXLSTM_1_BY_4(4, b_2);
    JAXLSTM_1_BY_4(5, b_2);
    JAXLSTM_1_BY_4(5, b_1);
    JAXLSTM_1_BY_4(6, b_1);
    interleaved();
  }
  for (long k = 0; k < k_tiles; k++) {
    JAXLSTM_LOAD(4, a + k * a_step);
    JAXLSTM_1_BY_4(4, b + k * b_step);
    if constexpr (!kHasSmallTerms<T>) interleaved();
  }
  _tile_stored(0, results, 64); _tile_stored(1, results + kResultSize, 64);
  _tile_stored(2, results + 2 * kResultSize, 64); _tile_stored(3, results + 3 * kResultSize, 64);
}

// Adds tiles of results.
JAXLSTM_INLINE void add_tiles(float* to, const float* from, int tiles) {
  for (long i = 0; i < tiles * kResultSize; i += 16) store(to + i, load(to + i) + load(from + i));
}

// For accuracy, at most this many k tiles accumulate in the tile registers. Longer products are sums of such products.
constexpr long kMaxChainTiles = 16;

// Multiplies the first `row_tiles` row tiles with one panel, and stores the result or adds it. results(row_tile) points
// to four adjacent tiles.
template <class T, class Results, class Interleaved>
JAXLSTM_INLINE void multiply_panel(const LeftOperand<T>& left, long row_tiles, const RightOperand<T>& right, long panel,
                                   Results&& results, Interleaved&& interleaved, bool adds = false) {
  const long step = left.row_tiles * kParts<T> * kTileSize;
  alignas(64) float partial[4 * kResultSize];
  for (long k = 0; k < right.k_tiles; k += kMaxChainTiles, adds = true) {
    const long depth = minimum(kMaxChainTiles, right.k_tiles - k);
    const TileBits* b = right.panel(panel) + k * RightOperand<T>::kTileStep;
    long row_tile = 0;
    for (; row_tile + 2 <= row_tiles; row_tile += 2)
      for (int v = 0; v < 4; v += 2) {
        float *above = results(row_tile) + v * kResultSize, *below = results(row_tile + 1) + v * kResultSize;
        float *to_above = adds ? partial : above, *to_below = adds ? partial + 2 * kResultSize : below;
        multiply_2_by_2<T>(left.at(k, row_tile), step, b + v * kTileSize, depth, to_above, to_below, interleaved);
        if (adds) add_tiles(above, to_above, 2), add_tiles(below, to_below, 2);
      }
    if (row_tile < row_tiles) {
      multiply_1_by_4<T>(left.at(k, row_tile), step, b, depth, adds ? partial : results(row_tile), interleaved);
      if (adds) add_tiles(results(row_tile), partial, 4);
    }
  }
}

// Returns how often multiply_panel calls `interleaved`.
template <class T>
JAXLSTM_INLINE long interleaved_calls(long row_tiles, const RightOperand<T>& right) {
  return row_tiles * right.k_tiles;
}

}  // namespace
}  // namespace jaxlstm
