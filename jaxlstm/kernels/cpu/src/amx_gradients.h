// The gradients of weights, bias and inputs on AMX (amx_product.h), as in gradients.h.
//
// For the weights, [x | h]^T is the left operand and grad_gates the right one, so the larger of the two is packed
// without a transposition. For the inputs, grad_gates is the left operand and W_ih the right one. Both products run in
// chunks of 512 k. Of each chunk, a few tiles of grad_gates, which stay in the second-level cache, are multiplied with
// all of the other operand. Columns of [x | h] are processed in pairs of row tiles: 32 columns of x or of h.
#pragma once
#include "amx_product.h"
#include "gradients.h"

namespace jaxlstm {
namespace {

template <class T>
struct AmxGradientsPass : GradientsPass<T> {
  typedef GradientsPass<T> Base;
  typedef Bfloat16Parts<T> P;
  using Base::L, Base::p, Base::rows, Base::gates, Base::inputs, Base::input_panels, Base::scratch_bytes;
  using Base::h_before, Base::x_at;
  static constexpr long kDepth = kMaxChainTiles;    // k tiles per chunk
  static constexpr long kPanels = 4, kRowTiles = 16;  // panels or row tiles of grad_gates packed at a time
  static constexpr long kPairSize = kDepth * 2 * P::kCount * kTileSize;
  static constexpr long kGateTilesSize = kRowTiles * kDepth * P::kCount * kTileSize;
  static_assert(kPanels * 4 == kRowTiles, "both products use the same buffer");
  const bool use_amx = rows >= 64 && p.threads <= Magnitudes<T>::kMaxThreads;
  const PlainColumns gate_columns{gates};
  const long gate_panels = gate_columns.template panels<float>(), gate_k_tiles = ceil_divide(gates, kTileDepth);
  const long input_pairs = p.grad_weight_ih ? ceil_divide(p.input_size, 32) : 0;
  // For the inputs, rows are processed in groups of equal size, the same number for each thread.
  const long row_groups = p.threads * ceil_divide(rows, 16 * kRowTiles * p.threads);
  const long row_tiles = 2 * ceil_divide(rows, 32 * row_groups);
  const long pairs = input_pairs + (p.grad_weight_hh ? ceil_divide(p.h_size, 32) : 0);
  TileBits* left;        // a chunk of [x | h]^T, [pair]
  RightOperand<P> right;    // W_ih
  TileBits* gate_tiles;  // packed tiles of grad_gates, [thread]
  // [pair][panel of gates][2][4][16][16] and [thread][panel of inputs][row tile][4][16][16]
  float *sums, *grad_x;
  uint32_t* magnitudes;

