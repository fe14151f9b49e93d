// The gradients of weights, bias and inputs, computed from the gradients of the gates.
//
// A row is one sequence at one time step. dW = grad_gates^T [x | h] is a product over all rows, computed in chunks of
// rows that stay in the cache. Each chunk is read once for all results. Threads share the gates, and the rows for
// grad_x.
#pragma once
#include "arguments.h"
#include "panel.h"
#include "pass.h"

#if defined(__AVX512BF16__)
#include "bfloat16.h"
#endif

namespace jaxlstm {
namespace {

constexpr long kChunkRows = 256;

// Packs the panels from `begin` to `end` of a matrix of K rows, as pack in panel.h. row_at(k) is the address of row k.
template <class T, class Row, std::enable_if_t<!kIsHalf<T>, int> = 0>
void pack_rows(Row&& row_at, long K, PlainColumns columns, long begin, long end, T* packed) {
  constexpr long L = kLanes<T>;
  for (long k = 0; k < K; k++) {
    const T* row = row_at(k);
    for (long panel = begin; panel < end; panel++)
      for (int v = 0; v < 4; v++) {
        const long width = columns.count<T>(panel, v);
        const Vector<T> value = width ? load(row + columns.first<T>(panel, v), width) : Vector<T>{};
        store(packed + ((panel * K + k) * 4 + v) * L, value);
      }
  }
}

// Packs M columns of the rows from k to k_end, of K in all, as [k][M]. The rows have `width` more columns.
template <int M, class T, std::enable_if_t<!kIsHalf<T>, int> = 0>
JAXLSTM_INLINE void pack_block(const T* rows, long stride, long width, long k, long k_end, long K, T* packed) {
  constexpr long L = kLanes<T>;
  for (; k < k_end; k++)
    for (long m = 0; m < M; m += L) {
      const Vector<T> elements = load(rows + k * stride + m, width - m < L ? width - m : L);
      // Storing a whole vector is faster. The next elements overwrite the surplus.
      store(packed + k * M + m, elements, (K - k) * M - m >= L ? L : M - m < L ? M - m : L);
    }
}

template <class T>
struct GradientsPass {
  static constexpr long L = kLanes<T>;
  const GradientsArguments<T>& p;
  const long rows = p.time * p.batch, gates = 4 * p.hidden_size;
  const PlainColumns inputs{p.input_size}, states{p.h_size};
  const long input_panels = inputs.panels<T>(), state_panels = states.panels<T>();
  T *x, *h, *packed_gates, *weight_ih;  // one packed chunk each, and all weights
  Wide<T>* partial_bias;
  // The sums over the chunks, and in half precision the rounded rows of a chunk of grad_gates.
  Wide<T>*sums_ih, *sums_hh;
  T* rounded_gates;
  size_t scratch_bytes;

  GradientsPass(const GradientsArguments<T>& arguments, void* scratch) : p(arguments) {
    Arena arena(scratch);
    x = arena.take<T>(p.grad_weight_ih ? input_panels * kChunkRows * 4 * L : 0);
    h = arena.take<T>(p.grad_weight_hh ? state_panels * kChunkRows * 4 * L : 0);
    packed_gates = arena.take<T>(kChunkRows * gates);
    partial_bias = arena.take<Wide<T>>(gates);
    weight_ih = arena.take<T>(p.grad_x ? input_panels * padded_depth<T>(gates) * 4 * L : 0);
    if constexpr (kIsHalf<T>) {
      rounded_gates = arena.take<T>(kChunkRows * gates);
      sums_ih = arena.take<float>(p.grad_weight_ih ? gates * p.input_size : 0);
      sums_hh = arena.take<float>(p.grad_weight_hh ? gates * p.h_size : 0);
    } else {
      sums_ih = p.grad_weight_ih, sums_hh = p.grad_weight_hh;
    }
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
      if (p.grad_weight_ih) multiply_chunk(row, count, begin, end, my_gates, inputs, x, sums_ih, p.grad_weight_ih);
      if (p.grad_weight_hh) multiply_chunk(row, count, begin, end, my_gates, states, h, sums_hh, p.grad_weight_hh);
      if (p.grad_x) input_gradients(row, share(count, thread, threads), share(count, thread + 1, threads));
    }
  }

  static constexpr long kAdjacent = kIsHalf<T> ? 2 : 1;  // the k of one packed element
  // Blocks of gates form strips of whole vectors. A strip is packed from a few rows at a time, since the rows of
  // grad_gates often share a set of the first-level cache.
  static constexpr long kStrip = 3 * L, kRowsAtOnce = 8;

  template <class F>
  static void for_strips(long begin, long end, F&& f) {
    for (long strip = begin; strip < end; strip += kStrip) f(strip, strip + kStrip < end ? strip + kStrip : end);
  }
  template <class F>
  JAXLSTM_INLINE static void for_gate_blocks(long begin, long end, F&& f) {
    for_strips(begin, end, [&](long strip, long strip_end) { for_row_blocks(strip, strip_end, f); });
  }
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
    pack_rows(row_at, count, columns, share(panels, thread, threads), share(panels, thread + 1, threads), packed);
  }

