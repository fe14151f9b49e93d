// Products in float32 accuracy on AMX, which multiplies tiles of bfloat16 ten times faster than vectors of float32.
//
// A float32 is the sum of three bfloat16: a = a_1 + a_2 + a_3, to its last bit. Of the nine products of two such
// sums the six that matter are added up in float32, first the five small ones for all k, then a_1 b_1: of what is
// rounded where sums are large there is no more than in a sum of floats.
//
// A tile is 16 rows of 64 bytes. A left operand is stored as tiles of 16 rows by 32 k, a right one as tiles of 16
// pairs of k by 16 columns, of which one panel has four, as in tile.h; results are tiles of 16 by 16 float32.
#pragma once
#include <immintrin.h>

#include "shares.h"
#include "tile.h"

namespace jaxlstm {
namespace {

typedef uint16_t Bfloat16;
constexpr long kTileDepth = 32, kTileSize = 512, kResultSize = 256;  // in elements
constexpr int kParts = 3;

JAXLSTM_INLINE long least(long a, long b) { return a < b ? a : b; }

// The tile registers of this thread, all of 16 rows of 64 bytes, as long as this lives.
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

// The largest magnitude of what was split into parts, by its bits. Where that is NaN or infinite, or so large or so
// small that a part or a product would be, three parts are not a float32.
class Magnitude {
 public:
  JAXLSTM_INLINE void see(Floats v) {
    const __m512i bits = _mm512_and_si512((__m512i)v, _mm512_set1_epi32(0x7fffffff));
    largest_ = _mm512_max_epu32(largest_, bits);
  }
  uint32_t bits() const { return _mm512_reduce_max_epu32(largest_); }
  static bool fits(uint32_t bits) {
    constexpr uint32_t k2To60 = (127 + 60) << 23, k2ToMinus60 = (127 - 60) << 23;
    return bits == 0 || (bits >= k2ToMinus60 && bits <= k2To60);
  }

 private:
  __m512i largest_ = _mm512_setzero_si512();
};

// What each thread saw of the operands of one call, kept where all can read it.
class Magnitudes {
 public:
  static constexpr int kMostThreads = 1024;
  static constexpr long kOperands = 4, kSize = kOperands * kMostThreads;
  explicit Magnitudes(uint32_t* seen) : seen_(seen) {}
  void tell(int thread, const Magnitude& a, const Magnitude& b, const Magnitude& c = {}, const Magnitude& d = {}) {
    const Magnitude* operands[kOperands] = {&a, &b, &c, &d};
    for (int i = 0; i < kOperands; i++) seen_[kOperands * thread + i] = operands[i]->bits();
  }
  bool fit(int threads) const {
    uint32_t largest[kOperands] = {};
    for (int i = 0; i < kOperands * threads; i++)
      if (seen_[i] > largest[i % kOperands]) largest[i % kOperands] = seen_[i];
    for (uint32_t bits : largest)
      if (!Magnitude::fits(bits)) return false;
    return true;
  }

 private:
  uint32_t* seen_;
};

// The parts of 16 numbers, largest first.
JAXLSTM_INLINE void split(Floats rest, __m256i (&parts)[kParts]) {
#pragma GCC unroll 3
  for (int p = 0; p < kParts; p++) {
    parts[p] = (__m256i)_mm512_cvtneps_pbh((__m512)rest);
    rest -= (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(parts[p]), 16);
  }
}
// The parts of 32 numbers in a row.
JAXLSTM_INLINE void split_row(Floats first, Floats second, __m512i (&parts)[kParts]) {
  __m256i low[kParts], high[kParts];
  split(first, low), split(second, high);
#pragma GCC unroll 3
  for (int p = 0; p < kParts; p++) parts[p] = _mm512_inserti64x4(_mm512_castsi256_si512(low[p]), high[p], 1);
}
// The parts of two rows of 16, in pairs of those above each other.
JAXLSTM_INLINE void split_pairs(Floats above, Floats below, __m512i (&parts)[kParts]) {
  __m256i low[kParts], high[kParts];
  split(above, low), split(below, high);
#pragma GCC unroll 3
  for (int p = 0; p < kParts; p++)
    parts[p] = _mm512_or_si512(_mm512_cvtepu16_epi32(low[p]), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high[p]), 16));
}

