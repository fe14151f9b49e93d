// Operands of products on AMX, whose tile registers multiply bfloat16 ten times as fast as vectors multiply float32.
//
// A float32 is the exact sum of three bfloat16 parts: a = a_1 + a_2 + a_3, of decreasing magnitude; amx_product.h
// multiplies these. A bfloat16 is its only part.
//
// A tile register holds 16 rows of 64 bytes. A left operand is stored as tiles of 16 rows by 32 k. A right operand is
// stored as tiles of 16 pairs of k by 16 columns, since a tile product sums pairs of adjacent k; a panel (panel.h) has
// four tiles for every 32 k. A result tile has 16 by 16 float32. A "row tile" is 16 rows of a left operand, a "k tile"
// 32 k of either operand. Tiles at the edge are filled with zeros.
#pragma once
#include <immintrin.h>

#include "arena.h"
#include "bfloat16.h"
#include "panel.h"
#include "work_sharing.h"

namespace jaxlstm {
namespace {

typedef uint16_t TileBits;  // a bfloat16
constexpr long kTileDepth = 32;                     // k per tile
constexpr long kTileSize = 512, kResultSize = 256;  // elements per operand tile and per result tile
// The number of parts of an operand of type T, float or Bfloat16.
template <class T>
constexpr int kParts = kIsHalf<T> ? 1 : 3;

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

// The largest magnitude in an operand, as the bits of a float. Three parts represent a float32 only if neither the
// parts nor their products overflow or underflow, which excludes NaN and infinity too. A bfloat16 has no such limits,
// and its magnitude stays 0.
template <class T>
class Magnitude {
 public:
  JAXLSTM_INLINE void update(Floats v) {
    if constexpr (kIsHalf<T>) return;
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
template <class T>
class Magnitudes {
 public:
  static constexpr int kMaxThreads = 1024;
  static constexpr long kOperands = 4, kSize = kOperands * kMaxThreads;
  explicit Magnitudes(uint32_t* magnitudes) : magnitudes_(magnitudes) {}
  void record(int thread, const Magnitude<T>& a, const Magnitude<T>& b, const Magnitude<T>& c = {},
              const Magnitude<T>& d = {}) {
    const Magnitude<T>* operands[kOperands] = {&a, &b, &c, &d};
    for (int i = 0; i < kOperands; i++) magnitudes_[kOperands * thread + i] = operands[i]->bits();
  }
  bool in_range(int threads) const {
    uint32_t largest[kOperands] = {};
    for (int i = 0; i < kOperands * threads; i++)
      if (magnitudes_[i] > largest[i % kOperands]) largest[i % kOperands] = magnitudes_[i];
    for (uint32_t bits : largest)
      if (!Magnitude<T>::in_range(bits)) return false;
    return true;
  }

 private:
  uint32_t* magnitudes_;
};

// Splits 16 numbers into N parts, largest first. One part is the rounded number.
template <int N>
JAXLSTM_INLINE void split(Floats remainder, __m256i (&parts)[N]) {
#pragma GCC unroll 3
  for (int p = 0; p < N; p++) {
    parts[p] = (__m256i)_mm512_cvtneps_pbh((__m512)remainder);
    remainder -= (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(parts[p]), 16);
  }
}
// Sets all lanes but the first n to zero: products with the zeros that fill a tile would turn NaN into more NaN.
JAXLSTM_INLINE Floats first_lanes(Floats v, long n) {
  return n == 16 ? v : (Floats)_mm512_maskz_mov_ps(__mmask16((1 << n) - 1), (__m512)v);
}
template <class T>
JAXLSTM_INLINE Floats rounded(Floats v) {
  if constexpr (!kIsHalf<T>) return v;
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v)), 16);
}
// Splits 32 adjacent numbers: one row of a left tile.
template <int N>
JAXLSTM_INLINE void split_row(Floats first, Floats second, __m512i (&parts)[N]) {
  __m256i low[N], high[N];
  split(first, low), split(second, high);
#pragma GCC unroll 3
  for (int p = 0; p < N; p++) parts[p] = _mm512_inserti64x4(_mm512_castsi256_si512(low[p]), high[p], 1);
}
// Splits two rows of 16 numbers, and interleaves them: one row of a right tile.
template <int N>
JAXLSTM_INLINE void split_pairs(Floats above, Floats below, __m512i (&parts)[N]) {
  __m256i low[N], high[N];
  split(above, low), split(below, high);
#pragma GCC unroll 3
  for (int p = 0; p < N; p++) parts[p] = (__m512i)interleave(low[p], high[p]);
}

// Packs the parts of one tile, `step` elements apart. row(r, first, second) returns two vectors for each of the
// 16 rows of the tile. kPairs interleaves them; kTransposed transposes the tile as a matrix of pairs.
template <class T, bool kPairs, bool kTransposed, class Row>
JAXLSTM_INLINE void pack_tile(Row&& row, TileBits* to, long step, Magnitude<T>& magnitude) {
  Floats words[kParts<T>][16];
  for (int r = 0; r < 16; r++) {
    Floats first, second;
    row(r, first, second);
    magnitude.update(first), magnitude.update(second);
    __m512i parts[kParts<T>];
    if constexpr (kPairs) split_pairs(first, second, parts);
    else split_row(first, second, parts);
    for (int p = 0; p < kParts<T>; p++) {
      if constexpr (kTransposed) words[p][r] = (Floats)parts[p];
      else _mm512_store_si512(to + p * step + r * 32, parts[p]);
    }
  }
  if constexpr (!kTransposed) return;
  for (int p = 0; p < kParts<T>; p++) {
    transpose<float>(words[p]);
    for (int r = 0; r < 16; r++) _mm512_store_si512(to + p * step + r * 32, (__m512i)words[p][r]);
  }
}

// Loads the first `count` lanes and sets the others to zero. `count` may be negative or larger than 16.
JAXLSTM_INLINE Floats load_masked(const float* p, long count) {
  return (Floats)_mm512_maskz_loadu_ps(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1, p);
}
JAXLSTM_INLINE Floats load_masked(const Bfloat16* p, long count) { return load(p, count < 0 ? 0 : count); }

// The numbers that are packed into an operand of type T may be of another type, which is rounded to T.

// A left operand, [k tile][row tile][part][16 rows][32 k].
template <class T>
struct LeftOperand {
  TileBits* tiles;
  long row_tiles;
  static long size(long row_tiles, long K) { return ceil_divide(K, kTileDepth) * row_tiles * kParts<T> * kTileSize; }
  static LeftOperand take(Arena& arena, long row_tiles, long K) {
    return {arena.take<TileBits>(size(row_tiles, K)), row_tiles};
  }
  // Sets a thread's share of all tiles to zero.
  void clear(long K, int thread, int threads) const {
    const Range mine = share_of({0, size(row_tiles, K)}, thread, threads);
    std::memset(tiles + mine.begin, 0, size_t(mine.size()) * sizeof(TileBits));
  }
  TileBits* at(long k_tile, long row_tile) const {
    return tiles + (k_tile * row_tiles + row_tile) * kParts<T> * kTileSize;
  }
  // Returns the part from one row tile on.
  LeftOperand from(long row_tile) const { return {at(0, row_tile), row_tiles}; }

