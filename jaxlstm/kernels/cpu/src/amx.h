// Products of float32 matrices on AMX, whose tile registers multiply bfloat16 ten times as fast as vectors multiply
// float32.
//
// A float32 is the exact sum of three bfloat16 parts: a = a_1 + a_2 + a_3, of decreasing magnitude. A product a b then
// has nine partial products of parts, of which the six largest suffice for float32 accuracy:
//
//   a_1 b_1 + (a_1 b_2 + a_2 b_1) + (a_1 b_3 + a_2 b_2 + a_3 b_1)
//
// They accumulate in float32: first the five small terms for all k, then a_1 b_1. So rounding at the magnitude of the
// result occurs no more often than in a sum of float32 products.
//
// A tile register holds 16 rows of 64 bytes. A left operand is stored as tiles of 16 rows by 32 k. A right operand is
// stored as tiles of 16 pairs of k by 16 columns, since a tile product sums pairs of adjacent k; a panel (panel.h) has
// four tiles for every 32 k. A result tile has 16 by 16 float32. A "row tile" is 16 rows of a left operand, a "k tile"
// 32 k of either operand. Tiles at the edge are filled with zeros.
#pragma once
#include <immintrin.h>

#include "panel.h"
#include "work_sharing.h"

namespace jaxlstm {
namespace {

typedef uint16_t TileBits;  // a bfloat16
constexpr long kTileDepth = 32;                     // k per tile
constexpr long kTileSize = 512, kResultSize = 256;  // elements per operand tile and per result tile
constexpr int kParts = 3;

// Not std::min, since this header is compiled for several instruction sets (vector.h).
JAXLSTM_INLINE long minimum(long a, long b) { return a < b ? a : b; }

// Configures the tile registers of this thread as eight tiles of 16 rows of 64 bytes, for the lifetime of the object.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
};

// The largest magnitude in an operand, as the bits of a float. Three parts represent a float32 only if neither the
// parts nor their products overflow or underflow, which excludes NaN and infinity too.
class Magnitude {
 public:
  JAXLSTM_INLINE void update(Floats v) {
    const __m512i bits = _mm512_and_si512((__m512i)v, _mm512_set1_epi32(0x7fffffff));
    largest_ = _mm512_max_epu32(largest_, bits);
  }
  uint32_t bits() const { return _mm512_reduce_max_epu32(largest_); }
  static bool in_range(uint32_t bits) {
    constexpr uint32_t k2To60 = (127 + 60) << 23, k2ToMinus60 = (127 - 60) << 23;
    return bits == 0 || (bits >= k2ToMinus60 && bits <= k2To60);
  }

 private:
  __m512i largest_ = _mm512_setzero_si512();
};

// The magnitudes that all threads of a call have found in its operands, in shared memory.
class Magnitudes {
 public:
  static constexpr int kMaxThreads = 1024;
  static constexpr long kOperands = 4, kSize = kOperands * kMaxThreads;
  explicit Magnitudes(uint32_t* magnitudes) : magnitudes_(magnitudes) {}
  void record(int thread, const Magnitude& a, const Magnitude& b, const Magnitude& c = {}, const Magnitude& d = {}) {
    const Magnitude* operands[kOperands] = {&a, &b, &c, &d};
    for (int i = 0; i < kOperands; i++) magnitudes_[kOperands * thread + i] = operands[i]->bits();
  }
  bool in_range(int threads) const {
    uint32_t largest[kOperands] = {};
    for (int i = 0; i < kOperands * threads; i++)
      if (magnitudes_[i] > largest[i % kOperands]) largest[i % kOperands] = magnitudes_[i];
    for (uint32_t bits : largest)
      if (!Magnitude::in_range(bits)) return false;
    return true;
  }