// Packs the parts of one tile, `step` elements apart, from the rows row(0), ... row(15) of two vectors each: either
// as they are, or with rows and pairs exchanged.
template <bool kPairs, bool kTransposed, class Row>
JAXLSTM_INLINE void pack_tile(Row&& row, Bfloat16* to, long step, Magnitude& seen) {
  Floats words[kParts][16];
  for (int r = 0; r < 16; r++) {
    Floats first, second;
    row(r, first, second);
    seen.see(first), seen.see(second);
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

JAXLSTM_INLINE Floats load_some(const float* p, long count) {
  return (Floats)_mm512_maskz_loadu_ps(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1, p);
}

// A left operand: [k / 32][block of 16 rows][part][16][32], for `blocks` blocks of rows.
struct Left {
  Bfloat16* tiles;
  long blocks;
  static long size(long blocks, long K) { return ceil_divide(K, kTileDepth) * blocks * kParts * kTileSize; }
  Bfloat16* at(long k_block, long block) const { return tiles + (k_block * blocks + block) * kParts * kTileSize; }

  // Sixteen elements of one row, from column k on, which is a multiple of 16.
  JAXLSTM_INLINE void put(long row, long k, Floats values) const {
    __m256i parts[kParts];
    split(values, parts);
    Bfloat16* to = at(k / kTileDepth, row / 16) + row % 16 * kTileDepth + k % kTileDepth;
    for (int p = 0; p < kParts; p++) _mm256_store_si256((__m256i*)(to + p * kTileSize), parts[p]);
  }
  // A block of 16 rows, of which `count` are there, and all of their K columns.
  void pack_rows(const float* rows, long row_stride, long count, long K, long block, Magnitude& seen) const {
    for (long k = 0; k < K; k += kTileDepth)
      pack_tile_of_rows(rows + k, row_stride, count, K - k, k / kTileDepth, block, seen);
  }
  // One tile of that: 32 columns, of which `width` are there.
  JAXLSTM_INLINE void pack_tile_of_rows(const float* rows, long row_stride, long count, long width, long k_block,
                                        long block, Magnitude& seen) const {
    pack_tile<false, false>([&](int r, Floats& first, Floats& second) {
      const float* from = rows + r * row_stride;
      const long there = r < count ? width : 0;
      first = load_some(from, there), second = load_some(from + 16, there - 16);
    }, at(k_block, block), kTileSize, seen);
  }
  // One tile of the transpose of a matrix whose rows are row(0), row(1), ...: 16 columns of 32 rows, of which `width`
  // and `count` are there.
  template <class Row>
  JAXLSTM_INLINE void pack_columns(Row&& row, long count, long width, long k_block, long block, Magnitude& seen) const {
    pack_tile<true, true>([&](int r, Floats& first, Floats& second) {
      first = 2 * r < count ? load_some(row(2 * r), width) : Floats{};
      second = 2 * r + 1 < count ? load_some(row(2 * r + 1), width) : Floats{};
    }, at(k_block, block), kTileSize, seen);
  }
};

// A right operand: [panel][k / 32][part][4 tiles][16][16 pairs], for K in whole blocks of 32.
struct Right {
  Bfloat16* tiles;
  long k_blocks;
  static long size(long panels, long K) { return panels * ceil_divide(K, kTileDepth) * kParts * 4 * kTileSize; }
  const Bfloat16* panel(long n) const { return tiles + n * k_blocks * kParts * 4 * kTileSize; }
  Bfloat16* at(long panel, long k_block, int v) const {
    return tiles + ((panel * k_blocks + k_block) * kParts * 4 + v) * kTileSize;
  }
  static constexpr long kPartStep = 4 * kTileSize;

  // One panel of a matrix whose columns are rows in memory: the transpose of `source`, [columns][K].
  template <class Columns>
  void pack_transposed(const float* source, long K, Columns columns, long n, Magnitude& seen) const {
    for (long k = 0; k < K; k += kTileDepth)
      for (int v = 0; v < 4; v++) {
        const float* from = source + columns.template first<float>(n, v) * K + k;
        const long count = columns.template count<float>(n, v);
        pack_tile<false, true>([&](int r, Floats& first, Floats& second) {
          const long left = r < count ? K - k : 0;
          first = load_some(from + r * K, left), second = load_some(from + r * K + 16, left - 16);
        }, at(n, k / kTileDepth, v), kPartStep, seen);
      }
  }
  // Up to 32 rows of k of one panel, as they are in memory.
  template <class Columns>
  void pack_rows(const float* rows, long row_stride, long count, Columns columns, long n, long k_block,
                 Magnitude& seen) const {
    for (int v = 0; v < 4; v++) {
      const float* from = rows + columns.template first<float>(n, v);
      const long width = columns.template count<float>(n, v);
      pack_tile<true, false>([&](int r, Floats& first, Floats& second) {
        first = load_some(from + 2 * r * row_stride, 2 * r < count ? width : 0);
        second = load_some(from + (2 * r + 1) * row_stride, 2 * r + 1 < count ? width : 0);
      }, at(n, k_block, v), kPartStep, seen);
    }
  }
  // The same of a panel that lies side by side in memory and is read row by row, for `rows` may be far apart; the sums
  // over the rows are added to `sums`.
  void pack_rows_and_sum(const float* rows, long row_stride, long count, long width, long n, long k_block,
                         Magnitude& seen, Floats (&sums)[4]) const {
    Floats part[4] = {};
    for (long r = 0; r < 16; r++)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        const float* from = rows + 2 * r * row_stride + 16 * v;
        const Floats first = load_some(from, 2 * r < count ? width - 16 * v : 0);
        const Floats second = load_some(from + row_stride, 2 * r + 1 < count ? width - 16 * v : 0);
        seen.see(first), seen.see(second);
        part[v] += first + second;
        __m512i parts[kParts];
        split_pairs(first, second, parts);
        for (int p = 0; p < kParts; p++) _mm512_store_si512(at(n, k_block, v) + p * kPartStep + r * 32, parts[p]);
      }
    for (int v = 0; v < 4; v++) sums[v] += part[v];
  }
};

// The intrinsics are statements and want numbers; a load alone does not keep the compiler from moving stores past it.
#define JAXLSTM_LOAD(tile, from) _tile_loadd(tile, from, 64)
#define JAXLSTM_2_BY_2() \
  do { _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7); } while (0)
