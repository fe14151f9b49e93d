// Operands of products on AMX.
#pragma once
#include "amx.h"

namespace jaxlstm {
namespace {

// Packing may scale numbers: `scaling` takes a vector v and its place, and returns the scaled vector. The place is
// (row of the tile, first k) for a vector along k, k for a row of a right operand, and the index of 16 columns or
// nothing where the scale depends on the columns only.
struct Unscaled {
  JAXLSTM_INLINE Floats operator()(long, long, Floats v) const { return v; }
  JAXLSTM_INLINE Floats operator()(long, Floats v) const { return v; }
  JAXLSTM_INLINE Floats operator()(Floats v) const { return v; }
};

// Packs the parts of one tile, `step` elements apart. row(r, first, second) returns two vectors for each of the
// 16 rows of the tile. kPairs interleaves them; kTransposed transposes the tile as a matrix of pairs.
template <class P, bool kPairs, bool kTransposed, class Row>
JAXLSTM_INLINE void pack_tile(Row&& row, TileBits* to, long step) {
  Floats words[P::kCount][16];
  for (int r = 0; r < 16; r++) {
    Floats first, second;
    row(r, first, second);
    __m512i parts[P::kCount];
    if constexpr (kPairs) split_pairs<P>(first, second, parts);
    else split_row<P>(first, second, parts);
    for (int p = 0; p < P::kCount; p++) {
      if constexpr (kTransposed) words[p][r] = (Floats)parts[p];
      else _mm512_store_si512(to + p * step + r * 32, parts[p]);
    }
  }
  if constexpr (!kTransposed) return;
  for (int p = 0; p < P::kCount; p++) {
    transpose<float>(words[p]);
    for (int r = 0; r < 16; r++) _mm512_store_si512(to + p * step + r * 32, (__m512i)words[p][r]);
  }
}

// The numbers that are packed may be of another type than P::Number, to which they are rounded.

// A left operand, [k tile][row tile][part][16 rows][32 k].
template <class P>
struct LeftOperand {
  typedef typename P::Number Number;
  TileBits* tiles;
  long row_tiles;
  static long size(long row_tiles, long K) { return ceil_divide(K, kTileDepth) * row_tiles * P::kCount * kTileSize; }
  static LeftOperand take(Arena& arena, long row_tiles, long K) {
    return {arena.take<TileBits>(size(row_tiles, K)), row_tiles};
  }
  // Sets a thread's share of all tiles to zero.
  void clear(long K, int thread, int threads) const {
    const Range mine = share_of({0, size(row_tiles, K)}, thread, threads);
    std::memset(tiles + mine.begin, 0, size_t(mine.size()) * sizeof(TileBits));
  }
  TileBits* at(long k_tile, long row_tile) const {
    return tiles + (k_tile * row_tiles + row_tile) * P::kCount * kTileSize;
  }
  // Returns the part from one row tile on.
  LeftOperand from(long row_tile) const { return {at(0, row_tile), row_tiles}; }