 private:
  uint32_t* magnitudes_;
};

// Splits 16 numbers into their parts, largest first.
JAXLSTM_INLINE void split(Floats remainder, __m256i (&parts)[kParts]) {
#pragma GCC unroll 3
  for (int p = 0; p < kParts; p++) {
    parts[p] = (__m256i)_mm512_cvtneps_pbh((__m512)remainder);
    remainder -= (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(parts[p]), 16);
  }
}
// Splits 32 adjacent numbers: one row of a left tile.
JAXLSTM_INLINE void split_row(Floats first, Floats second, __m512i (&parts)[kParts]) {
  __m256i low[kParts], high[kParts];
  split(first, low), split(second, high);
#pragma GCC unroll 3
  for (int p = 0; p < kParts; p++) parts[p] = _mm512_inserti64x4(_mm512_castsi256_si512(low[p]), high[p], 1);
}
// Splits two rows of 16 numbers, and interleaves them: one row of a right tile.
JAXLSTM_INLINE void split_pairs(Floats above, Floats below, __m512i (&parts)[kParts]) {
  __m256i low[kParts], high[kParts];
  split(above, low), split(below, high);
#pragma GCC unroll 3
  for (int p = 0; p < kParts; p++)
    parts[p] = _mm512_or_si512(_mm512_cvtepu16_epi32(low[p]), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high[p]), 16));
}

// Packs the three parts of one tile, `step` elements apart. row(r, first, second) returns two vectors for each of the
// 16 rows of the tile. kPairs interleaves them; kTransposed transposes the tile as a matrix of pairs.
template <bool kPairs, bool kTransposed, class Row>
JAXLSTM_INLINE void pack_tile(Row&& row, TileBits* to, long step, Magnitude& magnitude) {
  Floats words[kParts][16];
  for (int r = 0; r < 16; r++) {
    Floats first, second;
    row(r, first, second);
    magnitude.update(first), magnitude.update(second);
    __m512i parts[kParts];
    if constexpr (kPairs) split_pairs(first, second, parts);
    else split_row(first, second, parts);
    for (int p = 0; p < kParts; p++) {
      if constexpr (kTransposed) words[p][r] = (Floats)parts[p];
      else _mm512_store_si512(to + p * step + r * 32, parts[p]);
    }
  }
  if constexpr (!kTransposed) return;
  for (int p = 0; p < kParts; p++) {
    transpose<float>(words[p]);
    for (int r = 0; r < 16; r++) _mm512_store_si512(to + p * step + r * 32, (__m512i)words[p][r]);
  }
}

// Loads the first `count` lanes and sets the others to zero. `count` may be negative or larger than 16.
JAXLSTM_INLINE Floats load_masked(const float* p, long count) {
  return (Floats)_mm512_maskz_loadu_ps(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1, p);
}

// A left operand, [k tile][row tile][part][16 rows][32 k].
struct LeftOperand {
  TileBits* tiles;
  long row_tiles;
  static long size(long row_tiles, long K) { return ceil_divide(K, kTileDepth) * row_tiles * kParts * kTileSize; }
  TileBits* at(long k_tile, long row_tile) const {
    return tiles + (k_tile * row_tiles + row_tile) * kParts * kTileSize;
  }

  // Stores 16 elements of one row, from column k on, which is a multiple of 16.
  JAXLSTM_INLINE void put(long row, long k, Floats values) const {
    __m256i parts[kParts];
    split(values, parts);
    TileBits* to = at(k / kTileDepth, row / 16) + row % 16 * kTileDepth + k % kTileDepth;
    for (int p = 0; p < kParts; p++) _mm256_store_si256((__m256i*)(to + p * kTileSize), parts[p]);
  }
  // Packs all K columns of one row tile, of which `count` rows exist.
  void pack_rows(const float* rows, long row_stride, long count, long K, long row_tile, Magnitude& magnitude) const {
    for (long k = 0; k < K; k += kTileDepth)
      pack_tile_of_rows(rows + k, row_stride, count, K - k, k / kTileDepth, row_tile, magnitude);
  }
  // Packs one tile, of which `count` rows and `width` columns exist.
  JAXLSTM_INLINE void pack_tile_of_rows(const float* rows, long row_stride, long count, long width, long k_tile,
                                        long row_tile, Magnitude& magnitude) const {
    pack_tile<false, false>([&](int r, Floats& first, Floats& second) {
      const float* from = rows + r * row_stride;
      const long columns = r < count ? width : 0;
      first = load_masked(from, columns), second = load_masked(from + 16, columns - 16);
    }, at(k_tile, row_tile), kTileSize, magnitude);
  }
  // Packs one tile of the transpose of a matrix with the rows row(0), row(1), ...: 16 columns of 32 rows, of which
  // `width` columns and `count` rows exist.
  template <class Row>
  JAXLSTM_INLINE void pack_columns(Row&& row, long count, long width, long k_tile, long row_tile,
                                   Magnitude& magnitude) const {
    pack_tile<true, true>([&](int r, Floats& first, Floats& second) {
      first = 2 * r < count ? load_masked(row(2 * r), width) : Floats{};
      second = 2 * r + 1 < count ? load_masked(row(2 * r + 1), width) : Floats{};
    }, at(k_tile, row_tile), kTileSize, magnitude);
  }
};