#define JAXLSTM_ONE(n, a, b) do { JAXLSTM_LOAD(7, (b) + n * kTileSize); _tile_dpbf16ps(n, a, 7); } while (0)
#define JAXLSTM_1_BY_4(a, b) \
  do { JAXLSTM_ONE(0, a, b); JAXLSTM_ONE(1, a, b); JAXLSTM_ONE(2, a, b); JAXLSTM_ONE(3, a, b); } while (0)

// results = left times right, for two blocks of rows, from tile `a` on, and two of the four tiles of a panel;
// `meanwhile` is called once for each block of k, and runs on the vector units while the tiles are multiplied.
template <class Meanwhile>
JAXLSTM_INLINE void multiply_2_by_2(const Bfloat16* a, long a_step, const Bfloat16* b, long k_blocks, float* above,
                                    float* below, Meanwhile&& meanwhile) {
  constexpr long kBelow = kParts * kTileSize, kB = Right::kPartStep;
  asm volatile("" ::: "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; k < k_blocks; k++) {
    const Bfloat16 *a_1 = a + k * a_step, *a_2 = a_1 + kTileSize, *a_3 = a_2 + kTileSize;
    const Bfloat16 *b_1 = b + k * kParts * kB, *b_2 = b_1 + kB, *b_3 = b_2 + kB;
    JAXLSTM_LOAD(6, b_3); JAXLSTM_LOAD(7, b_3 + kTileSize);
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kBelow); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(6, b_2); JAXLSTM_LOAD(7, b_2 + kTileSize); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(4, a_2); JAXLSTM_LOAD(5, a_2 + kBelow); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(6, b_1); JAXLSTM_LOAD(7, b_1 + kTileSize); JAXLSTM_2_BY_2();
    JAXLSTM_LOAD(4, a_3); JAXLSTM_LOAD(5, a_3 + kBelow); JAXLSTM_2_BY_2();
    meanwhile();
  }
  for (long k = 0; k < k_blocks; k++) {
    const Bfloat16 *a_1 = a + k * a_step, *b_1 = b + k * kParts * kB;
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kBelow);
    JAXLSTM_LOAD(6, b_1); JAXLSTM_LOAD(7, b_1 + kTileSize); JAXLSTM_2_BY_2();
  }
  _tile_stored(0, above, 64); _tile_stored(1, above + kResultSize, 64);
  _tile_stored(2, below, 64); _tile_stored(3, below + kResultSize, 64);
}

