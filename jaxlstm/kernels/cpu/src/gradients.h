// The gradients of weights, bias and inputs, computed from the gradients of the gates.
//
// A row is one sequence at one time step. dW = grad_gates^T [x | h] is a product over all rows, computed in chunks of
// rows that stay in the cache. Each chunk is read once for all results. Threads share the gates, and the rows for
// grad_x.
#pragma once
#include "arena.h"
#include "arguments.h"
#include "panel.h"
#include "work_sharing.h"

namespace jaxlstm {
namespace {

constexpr long kChunkRows = 256;

template <class T>
struct GradientsPass {
  static constexpr long L = kLanes<T>;
  const GradientsArguments<T>& p;
  const long rows = p.time * p.batch, gates = 4 * p.hidden_size;
  const PlainColumns inputs{p.input_size}, states{p.h_size};
  const long input_panels = inputs.panels<T>(), state_panels = states.panels<T>();
  T *x, *h, *packed_gates, *weight_ih;  // one packed chunk each, and all weights
  size_t scratch_bytes;

  GradientsPass(const GradientsArguments<T>& arguments, void* scratch) : p(arguments) {
    Arena arena(scratch);
    x = arena.take<T>(p.grad_weight_ih ? input_panels * kChunkRows * 4 * L : 0);
    h = arena.take<T>(p.grad_weight_hh ? state_panels * kChunkRows * 4 * L : 0);
    packed_gates = arena.take<T>(kChunkRows * gates);
    weight_ih = arena.take<T>(p.grad_x ? input_panels * gates * 4 * L : 0);
    scratch_bytes = arena.used() + kPrefetchBytes;
  }

  void run(int thread, int threads, Barrier& barrier) {
    const long begin = share(gates, thread, threads), end = share(gates, thread + 1, threads);
    T* my_gates = packed_gates + kChunkRows * begin;
    if (p.grad_x)
      pack(p.weight_ih, gates, p.input_size, 1, inputs, share(input_panels, thread, threads),
           share(input_panels, thread + 1, threads), weight_ih);
    for (long row = 0; row < rows; row += kChunkRows) {
      const long count = row + kChunkRows < rows ? kChunkRows : rows - row;
      barrier.wait();  // the previous chunk is no longer read
      if (p.grad_weight_ih) pack_chunk(inputs, [&](long k) { return x_at(row + k); }, count, thread, threads, x);
      if (p.grad_weight_hh) pack_chunk(states, [&](long k) { return h_before(row + k); }, count, thread, threads, h);
      pack_gates(row, count, begin, end, my_gates);
      barrier.wait();
      if (p.grad_weight_ih) multiply_chunk(row == 0, count, begin, end, my_gates, inputs, x, p.grad_weight_ih);
      if (p.grad_weight_hh) multiply_chunk(row == 0, count, begin, end, my_gates, states, h, p.grad_weight_hh);
      if (p.grad_bias) sum_chunk(row, count, begin, end);
      if (p.grad_x) input_gradients(row + share(count, thread, threads), row + share(count, thread + 1, threads));
    }
  }

 protected:
  const T* x_at(long row) const { return p.x + row * p.input_size; }

  // Returns h before the step of a row. If the gradients of the row are zero, it may be any finite vector.
  const T* h_before(long row) const {
    const long first = p.reverse ? rows - p.batch : 0;  // first row of the first step
    const long before = p.reverse ? row + p.batch : row - p.batch;
    if (row >= first && row < first + p.batch) return p.h_0 + (row - first) * p.h_size;
    // In the reverse direction, a ragged sequence starts at its own last step, with the initial state.
    if (p.reverse && p.valid && !p.valid[before]) return p.h_0 + row % p.batch * p.h_size;
    return p.y + before * p.h_size;
  }

  template <class Row>
  void pack_chunk(PlainColumns columns, Row&& row_at, long count, int thread, int threads, T* packed) const {
    const long panels = columns.panels<T>();
    for (long panel = share(panels, thread, threads); panel < share(panels, thread + 1, threads); panel++)
      for (long k = 0; k < count; k++)
        for (int v = 0; v < 4; v++) {
          const long width = columns.count<T>(panel, v);
          const Vector<T> value = width ? load(row_at(k) + columns.first<T>(panel, v), width) : Vector<T>{};
          store(packed + ((panel * count + k) * 4 + v) * L, value);
        }
  }

  // Packs grad_gates as [block of gates][k][gates of the block], the order in which register blocks read it.
  void pack_gates(long row, long count, long begin, long end, T* packed) const {
    for_row_blocks(begin, end, [&](long first, auto block) {
      constexpr int M = decltype(block)::count;
      T* to = packed + (first - begin) * count;
      for (long k = 0; k < count; k++)
        for (int m = 0; m < M; m++) to[k * M + m] = p.grad_gates[(row + k) * gates + first + m];
    });
  }

  void multiply_chunk(bool first_chunk, long count, long begin, long end, const T* packed, PlainColumns columns,
                      const T* operand, T* result) const {
    for (long panel = 0; panel < columns.panels<T>(); panel++)
      for_row_blocks(begin, end, [&](long first, auto block) {
        constexpr int M = decltype(block)::count;
        Vector<T> sums[M][4] = {};
        // The result is strided and larger than the second-level cache. Without this prefetch, waiting for it takes a
        // third of the time.
        for (int m = 0; m < (first_chunk ? 0 : M); m++)
          for (int v = 0; v < 4; v++)
            __builtin_prefetch(result + (first + m) * columns.columns + columns.first<T>(panel, v), 1);
        multiply<M, 1>(packed + (first - begin) * count, 1, operand + panel * count * 4 * L, count, sums, M);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++)
#pragma GCC unroll 4
          for (int v = 0; v < 4; v++) {
            const long width = columns.count<T>(panel, v);
            if (!width) continue;
            T* to = result + (first + m) * columns.columns + columns.first<T>(panel, v);
            store(to, first_chunk ? sums[m][v] : load(to, width) + sums[m][v], width);
          }
      });
  }

  // Adds a chunk to grad_bias of some gates. The chunk at row 0 comes first.
  void sum_chunk(long row, long count, long begin, long end) const {
    for (long gate = begin; gate < end; gate += L) {
      const long width = gate + L < end ? L : end - gate;
      Vector<T> sum = row ? load(p.grad_bias + gate, width) : Vector<T>{};
      for (long first = row; first < row + count; first += kSumLength) {
        const long last = first + kSumLength < row + count ? first + kSumLength : row + count;
        Vector<T> partial = {};
        for (long k = first; k < last; k++) partial += load(p.grad_gates + k * gates + gate, width);
        sum += partial;
      }
      store(p.grad_bias + gate, sum, width);
    }
  }

  // Computes grad_x = W_ih^T grad_gates for some rows.
  void input_gradients(long begin, long end) const {
    for_register_blocks(begin, end, 0, input_panels, false, [&](long row, auto block, long panel, auto group) {
      constexpr int M = decltype(block)::count, N = decltype(group)::count;
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