  // Stores 16 elements of one row, from column k on, which is a multiple of 16.
  JAXLSTM_INLINE void put(long row, long k, Floats values) const {
    __m256i parts[kParts<T>];
    split(values, parts);
    TileBits* to = at(k / kTileDepth, row / 16) + row % 16 * kTileDepth + k % kTileDepth;
    for (int p = 0; p < kParts<T>; p++) _mm256_store_si256((__m256i*)(to + p * kTileSize), parts[p]);
  }
  // Packs all K columns of one row tile, whose rows are row(0), row(1), ... and of which `count` exist. A row that is
  // null becomes zeros.
  template <class Row>
  void pack_rows(Row&& row, long count, long K, long row_tile, Magnitude<T>& magnitude) const {
    for (long k = 0; k < K; k += kTileDepth) {
      const auto row_from_k = [&](long r) { return row(r) ? row(r) + k : nullptr; };
      pack_tile_of_rows(row_from_k, count, K - k, k / kTileDepth, row_tile, magnitude);
    }
  }
  // Packs one tile, of which `count` rows and `width` columns exist.
  template <class Row>
  JAXLSTM_INLINE void pack_tile_of_rows(Row&& row, long count, long width, long k_tile, long row_tile,
                                        Magnitude<T>& magnitude) const {
    pack_tile<T, false, false>([&](int r, Floats& first, Floats& second) {
      const auto* from = r < count ? row(r) : nullptr;
      if (!from) return void(first = second = Floats{});
      first = load_masked(from, width), second = load_masked(from + 16, width - 16);
    }, at(k_tile, row_tile), kTileSize, magnitude);
  }
  // Packs one tile of the transpose of a matrix with the rows row(0), row(1), ...: 16 columns of 32 rows, of which
  // `width` columns and `count` rows exist. It prefetches the rows of the next k tile, since rows may be far apart in
  // memory.
  template <class Row>
  void pack_columns(Row&& row, long count, long width, long k_tile, long row_tile, Magnitude<T>& magnitude) const {
    Floats columns[2][16];  // of the first and the last 16 rows
    for (long half = 0; half < 2; half++) {
      for (long i = 0; i < 16; i++) {
        const long r = 16 * half + i;
        if (r + kTileDepth < count) __builtin_prefetch(row(r + kTileDepth));
        columns[half][i] = r < count ? load_masked(row(r), width) : Floats{};
      }
      transpose<float>(columns[half]);
    }
    pack_tile<T, false, false>([&](int column, Floats& first, Floats& second) {
      first = columns[0][column], second = columns[1][column];
    }, at(k_tile, row_tile), kTileSize, magnitude);
  }
};

// A right operand, [panel][half][k tile][part][2 tiles][16 pairs of k][16 columns]. A half has two of the four tiles of
// a panel, so that products read it in order.
template <class T>
struct RightOperand {
  // Distances in elements: from one row of a tile to the next, from one tile to the next in a half, and so on.
  static constexpr long kRowStep = 32, kNext = kTileSize, kPartStep = 2 * kTileSize, kTileStep = kParts<T> * kPartStep;
  TileBits* tiles;
  long k_tiles;
  static long size(long panels, long k_tiles) { return panels * k_tiles * 2 * kTileStep; }
  static RightOperand take(Arena& arena, long panels, long K) {
    const long k_tiles = ceil_divide(K, kTileDepth);
    return {arena.take<TileBits>(size(panels, k_tiles)), k_tiles};
  }
  // Returns the first part of tile v of a panel.
  TileBits* at(long panel, long k_tile, int v) const {
    return tiles + ((2 * panel + v / 2) * k_tiles + k_tile) * kTileStep + v % 2 * kTileSize;
  }