// A right operand, [panel][k tile][part][4 tiles][16 pairs of k][16 columns].
struct RightOperand {
  TileBits* tiles;
  long k_tiles;
  static long size(long panels, long K) { return panels * ceil_divide(K, kTileDepth) * kParts * 4 * kTileSize; }
  const TileBits* panel(long n) const { return tiles + n * k_tiles * kParts * 4 * kTileSize; }
  TileBits* at(long panel, long k_tile, int v) const {
    return tiles + ((panel * k_tiles + k_tile) * kParts * 4 + v) * kTileSize;
  }
  static constexpr long kPartStep = 4 * kTileSize;

  // Packs one panel of the transpose of `source`, which is [columns][K].
  template <class Columns>
  void pack_transposed(const float* source, long K, Columns columns, long n, Magnitude& magnitude) const {
    for (long k = 0; k < K; k += kTileDepth)
      for (int v = 0; v < 4; v++) {
        const float* from = source + columns.template first<float>(n, v) * K + k;
        const long count = columns.template count<float>(n, v);
        pack_tile<false, true>([&](int r, Floats& first, Floats& second) {
          const long depth = r < count ? K - k : 0;
          first = load_masked(from + r * K, depth), second = load_masked(from + r * K + 16, depth - 16);
        }, at(n, k / kTileDepth, v), kPartStep, magnitude);
      }
  }
  // Packs one k tile of one panel of a matrix [K][columns], of which `count` rows exist.
  template <class Columns>
  void pack_rows(const float* rows, long row_stride, long count, Columns columns, long n, long k_tile,
                 Magnitude& magnitude) const {
    for (int v = 0; v < 4; v++) {
      const float* from = rows + columns.template first<float>(n, v);
      const long width = columns.template count<float>(n, v);
      pack_tile<true, false>([&](int r, Floats& first, Floats& second) {
        first = load_masked(from + 2 * r * row_stride, 2 * r < count ? width : 0);
        second = load_masked(from + (2 * r + 1) * row_stride, 2 * r + 1 < count ? width : 0);
      }, at(n, k_tile, v), kPartStep, magnitude);
    }
  }
  // Packs one k tile of a panel of adjacent columns, and adds its rows to `sums`. It reads whole rows of the panel,
  // since rows may be far apart in memory.
  void pack_rows_and_sum(const float* rows, long row_stride, long count, long width, long n, long k_tile,
                         Magnitude& magnitude, Floats (&sums)[4]) const {
    Floats partial[4] = {};
    for (long r = 0; r < 16; r++)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        const float* from = rows + 2 * r * row_stride + 16 * v;
        const Floats first = load_masked(from, 2 * r < count ? width - 16 * v : 0);
        const Floats second = load_masked(from + row_stride, 2 * r + 1 < count ? width - 16 * v : 0);
        magnitude.update(first), magnitude.update(second);
        partial[v] += first + second;
        __m512i parts[kParts];
        split_pairs(first, second, parts);
        for (int p = 0; p < kParts; p++) _mm512_store_si512(at(n, k_tile, v) + p * kPartStep + r * 32, parts[p]);
      }
    for (int v = 0; v < 4; v++) sums[v] += partial[v];
  }
};

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
template <class Interleaved>
JAXLSTM_INLINE void multiply_2_by_2(const TileBits* a, long a_step, const TileBits* b, long k_tiles, float* above,
                                    float* below, Interleaved&& interleaved) {
  constexpr long kBelow = kParts * kTileSize, kB = RightOperand::kPartStep;
  asm volatile("" ::: "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *a_2 = a_1 + kTileSize, *a_3 = a_2 + kTileSize;
    const TileBits *b_1 = b + k * kParts * kB, *b_2 = b_1 + kB, *b_3 = b_2 + kB;
    JAXLSTM_LOAD(6, b_3); JAXLSTM_LOAD(7, b_3 + kTileSize);
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kBelow); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(6, b_2); JAXLSTM_LOAD(7, b_2 + kTileSize); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(4, a_2); JAXLSTM_LOAD(5, a_2 + kBelow); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(6, b_1); JAXLSTM_LOAD(7, b_1 + kTileSize); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(4, a_3); JAXLSTM_LOAD(5, a_3 + kBelow); JAXLSTM_2_BY_2();
    interleaved();
  }
  for (long k = 0; k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *b_1 = b + k * kParts * kB;
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kBelow);
    JAXLSTM_LOAD(6, b_1); JAXLSTM_LOAD(7, b_1 + kTileSize); JAXLSTM_2_BY_2();
  }
  _tile_stored(0, above, 64); _tile_stored(1, above + kResultSize, 64);
  _tile_stored(2, below, 64); _tile_stored(3, below + kResultSize, 64);
}

