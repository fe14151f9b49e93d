// From the gradients of the gates to those of what they were made of: weights, bias and inputs.
//
// Products whose long axis is time, in blocks of rows that stay in the cache, each read once for all of them. The
// gates are shared out among the threads, for grad_x the rows.
#pragma once
#include "problem.h"
#include "shares.h"
#include "tile.h"

namespace jaxlstm {
namespace {

constexpr long kBlockRows = 256;

template <class T>
struct GradientsPass {
  static constexpr long L = kLanes<T>;
  const Gradients<T>& p;
  const long rows = p.time * p.batch, gates = 4 * p.hidden_size;
  const PlainColumns inputs{p.input_size}, states{p.h_size};
  const long input_panels = inputs.panels<T>(), state_panels = states.panels<T>();
  T *x, *h, *gate_tiles, *weight_ih;  // a block of each, and all of the weights, packed
  size_t scratch_bytes;

  GradientsPass(const Gradients<T>& problem, void* scratch) : p(problem) {
    Arena arena(scratch);
    x = arena.take<T>(p.grad_weight_ih ? input_panels * kBlockRows * 4 * L : 0);
    h = arena.take<T>(p.grad_weight_hh ? state_panels * kBlockRows * 4 * L : 0);
    gate_tiles = arena.take<T>(kBlockRows * gates);
    weight_ih = arena.take<T>(p.grad_x ? input_panels * gates * 4 * L : 0);
    scratch_bytes = arena.used() + kPrefetchBytes;
  }

  void run(int thread, int threads, Barrier& barrier) {
    const long begin = share(gates, thread, threads), end = share(gates, thread + 1, threads);
    T* my_tiles = gate_tiles + kBlockRows * begin;
    if (p.grad_x)
      pack(p.weight_ih, gates, p.input_size, 1, inputs, share(input_panels, thread, threads),
           share(input_panels, thread + 1, threads), weight_ih);
    for (long row = 0; row < rows; row += kBlockRows) {
      const long count = row + kBlockRows < rows ? kBlockRows : rows - row;
      barrier.wait();  // until nobody reads the block before
      if (p.grad_weight_ih) pack_block(inputs, [&](long k) { return x_at(row + k); }, count, thread, threads, x);
      if (p.grad_weight_hh) pack_block(states, [&](long k) { return h_before(row + k); }, count, thread, threads, h);
      pack_gates(row, count, begin, end, my_tiles);
      barrier.wait();
      if (p.grad_weight_ih) multiply_block(row == 0, count, begin, end, my_tiles, inputs, x, p.grad_weight_ih);
      if (p.grad_weight_hh) multiply_block(row == 0, count, begin, end, my_tiles, states, h, p.grad_weight_hh);
      if (p.grad_bias) sum_block(row, count, begin, end);
      if (p.grad_x) through_weights(row + share(count, thread, threads), row + share(count, thread + 1, threads));
    }
  }

 protected:
  const T* x_at(long row) const { return p.x + row * p.input_size; }

  // The h that a row's step began with; where its gradients are zero, anything finite.
  const T* h_before(long row) const {
    const long first = p.reverse ? rows - p.batch : 0;  // of the step that is taken first
    const long before = p.reverse ? row + p.batch : row - p.batch;
    if (row >= first && row < first + p.batch) return p.h_0 + (row - first) * p.h_size;
    // Running backwards, a row begins at its own last step, with the initial state.
    if (p.reverse && p.valid && !p.valid[before]) return p.h_0 + row % p.batch * p.h_size;
    return p.y + before * p.h_size;
  }

  template <class Row>
  void pack_block(PlainColumns columns, Row&& row_at, long count, int thread, int threads, T* packed) const {
    const long panels = columns.panels<T>();
    for (long panel = share(panels, thread, threads); panel < share(panels, thread + 1, threads); panel++)
      for (long k = 0; k < count; k++)
        for (int v = 0; v < 4; v++) {
          const long width = columns.count<T>(panel, v);
          const Vector<T> value = width ? load(row_at(k) + columns.first<T>(panel, v), width) : Vector<T>{};
          store(packed + ((panel * count + k) * 4 + v) * L, value);
        }
  }

  // [tile][k][rows of the tile]: each tile of the result reads its part in order.
  void pack_gates(long row, long count, long begin, long end, T* packed) const {
    for_tiles(begin, end, [&](long first, auto tile) {
      constexpr int M = decltype(tile)::count;
      T* to = packed + (first - begin) * count;
      for (long k = 0; k < count; k++)
        for (int m = 0; m < M; m++) to[k * M + m] = p.grad_gates[(row + k) * gates + first + m];
    });
  }

  void multiply_block(bool first_block, long count, long begin, long end, const T* tiles, PlainColumns columns,
                      const T* operand, T* result) const {
    for (long panel = 0; panel < columns.panels<T>(); panel++)
      for_tiles(begin, end, [&](long first, auto tile) {
        constexpr int M = decltype(tile)::count;
        Vector<T> sums[M][4] = {};
        multiply<M, 1>(tiles + (first - begin) * count, 1, operand + panel * count * 4 * L, count, sums, M);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++)
#pragma GCC unroll 4
          for (int v = 0; v < 4; v++) {
            const long width = columns.count<T>(panel, v);
            if (!width) continue;
            T* to = result + (first + m) * columns.columns + columns.first<T>(panel, v);
            store(to, first_block ? sums[m][v] : load(to, width) + sums[m][v], width);
          }
      });
  }

  // grad_bias of some gates: the sum over rows, of which row 0 is the first.
  void sum_block(long row, long count, long begin, long end) const {
    for (long gate = begin; gate < end; gate += L) {
      const long width = gate + L < end ? L : end - gate;
      Vector<T> sum = row ? load(p.grad_bias + gate, width) : Vector<T>{};
      for (long first = row; first < row + count; first += kSumLength) {
        const long last = first + kSumLength < row + count ? first + kSumLength : row + count;
        Vector<T> part = {};
        for (long k = first; k < last; k++) part += load(p.grad_gates + k * gates + gate, width);
        sum += part;
      }
      store(p.grad_bias + gate, sum, width);
    }
  }

  // grad_x of some rows: W_ih^T grad_gates.
  void through_weights(long begin, long end) const {
    for_tiles_and_panels(begin, end, 0, input_panels, false, [&](long row, auto tile, long panel, auto group) {
      constexpr int M = decltype(tile)::count, N = decltype(group)::count;
      Vector<T> sums[M][4 * N] = {};
      multiply<M, N>(p.grad_gates + row * gates, gates, weight_ih + panel * gates * 4 * L, gates, sums);
      for (int m = 0; m < M; m++)
        for (int v = 0; v < 4 * N; v++) {
          const long width = inputs.count<T>(panel + v / 4, v % 4);
          if (width)
            store(p.grad_x + (row + m) * p.input_size + inputs.first<T>(panel + v / 4, v % 4), sums[m][v], width);
        }
    });
  }
};

}  // namespace
}  // namespace jaxlstm
