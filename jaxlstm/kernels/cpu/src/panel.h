// The matrix product that all passes without AMX are built on: some rows of a batch times some panels of weights.
//
// A panel holds the weights of four vectors of output columns for every k, in the order in which the product reads
// them: packed weights have the layout [panel][K][4][lanes], with zeros for columns past the end. In the forward
// product the four vectors are the gates i, f, g, o of the same hidden units (a GRU has three), so that the cell is
// computed while its gates are still in registers. In all other products they are four adjacent vectors of columns.
//
// The product is register-blocked, as in GotoBLAS (Goto and van de Geijn 2008): M rows and N panels at a time
// accumulate into M x 4 N vector registers. Each step over k loads 4 N vectors of weights and broadcasts M elements of
// the rows, for 4 M N multiply-adds. M and N are template parameters, chosen so that the sums, an element of each row
// and a vector of weights fit the registers.
//
// A new instruction set implements `multiply` and `pack`.
#pragma once
#include "half.h"
#include "vector.h"

namespace jaxlstm {
namespace {

// Rounding errors grow with the number of terms that are added one after another, so longer sums are split into partial
// sums of this many terms.
constexpr long kSumLength = 128;
// Distance at which weights are prefetched. A step reads them in order, from the second-level cache or beyond. With one
// row there are as many loads as products, and prefetching costs more than it saves.
constexpr long kPrefetchBytes = 4096;

// In half precision, a product of vectors takes two k at once, and a tile of AMX (amx.h) has 32.
constexpr long kPair = 2;
#if defined(__AMX_BF16__)
constexpr long kHalfDepth = 32;
#else
constexpr long kHalfDepth = kPair;
#endif
// The number of k of a packed panel: K, or in half precision the next multiple of kHalfDepth.
template <class T>
constexpr long padded_depth(long K) { return kIsHalf<T> ? (K + kHalfDepth - 1) / kHalfDepth * kHalfDepth : K; }
// Returns a panel of packed weights with K rows of V vectors of weights.
template <int V = 4, class T>
JAXLSTM_INLINE T* panel_at(T* packed, long panel, long K) {
  typedef std::remove_const_t<T> Element;
  return packed + panel * padded_depth<Element>(K) * V * kLanes<Element>;
}

// Adds the product of M rows and N adjacent panels of V vectors to `sums`. Element k of row m is rows[m * row_stride +
// k * k_stride]. The order of the additions does not depend on M or N, so the result of a row does not depend on its
// batch. The sums of a panel are V of its S, from `first` on.
template <int M, int N, class T, int V = 4, int S = V, std::enable_if_t<!kIsHalf<T>, int> = 0>
JAXLSTM_INLINE void multiply(const T* rows, long row_stride, const T* weights, long K,
                             Vector<T> (&sums)[M][S * N], long k_stride = 1, int first = 0) {
  constexpr int L = kLanes<T>;
  const long panel_stride = K * V * L;
  for (long begin = 0; begin < K; begin += kSumLength) {
    const long end = begin + kSumLength < K ? begin + kSumLength : K;
    Vector<T> partial[M][V * N] = {};
#pragma GCC unroll 2
    for (long k = begin; k < end; k++) {
      Vector<T> a[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) a[m] = broadcast(rows[m * row_stride + k * k_stride]);
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) {
        const T* w = weights + n * panel_stride + k * V * L;
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
          if (M > 1 && v * kVectorBytes % 64 == 0) __builtin_prefetch((const char*)(w + v * L) + kPrefetchBytes);
          const Vector<T> b = load(w + v * L);
#pragma GCC unroll 8
          for (int m = 0; m < M; m++) partial[m][V * n + v] += a[m] * b;
        }
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 16
      for (int v = 0; v < V * N; v++) sums[m][v / V * S + first + v % V] += partial[m][v];
  }
}

// Number of panels that `multiply` takes at once. One panel of a few rows has too few independent sums to hide the
// latency of a multiply-add.
constexpr int panels_at_once(int rows, int vectors) {
  if (kRegisters == 32) return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
  if (vectors == 3) return rows == 1 ? 4 : rows == 2 ? 2 : 1;
  return rows == 1 ? 2 : 1;
}

// Compile-time counts, passed as arguments to generic lambdas.
template <int M>
struct Rows { static constexpr int count = M; };
template <int N>
struct Panels { static constexpr int count = N; };

// Splits rows into nearly equal blocks of at most kMaxBlockRows, and calls f(first row, Rows<M>) for each.
template <class F>
JAXLSTM_INLINE void for_row_blocks(long begin, long end, F&& f) {
  const long rows = end - begin;
  if (rows <= 0) return;
  const long blocks = (rows + kMaxBlockRows - 1) / kMaxBlockRows;
  for (long block = 0; block < blocks; block++) {
    const long first = begin + rows * block / blocks;
    switch (begin + rows * (block + 1) / blocks - first) {
      case 1: f(first, Rows<1>()); break;
      case 2: f(first, Rows<2>()); break;
      case 3: if constexpr (kMaxBlockRows >= 3) f(first, Rows<3>()); break;
      case 4: if constexpr (kMaxBlockRows >= 4) f(first, Rows<4>()); break;
      case 5: if constexpr (kMaxBlockRows >= 5) f(first, Rows<5>()); break;
      case 6: if constexpr (kMaxBlockRows >= 6) f(first, Rows<6>()); break;
    }
  }
}

// Covers a product with register blocks, and calls f(first row, Rows<M>, first panel, Panels<N>) for each. A panel
// meets all rows while it is in the cache. With `backwards` the panels come in reverse order: passes alternate the
// direction from step to step, because the panels used last are still in the cache.
template <int V = 4, class F>
JAXLSTM_INLINE void for_register_blocks(
    long row_begin, long row_end, long panel_begin, long panel_end, bool backwards, F&& f) {
  if (row_end - row_begin > kMaxBlockRows) {
    for (long i = panel_begin; i < panel_end; i++) {
      const long panel = backwards ? panel_begin + panel_end - 1 - i : i;
      for_row_blocks(row_begin, row_end, [&](long row, auto rows) { f(row, rows, panel, Panels<1>()); });
    }
    return;
  }
  for_row_blocks(row_begin, row_end, [&](long row, auto rows) {
    constexpr int N = panels_at_once(decltype(rows)::count, V);
    const long whole = (panel_end - panel_begin) / N;
    const long groups = whole + (panel_end - panel_begin) % N;  // the remaining panels form groups of one
    for (long i = 0; i < groups; i++) {
      const long group = backwards ? groups - 1 - i : i;
      if (group < whole) f(row, rows, panel_begin + group * N, Panels<N>());
      else if constexpr (N > 1) f(row, rows, panel_begin + whole * (N - 1) + group, Panels<1>());
    }
  });
}

// The columns of the forward product: the V vectors of panel j hold the blocks of the hidden units from j * lanes on,
// in order from `block` on and then from the first.
template <int V = 4>
struct GateColumns {
  static constexpr int kVectors = V;
  long hidden_size, block = 0;
  template <class T>
  long first(long panel, int v) const { return (block + v) % V * hidden_size + panel * kLanes<T>; }
  template <class T>
  long count(long panel, int) const { return clip<T>(hidden_size - panel * kLanes<T>); }
  template <class T>
  long panels() const { return (hidden_size + kLanes<T> - 1) / kLanes<T>; }
  template <class T>
  static long clip(long n) { return n < 0 ? 0 : n < kLanes<T> ? n : kLanes<T>; }
};
// The columns of any other product: vector v of panel j holds the columns from (4 j + v) * lanes on.
struct PlainColumns {
  static constexpr int kVectors = 4;
  long columns;
  template <class T>
  long first(long panel, int v) const { return (4 * panel + v) * kLanes<T>; }
  template <class T>
  long count(long panel, int v) const { return GateColumns<>::clip<T>(columns - first<T>(panel, v)); }
  template <class T>
  long panels() const { return (columns + 4 * kLanes<T> - 1) / (4 * kLanes<T>); }
};

// Packs the panels from `begin` to `end` of the matrix with the elements source[k * k_stride + column * column_stride],
// where one of the strides is 1. It packs one vector of a panel after another, which reads at most L rows at a time,
// and prefetches the lines that it writes next. For matrices larger than the second-level cache this is 1.7 times as
// fast as packing the four vectors of a panel together.
template <class T, class Columns>
void pack(const T* source, long K, long k_stride, long column_stride, Columns columns, long begin,
          long end, T* packed) {
  constexpr long L = kLanes<T>, V = Columns::kVectors;
  for (long panel = begin; panel < end; panel++)
    for (int v = 0; v < V; v++)
      for (long k = 0; k < K; k += L) {
        const long count = columns.template count<T>(panel, v), depth = k + L < K ? L : K - k;
        for (long j = 0; j < L; j++) __builtin_prefetch(packed + ((panel * K + k + L + j) * V + v) * L, 1);
        const T* from = source + k * k_stride + columns.template first<T>(panel, v) * column_stride;
        Vector<T> square[L];
        if (column_stride == 1) {
          for (long j = 0; j < L; j++) square[j] = j < depth && count ? load(from + j * k_stride, count) : Vector<T>{};
        } else {
          for (long l = 0; l < L; l++) square[l] = l < count ? load(from + l * column_stride, depth) : Vector<T>{};
          transpose<T>(square);
        }
        for (long j = 0; j < depth; j++) store(packed + ((panel * K + k + j) * V + v) * L, square[j]);
      }
}

}  // namespace
}  // namespace jaxlstm