  // Stores 16 elements of one row, from column k on, which is a multiple of 16.
  JAXLSTM_INLINE void put(long row, long k, Floats values) const {
    __m256i parts[P::kCount];
    split<P>(values, parts);
    TileBits* to = at(k / kTileDepth, row / 16) + row % 16 * kTileDepth + k % kTileDepth;
    for (int p = 0; p < P::kCount; p++) _mm256_store_si256((__m256i*)(to + p * kTileSize), parts[p]);
  }
  // Packs all K columns of one row tile, whose rows are row(0), row(1), ... and of which `count` exist. A row that is
  // null becomes zeros.
  template <class Row, class Scaling = Unscaled>
  void pack_rows(Row&& row, long count, long K, long row_tile, Magnitude<Number>& magnitude,
                 Scaling&& scaling = {}) const {
    for (long k = 0; k < K; k += kTileDepth) {
      const auto row_from_k = [&](long r) { return row(r) ? row(r) + k : nullptr; };
      pack_tile_of_rows(row_from_k, count, K - k, k / kTileDepth, row_tile, magnitude, scaling);
    }
  }
  // Packs one tile, of which `count` rows and `width` columns exist.
  template <class Row, class Scaling = Unscaled>
  JAXLSTM_INLINE void pack_tile_of_rows(Row&& row, long count, long width, long k_tile, long row_tile,
                                        Magnitude<Number>& magnitude, Scaling&& scaling = {}) const {
    pack_tile<P, false, false>([&](int r, Floats& first, Floats& second) {
      const auto* from = r < count ? row(r) : nullptr;
      if (!from) return void(first = second = Floats{});
      first = load_masked(from, width), second = load_masked(from + 16, width - 16);
      magnitude.update(first), magnitude.update(second);
      first = scaling(r, k_tile * kTileDepth, first), second = scaling(r, k_tile * kTileDepth + 16, second);
    }, at(k_tile, row_tile), kTileSize);
  }
  // Packs one tile of the transpose of a matrix with the rows row(0), row(1), ...: 16 columns of 32 rows, of which
  // `width` columns and `count` rows exist. It prefetches the rows of the next k tile, since rows may be far apart in
  // memory.
  template <class Row, class Scaling = Unscaled>
  void pack_columns(Row&& row, long count, long width, long k_tile, long row_tile, Magnitude<Number>& magnitude,
                    Scaling&& scaling = {}) const {
    Floats columns[2][16];  // of the first and the last 16 rows
    for (long half = 0; half < 2; half++) {
      for (long i = 0; i < 16; i++) {
        const long r = 16 * half + i;
        if (r + kTileDepth < count) __builtin_prefetch(row(r + kTileDepth));
        columns[half][i] = r < count ? load_masked(row(r), width) : Floats{};
        magnitude.update(columns[half][i]);
        columns[half][i] = scaling(columns[half][i]);
      }
      transpose<float>(columns[half]);
    }
    pack_tile<P, false, false>([&](int column, Floats& first, Floats& second) {
      first = columns[0][column], second = columns[1][column];
    }, at(k_tile, row_tile), kTileSize);
  }
};

// A right operand, [panel][half][k tile][part][2 tiles][16 pairs of k][16 columns]. A half has two of the four tiles of
// a panel, so that products read it in order.
template <class P>
struct RightOperand {
  typedef typename P::Number Number;
  // Distances in elements: from one row of a tile to the next, from one tile to the next in a half, and so on.
  static constexpr long kRowStep = 32, kNext = kTileSize, kPartStep = 2 * kTileSize, kTileStep = P::kCount * kPartStep;
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
  template <class Columns, class Scaling = Unscaled>
  void pack_transposed(const Number* source, long K, Columns columns, long n, Magnitude<Number>& magnitude,
                       Scaling&& scaling = {}) const {
    for (long k = 0; k < K; k += kTileDepth)
      for (int v = 0; v < 4; v++) {
        const Number* from = source + columns.template first<float>(n, v) * K + k;
        const long count = columns.template count<float>(n, v);
        pack_tile<P, false, true>([&](int r, Floats& first, Floats& second) {
          const long depth = r < count ? K - k : 0;
          first = load_masked(from + r * K, depth), second = load_masked(from + r * K + 16, depth - 16);
          magnitude.update(first), magnitude.update(second);
          first = scaling(r, k, first), second = scaling(r, k + 16, second);
        }, at(n, k / kTileDepth, v), kPartStep);
      }
  }
  // Packs one k tile of one panel of a matrix [K][columns], of which `count` rows exist.
  template <class Columns, class Scaling = Unscaled>
  void pack_rows(const Number* rows, long row_stride, long count, Columns columns, long n, long k_tile,
                 Magnitude<Number>& magnitude, Scaling&& scaling = {}) const {
    for (int v = 0; v < 4; v++) {
      const Number* from = rows + columns.template first<float>(n, v);
      const long width = columns.template count<float>(n, v);
      pack_tile<P, true, false>([&](int r, Floats& first, Floats& second) {
        first = load_masked(from + 2 * r * row_stride, 2 * r < count ? width : 0);
        second = load_masked(from + (2 * r + 1) * row_stride, 2 * r + 1 < count ? width : 0);
        magnitude.update(first), magnitude.update(second);
        first = scaling(k_tile * kTileDepth + 2 * r, first), second = scaling(k_tile * kTileDepth + 2 * r + 1, second);
      }, at(n, k_tile, v), kPartStep);
    }
  }
  // Packs one k tile of a panel of adjacent columns, and adds its rows to `sums`. It reads whole rows of the panel, and
  // prefetches the rows of the next k tile, since rows may be far apart in memory. The scaling depends on the columns.
  template <class Scaling = Unscaled>
  void pack_rows_and_sum(const float* rows, long row_stride, long count, long width, long n, long k_tile,
                         Magnitude<Number>& magnitude, Floats (&sums)[4], Scaling&& scaling = {}) const {
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
        __m512i parts[P::kCount];
        split_pairs<P>(scaling(v, first), scaling(v, second), parts);
        for (int p = 0; p < P::kCount; p++) _mm512_store_si512(at(n, k_tile, v) + p * kPartStep + r * 32, parts[p]);
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