  // Packs grad_gates as [block of gates][k][gates of the block], the order in which register blocks read it. In half
  // precision, two k form one element. The same visit of each line of grad_gates adds it to grad_bias.
  void pack_gates(long row, long count, long begin, long end, T* packed) const {
    for (long k = 0; k < count; k += kRowsAtOnce) {
      const long k_end = k + kRowsAtOnce < count ? k + kRowsAtOnce : count;
      for_strips(begin, end, [&](long strip, long strip_end) {
        if (p.grad_bias) add_to_bias(row, k, k_end, strip, strip_end);
        if constexpr (kIsHalf<T>)
          for (long r = k; r < k_end; r++)
            copy_numbers(p.grad_gates + (row + r) * gates + strip, rounded_gates + r * gates + strip,
                         strip_end - strip);
        for_row_blocks(strip, strip_end, [&](long first, auto block) {
          constexpr int M = decltype(block)::count;
          T* to = packed + (first - begin) * padded_depth<T>(count);
          pack_block<M>(chunk_gates(row) + first, gates, gates - first, k, k_end, count, to);
        });
      });
    }
  }

  // Returns the rows of a chunk of grad_gates, in half precision rounded.
  const T* chunk_gates(long row) const {
    if constexpr (kIsHalf<T>) return rounded_gates;
    else return p.grad_gates + row * gates;
  }

  void multiply_chunk(long row, long count, long begin, long end, const T* packed, PlainColumns columns,
                      const T* operand, Wide<T>* sums_so_far, T* result) const {
    const bool first_chunk = row == 0, last_chunk = row + count == rows;
    for (long panel = 0; panel < columns.panels<T>(); panel++)
      for_gate_blocks(begin, end, [&](long first, auto block) {
        constexpr int M = decltype(block)::count;
        Vector<T> sums[M][4] = {};
        // The result is strided and larger than the second-level cache. Without this prefetch, waiting for it takes a
        // third of the time.
        for (int m = 0; m < (first_chunk ? 0 : M); m++)
          for (int v = 0; v < 4; v++)
            __builtin_prefetch(sums_so_far + (first + m) * columns.columns + columns.first<T>(panel, v), 1);
        multiply<M, 1>(packed + (first - begin) * padded_depth<T>(count), kAdjacent, panel_at(operand, panel, count),
                       kIsHalf<T> ? (count + 1) / 2 * 2 : count, sums, kAdjacent * M);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++)
#pragma GCC unroll 4
          for (int v = 0; v < 4; v++) {
            const long width = columns.count<T>(panel, v);
            if (!width) continue;
            const long at = (first + m) * columns.columns + columns.first<T>(panel, v);
            const Vector<T> sum = first_chunk ? sums[m][v] : load(sums_so_far + at, width) + sums[m][v];
            if (last_chunk) store(result + at, sum, width);
            else store(sums_so_far + at, sum, width);
          }
      });
  }

  // Adds the rows from k to k_end of a chunk to grad_bias of some gates. The chunk at row 0 comes first.
  void add_to_bias(long row, long k, long k_end, long begin, long end) const {
    static_assert(kSumLength % kRowsAtOnce == 0 && kChunkRows % kSumLength == 0, "sums end with a visit");
    for (long gate = begin; gate < end; gate += L) {
      const long width = gate + L < end ? L : end - gate;
      Vector<T> sum = {};
      for (long r = k; r < k_end; r++) sum += load(p.grad_gates + (row + r) * gates + gate, width);
      if (k % kSumLength) sum += load(partial_bias + gate, width);
      if (k_end % kSumLength && row + k_end < rows) {
        store(partial_bias + gate, sum, width);
      } else {
        store(p.grad_bias + gate, row + k_end > kSumLength ? load(p.grad_bias + gate, width) + sum : sum, width);
      }
    }
  }

  // Computes grad_x = W_ih^T grad_gates for the rows from `begin` to `end` of the chunk at `first`.
  void input_gradients(long first, long begin, long end) const {
    for_register_blocks(begin, end, 0, input_panels, false, [&](long row, auto block, long panel, auto group) {
      constexpr int M = decltype(block)::count, N = decltype(group)::count;
      Vector<T> sums[M][4 * N] = {};
      multiply<M, N>(chunk_gates(first) + row * gates, gates, panel_at(weight_ih, panel, gates), gates, sums);
      for (int m = 0; m < M; m++)
        for (int v = 0; v < 4 * N; v++) {
          const long width = inputs.count<T>(panel + v / 4, v % 4);
          if (width)
            store(p.grad_x + (first + row + m) * p.input_size + inputs.first<T>(panel + v / 4, v % 4), sums[m][v],
                  width);
        }
    });
  }
};

}  // namespace
}  // namespace jaxlstm