  AmxGradientsPass(const GradientsArguments<T>& arguments, void* scratch) : Base(arguments, scratch) {
    if (!use_amx) return;
    Arena arena(scratch, scratch_bytes);
    left = arena.take<TileBits>(pairs * kPairSize);
    right = RightOperand<P>::take(arena, p.grad_x ? input_panels : 0, gates);
    gate_tiles = arena.take<TileBits>(p.threads * kGateTilesSize);
    sums = arena.take<float>(pairs * gate_panels * 8 * kResultSize);
    grad_x = arena.take<float>(p.grad_x ? p.threads * input_panels * kRowTiles * 4 * kResultSize : 0);
    magnitudes = arena.take<uint32_t>(Magnitudes<T>::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (use_amx && run_on_tiles(thread, threads, barrier)) return;
    Base::run(thread, threads, barrier);  // overwrites all results
  }

 private:
  struct OperandMagnitudes {
    Magnitude<T> grad_gates, x, h, weight_ih;
  };

  // Returns false, with invalid results, if an operand was out of range.
  bool run_on_tiles(int thread, int threads, Barrier& barrier) {
    const TileRegisters registers;
    OperandMagnitudes magnitude;
    if (p.grad_x) pack_weights(thread, threads, magnitude);
    if (pairs || p.grad_bias) weight_gradients(thread, threads, barrier, magnitude);
    barrier.wait();
    if (p.grad_x) input_gradients(thread, threads, magnitude);
    Magnitudes<T> all(magnitudes);
    all.record(thread, magnitude.grad_gates, magnitude.x, magnitude.h, magnitude.weight_ih);
    barrier.wait();
    return all.in_range(threads);
  }

  TileBits* gate_tiles_of(int thread) const { return gate_tiles + thread * kGateTilesSize; }

  void weight_gradients(int thread, int threads, Barrier& barrier, OperandMagnitudes& magnitude) {
    const long begin = share(gate_panels, thread, threads), end = share(gate_panels, thread + 1, threads);
    for (long row = 0; row < rows; row += kDepth * kTileDepth) {
      const long depth = minimum(kDepth, ceil_divide(rows - row, kTileDepth));
      barrier.wait();  // the previous chunk is no longer read
      for (long i = share(pairs * depth * 2, thread, threads); i < share(pairs * depth * 2, thread + 1, threads); i++)
        pack_operand(row, i / (2 * depth), i / 2 % depth, i % 2, magnitude);
      barrier.wait();
      for (long first = begin; first < end; first += kPanels) {
        const long last = minimum(end, first + kPanels);
        for (long panel = first; panel < last; panel++)
          pack_gates(row, depth, panel, panel - first, gate_tiles_of(thread), magnitude);
        multiply_panels(row, depth, first, last, gate_tiles_of(thread));
      }
    }
    for (long panel = begin; panel < end; panel++) store_panel(panel);
  }

  // Packs one tile of [x | h]^T: 16 columns of x or h, 32 rows.
  void pack_operand(long row, long pair, long k, long tile, OperandMagnitudes& magnitude) const {
    const long first = row + k * kTileDepth, count = rows - first;
    const LeftOperand<P> to{left + pair * kPairSize, 2};
    if (pair < input_pairs) {
      const long column = 32 * pair + 16 * tile;
      to.pack_columns([&](long r) { return x_at(first + r) + column; }, count, p.input_size - column, k, tile,
                      magnitude.x);
    } else {
      const long column = 32 * (pair - input_pairs) + 16 * tile;
      to.pack_columns([&](long r) { return h_before(first + r) + column; }, count, p.h_size - column, k, tile,
                      magnitude.h);
    }
  }

  // Packs a chunk of one panel of grad_gates, and adds it to grad_bias.
  void pack_gates(long row, long depth, long panel, long n, TileBits* to, OperandMagnitudes& magnitude) const {
    Floats sum[4] = {};
    for (long k = 0; k < depth; k++) {
      const long from = row + k * kTileDepth;
      RightOperand<P>{to, kDepth}.pack_rows_and_sum(p.grad_gates + from * gates + 64 * panel, gates, rows - from,
                                                 gates - 64 * panel, n, k, magnitude.grad_gates, sum);
    }
    for (int v = 0; v < 4; v++) {
      const long width = gate_columns.template count<float>(panel, v);
      float* bias = p.grad_bias + gate_columns.template first<float>(panel, v);
      if (p.grad_bias && width) store(bias, row ? load(bias, width) + sum[v] : sum[v], width);
    }
  }

  float* sums_at(long pair, long panel) const { return sums + (pair * gate_panels + panel) * 8 * kResultSize; }

  void multiply_panels(long row, long depth, long first, long last, TileBits* packed) const {
    const RightOperand<P> panels{packed, kDepth};
    for (long pair = 0; pair < pairs; pair++) {
      const TileBits* next_pair = left + (pair + 1) % pairs * kPairSize;
      for (long panel = first; panel < last; panel++)
        for (int v = 0; v < 4; v += 2) {
          float* const to = sums_at(pair, panel) + v * kResultSize;
          const auto results = [&](long tile) { return to + tile * 4 * kResultSize; };
          long line = 0;
          const auto prefetch = [&] {
            for (int tile = 0; tile < 2 && line < 2 * kResultSize; tile++) __builtin_prefetch(results(tile) + line);
            line += 16;
            // To the second-level cache: two lines, so that the products of a pair cover the next pair.
            __builtin_prefetch(next_pair, 0, 2), __builtin_prefetch(next_pair + 32, 0, 2);
            next_pair += 64;
          };
          multiply_half<RightOperand<P>>(LeftOperand<P>{left + pair * kPairSize, 2}, 1, panels.at(panel - first, 0, v),
                                         depth, results, prefetch, row > 0);
        }
    }
  }

  void store_panel(long panel) const {
    for (long pair = 0; pair < pairs; pair++) {
      const bool of_x = pair < input_pairs;
      const long width = of_x ? p.input_size : p.h_size, first = 32 * (of_x ? pair : pair - input_pairs);
      T* result = of_x ? p.grad_weight_ih : p.grad_weight_hh;
      for (int tile = 0; tile < 8; tile++) {
        const long column = first + tile / 4 * 16, gate = 64 * panel + tile % 4 * 16;
        Floats lines[16];
        for (int i = 0; i < 16; i++) lines[i] = load(sums_at(pair, panel) + tile * kResultSize + i * 16);
        transpose<float>(lines);
        for (long g = gate; g < minimum(gates, gate + 16) && column < width; g++)
          store(result + g * width + column, lines[g - gate], minimum(16, width - column));
      }
    }
  }

  void pack_weights(int thread, int threads, OperandMagnitudes& magnitude) const {
    const long all = input_panels * gate_k_tiles;
    for (long i = share(all, thread, threads); i < share(all, thread + 1, threads); i++) {
      const long k = i % gate_k_tiles, gate = k * kTileDepth;
      right.pack_rows(p.weight_ih + gate * p.input_size, p.input_size, gates - gate, inputs, i / gate_k_tiles, k,
                      magnitude.weight_ih);
    }
  }

  // Computes grad_x = W_ih^T grad_gates for this thread's groups of rows. A stage is one chunk of the gates of one
  // group.
  void input_gradients(int thread, int threads, OperandMagnitudes& magnitude) {
    const long stages = ceil_divide(gate_k_tiles, kDepth);
    const long begin = share(row_groups, thread, threads) * stages;
    const long end = share(row_groups, thread + 1, threads) * stages;
    for (long stage = begin; stage < end; stage++) {
      for (long i = 0; i < tiles_of(stage, stages); i++)
        pack_rows_tile(stage, stages, i, gate_tiles_of(thread), magnitude);
      multiply_rows(stage, stages, thread);
      if (stage % stages == stages - 1) store_rows(stage / stages, thread);
    }
  }

  long depth_of(long stage, long stages) const { return minimum(kDepth, gate_k_tiles - stage % stages * kDepth); }
  long tiles_of(long stage, long stages) const { return row_tiles * depth_of(stage, stages); }

  void pack_rows_tile(long stage, long stages, long i, TileBits* to, OperandMagnitudes& magnitude) const {
    const long depth = depth_of(stage, stages), k = i % depth, tile = i / depth;
    const long row = (stage / stages * row_tiles + tile) * 16, gate = (stage % stages * kDepth + k) * kTileDepth;
    LeftOperand<P>{to, row_tiles}.pack_tile_of_rows([&](long r) { return p.grad_gates + (row + r) * gates + gate; },
                                                    rows - row, gates - gate, k, tile, magnitude.grad_gates);
  }

  float* grad_x_at(int thread, long panel, long tile) const {
    return grad_x + ((thread * input_panels + panel) * row_tiles + tile) * 4 * kResultSize;
  }

  void multiply_rows(long stage, long stages, int thread) const {
    const long first = stage % stages * kDepth, depth = depth_of(stage, stages);
    const LeftOperand<P> packed{gate_tiles_of(thread), row_tiles};
    for (long panel = 0; panel < input_panels; panel++)
      for (int v = 0; v < 4 && inputs.template count<float>(panel, v); v += 2)
        multiply_half<RightOperand<P>>(packed, row_tiles / 2, right.at(panel, first, v), depth,
                                       [&](long tile) { return grad_x_at(thread, panel, tile) + v * kResultSize; },
                                       [] {}, first > 0);
  }

  void store_rows(long group, int thread) const {
    const long first = group * row_tiles * 16, count = minimum(row_tiles * 16, rows - first);
    for (long r = 0; r < count; r++)
      for (long panel = 0; panel < input_panels; panel++)
        for (int v = 0; v < 4; v++) {
          const long width = inputs.template count<float>(panel, v), column = inputs.template first<float>(panel, v);
          const float* from = grad_x_at(thread, panel, r / 16) + v * kResultSize + r % 16 * 16;
          if (width) store(p.grad_x + (first + r) * p.input_size + column, load(from), width);
        }
  }
};

}  // namespace
}  // namespace jaxlstm