  // Packs one panel of the transpose of `source`, which is [columns][K].
  template <class Columns>
  void pack_transposed(const T* source, long K, Columns columns, long n, Magnitude<T>& magnitude) const {
    for (long k = 0; k < K; k += kTileDepth)
      for (int v = 0; v < 4; v++) {
        const T* from = source + columns.template first<float>(n, v) * K + k;
        const long count = columns.template count<float>(n, v);
        pack_tile<T, false, true>([&](int r, Floats& first, Floats& second) {
          const long depth = r < count ? K - k : 0;
          first = load_masked(from + r * K, depth), second = load_masked(from + r * K + 16, depth - 16);
        }, at(n, k / kTileDepth, v), kPartStep, magnitude);
      }
  }
  // Packs one k tile of one panel of a matrix [K][columns], of which `count` rows exist.
  template <class Columns>
  void pack_rows(const T* rows, long row_stride, long count, Columns columns, long n, long k_tile,
                 Magnitude<T>& magnitude) const {
    for (int v = 0; v < 4; v++) {
      const T* from = rows + columns.template first<float>(n, v);
      const long width = columns.template count<float>(n, v);
      pack_tile<T, true, false>([&](int r, Floats& first, Floats& second) {
        first = load_masked(from + 2 * r * row_stride, 2 * r < count ? width : 0);
        second = load_masked(from + (2 * r + 1) * row_stride, 2 * r + 1 < count ? width : 0);
      }, at(n, k_tile, v), kPartStep, magnitude);
    }
  }
  // Packs one k tile of a panel of adjacent columns, and adds its rows to `sums`. It reads whole rows of the panel, and
  // prefetches the rows of the next k tile, since rows may be far apart in memory.
  void pack_rows_and_sum(const float* rows, long row_stride, long count, long width, long n, long k_tile,
                         Magnitude<T>& magnitude, Floats (&sums)[4]) const {
    Floats partial[4] = {};
    for (long r = 0; r < 16; r++)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        const float* from = rows + 2 * r * row_stride + 16 * v;
        __builtin_prefetch(from + 32 * row_stride), __builtin_prefetch(from + 33 * row_stride);
        const Floats first = load_masked(from, 2 * r < count ? width - 16 * v : 0);
        const Floats second = load_masked(from + row_stride, 2 * r + 1 < count ? width - 16 * v : 0);
        magnitude.update(first), magnitude.update(second);
        partial[v] += first + second;
        __m512i parts[kParts<T>];
        split_pairs(first, second, parts);
        for (int p = 0; p < kParts<T>; p++) _mm512_store_si512(at(n, k_tile, v) + p * kPartStep + r * 32, parts[p]);
      }
    for (int v = 0; v < 4; v++) sums[v] += partial[v];
  }
};

// A panel of weights in bfloat16 as packed for vectors (bfloat16.h): its rows of 16 pairs of k are rows of tiles.
struct PackedPanels {
  static constexpr long kRowStep = 4 * 32, kNext = 32, kPartStep = 0, kTileStep = 16 * kRowStep;
  const Bfloat16* panels;
  long k_tiles;
  const TileBits* at(long panel, long k_tile, int v) const {
    return reinterpret_cast<const TileBits*>(panels) + (panel * k_tiles + k_tile) * kTileStep + v * kNext;
  }
};

}  // namespace
}  // namespace jaxlstm
