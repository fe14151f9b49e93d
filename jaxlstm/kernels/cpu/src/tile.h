// The matrix product that everything else is built on: a few rows of a batch times a panel of weights.
//
// A panel holds four vectors of output columns: in the forward product the gates i, f, g, o of the same
// hidden units, so that a cell can be computed while its gates are still in registers; elsewhere four
// neighbouring vectors. Packed weights are [panel][K][4][lanes], zero where there is no column.
//
// Another instruction set, or another way to multiply, takes the place of `multiply` and `pack`.
#pragma once
#include "vector.h"

namespace jaxlstm {
namespace {

// A sum over more terms than this is a sum of sums: rounding errors grow with the length of a chain.
constexpr long kSumLength = 128;
// Weights are read once a step from the second cache or beyond, in order: ask for them this far ahead. With one row
// there are as many loads as products, and asking takes longer than it saves.
constexpr long kPrefetchBytes = 4096;

// sums[m][...] += rows[m] . weights, for M rows and N neighbouring panels; element k of row m is
// rows[m * row_stride + k * k_stride]. The order in which terms are added does not depend on M or N, so a row's
// result does not depend on its batch.
template <int M, int N, class T>
JAXLSTM_INLINE void multiply(const T* rows, long row_stride, const T* weights, long K,
                             Vector<T> (&sums)[M][4 * N], long k_stride = 1) {
  constexpr int L = kLanes<T>;
  const long panel_stride = K * 4 * L;
  for (long begin = 0; begin < K; begin += kSumLength) {
    const long end = begin + kSumLength < K ? begin + kSumLength : K;
    Vector<T> part[M][4 * N] = {};
    for (long k = begin; k < end; k++) {
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) {
        const T* w = weights + n * panel_stride + k * 4 * L;
#pragma GCC unroll 4
        for (int v = 0; v < (M > 1 ? 4 : 0); v++) __builtin_prefetch((const char*)(w + v * L) + kPrefetchBytes);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
          const Vector<T> a = broadcast(rows[m * row_stride + k * k_stride]);
#pragma GCC unroll 4
          for (int v = 0; v < 4; v++) part[m][4 * n + v] += a * load(w + v * L);
        }
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 16
      for (int v = 0; v < 4 * N; v++) sums[m][v] += part[m][v];
  }
}

// How many panels go through `multiply` at once: with few rows there are too few independent sums to keep
// the multipliers busy.
constexpr int panels_at_once(int rows) {
  if (kRegisters == 32) return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
  return rows == 1 ? 2 : 1;
}

template <int M>
struct Rows {
  static constexpr int count = M;
};

// Calls f(first row, Rows<M>) for near-equal tiles of at most kTileRows rows.
template <class F>
JAXLSTM_INLINE void for_tiles(long begin, long end, F&& f) {
  const long rows = end - begin;
  if (rows <= 0) return;
  const long tiles = (rows + kTileRows - 1) / kTileRows;
  for (long tile = 0; tile < tiles; tile++) {
    const long first = begin + rows * tile / tiles;
    switch (begin + rows * (tile + 1) / tiles - first) {
      case 1: f(first, Rows<1>()); break;
      case 2: f(first, Rows<2>()); break;
      case 3: if constexpr (kTileRows >= 3) f(first, Rows<3>()); break;
      case 4: if constexpr (kTileRows >= 4) f(first, Rows<4>()); break;
      case 5: if constexpr (kTileRows >= 5) f(first, Rows<5>()); break;
      case 6: if constexpr (kTileRows >= 6) f(first, Rows<6>()); break;
    }
  }
}

template <int N>
struct Panels {
  static constexpr int count = N;
};

// Calls f(first row, Rows<M>, first panel, Panels<N>) for all of a product. Each panel meets all rows while
// it is in the cache. Every other step goes through the panels backwards: those used last are still there.
template <class F>
JAXLSTM_INLINE void for_tiles_and_panels(
    long row_begin, long row_end, long panel_begin, long panel_end, bool backwards, F&& f) {
  if (row_end - row_begin > kTileRows) {
    for (long i = panel_begin; i < panel_end; i++) {
      const long panel = backwards ? panel_begin + panel_end - 1 - i : i;
      for_tiles(row_begin, row_end, [&](long row, auto rows) { f(row, rows, panel, Panels<1>()); });
    }
    return;
  }
  for_tiles(row_begin, row_end, [&](long row, auto rows) {
    constexpr int N = panels_at_once(decltype(rows)::count);
    const long whole = (panel_end - panel_begin) / N;
    const long groups = whole + (panel_end - panel_begin) % N;  // what is left over goes one by one
    for (long i = 0; i < groups; i++) {
      const long group = backwards ? groups - 1 - i : i;
      if (group < whole) {
        f(row, rows, panel_begin + group * N, Panels<N>());
      } else if constexpr (N > 1) {
        f(row, rows, panel_begin + whole * (N - 1) + group, Panels<1>());
      }
    }
  });
}

// Which columns of a product a panel holds.
struct GateColumns {  // vector v of panel j: gate v of the hidden units from j * lanes on
  long hidden_size;
  template <class T>
  long first(long panel, int v) const { return v * hidden_size + panel * kLanes<T>; }
  template <class T>
  long count(long panel, int) const { return clip<T>(hidden_size - panel * kLanes<T>); }
  template <class T>
  long panels() const { return (hidden_size + kLanes<T> - 1) / kLanes<T>; }
  template <class T>
  static long clip(long n) { return n < 0 ? 0 : n < kLanes<T> ? n : kLanes<T>; }
};
struct PlainColumns {  // vector v of panel j: columns from (4 j + v) * lanes on
  long columns;
  template <class T>
  long first(long panel, int v) const { return (4 * panel + v) * kLanes<T>; }
  template <class T>
  long count(long panel, int v) const { return GateColumns::clip<T>(columns - first<T>(panel, v)); }
  template <class T>
  long panels() const { return (columns + 4 * kLanes<T> - 1) / (4 * kLanes<T>); }
};

// Packs the panels from `begin` to `end` of the matrix whose element (k, column) is
// source[k * k_stride + column * column_stride]; one of the strides is 1. Vector by vector, so that no more than L
// rows are read at a time, and with the lines that are written next asked for: beyond the second cache that is 1.7
// times as fast as all four vectors of a panel at once.
template <class T, class Columns>
void pack(const T* source, long K, long k_stride, long column_stride, Columns columns, long begin,
          long end, T* packed) {
  constexpr long L = kLanes<T>;
  for (long panel = begin; panel < end; panel++)
    for (int v = 0; v < 4; v++)
      for (long k = 0; k < K; k += L) {
        const long count = columns.template count<T>(panel, v), depth = k + L < K ? L : K - k;
        for (long j = 0; j < L; j++) __builtin_prefetch(packed + ((panel * K + k + L + j) * 4 + v) * L, 1);
        const T* from = source + k * k_stride + columns.template first<T>(panel, v) * column_stride;
        Vector<T> block[L];
        if (column_stride == 1) {
          for (long j = 0; j < L; j++) block[j] = j < depth && count ? load(from + j * k_stride, count) : Vector<T>{};
        } else {
          for (long l = 0; l < L; l++) block[l] = l < count ? load(from + l * column_stride, depth) : Vector<T>{};
          transpose<T>(block);
        }
        for (long j = 0; j < depth; j++) store(packed + ((panel * K + k + j) * 4 + v) * L, block[j]);
      }
}

// Hands out pieces of one block of memory, aligned; without a block it only counts.
class Arena {
 public:
  explicit Arena(void* base, size_t used = 0) : base_(static_cast<char*>(base)), used_(used) {}
  template <class T>
  T* take(long count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (size_t(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_;
};


}  // namespace
}  // namespace jaxlstm