// Multiplies one row tile with all four tiles of a panel, in the same order of additions.
template <class Interleaved>
JAXLSTM_INLINE void multiply_1_by_4(const TileBits* a, long a_step, const TileBits* b, long k_tiles, float* results,
                                    Interleaved&& interleaved) {
  constexpr long kB = RightOperand::kPartStep;
  asm volatile("" ::: "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; k < k_tiles; k++) {
    const TileBits *a_1 = a + k * a_step, *b_1 = b + k * kParts * kB, *b_2 = b_1 + kB, *b_3 = b_2 + kB;
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
    JAXLSTM_1_BY_4(4, b + k * kParts * kB);
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

// Multiplies the first `row_tiles` row tiles with one panel. results(row_tile) points to four adjacent tiles.
template <class Results, class Interleaved>
JAXLSTM_INLINE void multiply_panel(const LeftOperand& left, long row_tiles, const RightOperand& right, long panel,
                                   Results&& results, Interleaved&& interleaved) {
  const long step = left.row_tiles * kParts * kTileSize;
  alignas(64) float partial[4 * kResultSize];
  for (long k = 0; k < right.k_tiles; k += kMaxChainTiles) {
    const long depth = minimum(kMaxChainTiles, right.k_tiles - k);
    const TileBits* b = right.panel(panel) + k * kParts * RightOperand::kPartStep;
    long row_tile = 0;
    for (; row_tile + 2 <= row_tiles; row_tile += 2)
      for (int v = 0; v < 4; v += 2) {
        float *above = results(row_tile) + v * kResultSize, *below = results(row_tile + 1) + v * kResultSize;
        float *to_above = k ? partial : above, *to_below = k ? partial + 2 * kResultSize : below;
        multiply_2_by_2(left.at(k, row_tile), step, b + v * kTileSize, depth, to_above, to_below, interleaved);
        if (k) add_tiles(above, to_above, 2), add_tiles(below, to_below, 2);
      }
    if (row_tile < row_tiles) {
      multiply_1_by_4(left.at(k, row_tile), step, b, depth, k ? partial : results(row_tile), interleaved);
      if (k) add_tiles(results(row_tile), partial, 4);
    }
  }
}

// Returns how often multiply_panel calls `interleaved`.
JAXLSTM_INLINE long interleaved_calls(long row_tiles, const RightOperand& right) { return row_tiles * right.k_tiles; }

}  // namespace
}  // namespace jaxlstm
