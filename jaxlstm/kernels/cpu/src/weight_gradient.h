// grad_gates^T times the inputs, or the states: a product whose long axis is time.
//
// It goes through time in blocks that stay in the cache. The rows of the result are shared out among the threads.
#pragma once
#include "problem.h"
#include "tile.h"

namespace jaxlstm {
namespace {

constexpr long kBlockRows = 256;

template <class T>
struct WeightGradientPass {
  static constexpr long L = kLanes<T>;
  const WeightGradient<T>& p;
  const PlainColumns columns{p.columns};
  const long panels = columns.panels<T>();
  T *operand, *gates;  // a block of each, packed
  size_t scratch_bytes;

  WeightGradientPass(const WeightGradient<T>& problem, void* scratch) : p(problem) {
    Arena arena(scratch);
    operand = arena.take<T>(panels * kBlockRows * 4 * L);
    gates = arena.take<T>(kBlockRows * p.gates);
    scratch_bytes = arena.used() + kPrefetchBytes;
  }

  void run(int thread, int threads, Barrier& barrier) {
    const long begin = share(p.gates, thread, threads), end = share(p.gates, thread + 1, threads);
    T* my_gates = gates + kBlockRows * begin;
    for (long row = 0; row < p.rows; row += kBlockRows) {
      const long rows = row + kBlockRows < p.rows ? kBlockRows : p.rows - row;
      barrier.wait();  // until nobody reads the block before
      pack(p.operand + row * p.columns, rows, p.columns, 1, columns, share(panels, thread, threads),
           share(panels, thread + 1, threads), operand);
      pack_gates(row, rows, begin, end, my_gates);
      barrier.wait();
      multiply_block(row == 0, rows, begin, end, my_gates);
    }
  }

 protected:
  // [tile][k][rows of the tile]: each tile of the result reads its part in order.
  void pack_gates(long row, long rows, long begin, long end, T* packed) const {
    for_tiles(begin, end, [&](long first, auto tile) {
      constexpr int M = decltype(tile)::count;
      T* to = packed + (first - begin) * rows;
      for (long k = 0; k < rows; k++)
        for (int m = 0; m < M; m++) to[k * M + m] = p.grad_gates[(row + k) * p.gates + first + m];
    });
  }

  void multiply_block(bool first_block, long rows, long begin, long end, const T* packed) const {
    for (long panel = 0; panel < panels; panel++)
      for_tiles(begin, end, [&](long first, auto tile) {
        constexpr int M = decltype(tile)::count;
        Vector<T> sums[M][4] = {};
        multiply<M, 1>(packed + (first - begin) * rows, 1, operand + panel * rows * 4 * L, rows, sums, M);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++)
#pragma GCC unroll 4
          for (int v = 0; v < 4; v++) {
            const long count = columns.count<T>(panel, v);
            if (!count) continue;
            T* to = p.result + (first + m) * p.columns + columns.first<T>(panel, v);
            store(to, first_block ? sums[m][v] : load(to, count) + sums[m][v], count);
          }
      });
  }
};

}  // namespace
}  // namespace jaxlstm