// The same, in the same order, for one block of rows and all four tiles.
template <class Meanwhile>
JAXLSTM_INLINE void multiply_1_by_4(const Bfloat16* a, long a_step, const Bfloat16* b, long k_blocks, float* results,
                                    Meanwhile&& meanwhile) {
  constexpr long kB = Right::kPartStep;
  asm volatile("" ::: "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; k < k_blocks; k++) {
    const Bfloat16 *a_1 = a + k * a_step, *b_1 = b + k * kParts * kB, *b_2 = b_1 + kB, *b_3 = b_2 + kB;
    JAXLSTM_LOAD(4, a_1); JAXLSTM_LOAD(5, a_1 + kTileSize); JAXLSTM_LOAD(6, a_1 + 2 * kTileSize);
    JAXLSTM_1_BY_4(4, b_3);
    JAXLSTM_1_BY_4(4, b_2);
    JAXLSTM_1_BY_4(5, b_2);
    JAXLSTM_1_BY_4(5, b_1);
    JAXLSTM_1_BY_4(6, b_1);
    meanwhile();
  }
  for (long k = 0; k < k_blocks; k++) {
    JAXLSTM_LOAD(4, a + k * a_step);
    JAXLSTM_1_BY_4(4, b + k * kParts * kB);
  }
  _tile_stored(0, results, 64); _tile_stored(1, results + kResultSize, 64);
  _tile_stored(2, results + 2 * kResultSize, 64); _tile_stored(3, results + 3 * kResultSize, 64);
}

// How often multiply_panel calls `meanwhile`.
JAXLSTM_INLINE long calls_meanwhile(long blocks, const Right& right) { return blocks * right.k_blocks; }

JAXLSTM_INLINE void add_tiles(float* to, const float* from, int tiles) {
  for (long i = 0; i < tiles * kResultSize; i += 16) store(to + i, load(to + i) + load(from + i));
}

// Products of no more than this many blocks of k are added up in one chain, for accuracy.
constexpr long kSumBlocks = 16;

// The two for the first `blocks` blocks of rows and one panel of columns. results(block) has four tiles next to each
// other.
template <class Results, class Meanwhile>
JAXLSTM_INLINE void multiply_panel(const Left& left, long blocks, const Right& right, long panel, Results&& results,
                                   Meanwhile&& meanwhile) {
  const long step = left.blocks * kParts * kTileSize;
  alignas(64) float more[4 * kResultSize];
  for (long k = 0; k < right.k_blocks; k += kSumBlocks) {
    const long depth = least(kSumBlocks, right.k_blocks - k);
    const Bfloat16* b = right.panel(panel) + k * kParts * Right::kPartStep;
    long block = 0;
    for (; block + 2 <= blocks; block += 2)
      for (int v = 0; v < 4; v += 2) {
        float *above = results(block) + v * kResultSize, *below = results(block + 1) + v * kResultSize;
        float *to_above = k ? more : above, *to_below = k ? more + 2 * kResultSize : below;
        multiply_2_by_2(left.at(k, block), step, b + v * kTileSize, depth, to_above, to_below, meanwhile);
        if (k) add_tiles(above, to_above, 2), add_tiles(below, to_below, 2);
      }
    if (block < blocks) {
      multiply_1_by_4(left.at(k, block), step, b, depth, k ? more : results(block), meanwhile);
      if (k) add_tiles(results(block), more, 4);
    }
  }
}

}  // namespace
}  // namespace jaxlstm
