// The gradients of weights, bias and inputs on AMX (amx_product.h), as in gradients.h.
//
// For the weights, [x | h]^T is the left operand and grad_gates the right one, so the larger of the two is packed
// without a transposition. This product and that for the inputs run in chunks of 512 k. Of each chunk, a few tiles of
// grad_gates, which stay in the second-level cache, are multiplied with all of the other operand. Columns of [x | h]
// are processed in pairs of row tiles: 32 columns of x or of h.
#pragma once
#include "amx_input_gradients.h"

namespace jaxlstm {
namespace {

template <class T, class P = Bfloat16Parts<T>>
struct AmxGradientsPass {
  typedef AmxInputGradients<T, P> InputGradients;
  typedef typename InputGradients::OperandMagnitudes OperandMagnitudes;
  static constexpr long kDepth = InputGradients::kDepth;
  static constexpr bool kScales = InputGradients::kScales;
  GradientsPass<T> vectors;  // computes the calls that AMX does not
  const GradientsArguments<T>& p = vectors.p;
  Arena arena;
  InputGradients inputs{p, arena};
  const long rows = vectors.rows, gates = vectors.gates;
  static constexpr long kPanels = 4;  // panels of grad_gates packed at a time
  static_assert(kPanels * 4 == InputGradients::kRowTiles, "both products use the same buffer");
  static constexpr long kPairSize = kDepth * 2 * P::kCount * kTileSize;
  const PlainColumns gate_columns{gates};
  const long gate_panels = gate_columns.template panels<float>();
  const long input_pairs = p.grad_weight_ih ? ceil_divide(p.input_size, 32) : 0;
  const long pairs = input_pairs + (p.grad_weight_hh ? ceil_divide(p.h_size, 32) : 0);
  TileBits* left;  // a chunk of [x | h]^T, [pair]
  float* sums;     // [pair][panel of gates][2][4][16][16]
  // For kScales: of the columns of [x | h] in a chunk, [pair][32], and of the columns of grad_gates in a chunk,
  // [thread][kPanels][64].
  LaneScales *column_scales, *gate_scales;
  uint32_t* magnitudes;

  size_t scratch_bytes = vectors.scratch_bytes;

  AmxGradientsPass(const GradientsArguments<T>& arguments, void* scratch)
      : vectors(arguments, scratch), arena(scratch, vectors.scratch_bytes) {
    if (!inputs.use_amx) return;
    left = arena.take<TileBits>(pairs * kPairSize);
    sums = arena.take<float>(pairs * gate_panels * 8 * kResultSize);
    column_scales = arena.take<LaneScales>(kScales ? pairs * 2 : 0);
    gate_scales = arena.take<LaneScales>(kScales ? p.threads * kPanels * 4 : 0);
    magnitudes = arena.take<uint32_t>(Magnitudes<T>::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (run_on_tiles(thread, threads, barrier)) return;
    vectors.run(thread, threads, barrier);  // overwrites all results
  }

  // Returns false, with invalid results, if AMX is not faster or an operand was out of range.
  bool run_on_tiles(int thread, int threads, Barrier& barrier) {
    if (!inputs.use_amx) return false;
    const TileRegisters registers;
    OperandMagnitudes magnitude;
    if constexpr (kScales) {
      if (p.grad_x) inputs.find_weight_scales(thread, threads);
      barrier.wait();
    }
    if (p.grad_x) inputs.pack_weights(thread, threads, magnitude);
    if (pairs || p.grad_bias) weight_gradients(thread, threads, barrier, magnitude);
    barrier.wait();
    if (p.grad_x) inputs.input_gradients(thread, threads, magnitude);
    Magnitudes<T> all(magnitudes);
    all.record(thread, magnitude.grad_gates, magnitude.x, magnitude.h, magnitude.weight_ih);
    barrier.wait();
    return all.in_range(threads);
  }

 private:
  void weight_gradients(int thread, int threads, Barrier& barrier, OperandMagnitudes& magnitude) {
    const long begin = share(gate_panels, thread, threads), end = share(gate_panels, thread + 1, threads);
    for (long row = 0; row < rows; row += kDepth * kTileDepth) {
      const long depth = minimum(kDepth, ceil_divide(rows - row, kTileDepth));
      barrier.wait();  // the previous chunk is no longer read
      const Range mine = share_of({0, pairs * 2 * depth}, thread, threads);
      LaneScales scales;
      for (long i = mine.begin; i < mine.end; i++) {
        const long tile = i / depth, k = i % depth;
        if (kScales && (i == mine.begin || k == 0)) scales = scales_of_operand(row, tile);
        if (kScales && k == 0) column_scales[tile] = scales;
        pack_operand(row, tile, k, scales, magnitude);
      }
      barrier.wait();
      for (long first = begin; first < end; first += kPanels) {
        const long last = minimum(end, first + kPanels);
        for (long panel = first; panel < last; panel++)
          pack_gates(row, depth, panel, panel - first, thread, magnitude);
        multiply_panels(row, depth, first, last, thread);
      }
    }
    for (long panel = begin; panel < end; panel++) store_panel(panel);
  }

  // Returns row r of 16 columns of x or h, from row `row` on.
  const T* operand_at(long row, long tile, long r) const {
    if (tile < 2 * input_pairs) return vectors.x_at(row + r) + 16 * tile;
    return vectors.h_before(row + r) + 16 * (tile - 2 * input_pairs);
  }
  long operand_width(long tile) const {
    return tile < 2 * input_pairs ? p.input_size - 16 * tile : p.h_size - 16 * (tile - 2 * input_pairs);
  }
  long chunk_rows(long row) const { return minimum(kDepth * kTileDepth, rows - row); }
  LaneScales scales_of_operand(long row, long tile) const {
    Magnitude<float> largest;
    for (long r = 0; r < chunk_rows(row); r++)
      largest.update(load_masked(operand_at(row, tile, r), operand_width(tile)));
    return LaneScales::of(largest);
  }
  // Packs one tile of [x | h]^T: 16 columns of x or h, 32 rows.
  void pack_operand(long row, long tile, long k, const LaneScales& scales, OperandMagnitudes& magnitude) const {
    const long first = row + k * kTileDepth;
    const auto scaling = [&](Floats v) { return kScales ? v * scales.scale : v; };
    LeftOperand<P>{left + tile / 2 * kPairSize, 2}.pack_columns(
        [&](long r) { return operand_at(first, tile, r); }, rows - first, operand_width(tile), k, tile % 2,
        tile < 2 * input_pairs ? magnitude.x : magnitude.h, scaling);
  }

  // Packs a chunk of one panel of grad_gates, and adds it to grad_bias.
  void pack_gates(long row, long depth, long panel, long n, int thread, OperandMagnitudes& magnitude) const {
    Floats sum[4] = {};
    LaneScales* const scales = gate_scales_of(thread, n);
    if (kScales) find_gate_scales(row, panel, scales);
    const auto scaling = [&](int v, Floats x) { return kScales ? x * scales[v].scale : x; };
    for (long k = 0; k < depth; k++) {
      const long from = row + k * kTileDepth;
      RightOperand<P>{inputs.gate_tiles_of(thread), kDepth}.pack_rows_and_sum(
          p.grad_gates + from * gates + 64 * panel, gates, rows - from, gates - 64 * panel, n, k, magnitude.grad_gates,
          sum, scaling);
    }
    for (int v = 0; v < 4; v++) {
      const long width = gate_columns.template count<float>(panel, v);
      float* bias = p.grad_bias + gate_columns.template first<float>(panel, v);
      if (p.grad_bias && width) store(bias, row ? load(bias, width) + sum[v] : sum[v], width);
    }
  }

  LaneScales* gate_scales_of(int thread, long n) const { return gate_scales + (thread * kPanels + n) * 4; }
  void find_gate_scales(long row, long panel, LaneScales* scales) const {
    Magnitude<float> largest[4];
    for (long r = 0; r < chunk_rows(row); r++)
      for (int v = 0; v < 4; v++)
        largest[v].update(load_masked(p.grad_gates + (row + r) * gates + 64 * panel + 16 * v,
                                      gates - 64 * panel - 16 * v));
    for (int v = 0; v < 4; v++) scales[v] = LaneScales::of(largest[v]);
  }

  float* sums_at(long pair, long panel) const { return sums + (pair * gate_panels + panel) * 8 * kResultSize; }

  void multiply_panels(long row, long depth, long first, long last, int thread) const {
    const RightOperand<P> panels{inputs.gate_tiles_of(thread), kDepth};
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
          TileBits *const a = left + pair * kPairSize, *const b = panels.at(panel - first, 0, v);
          if constexpr (kScales) {
            alignas(64) float products[4 * kResultSize];
            multiply_2_by_2<P, RightOperand<P>>(a, 2 * P::kCount * kTileSize, b, depth, products,
                                                products + 2 * kResultSize, prefetch);
            for (int tile = 0; tile < 2; tile++)
              add_unscaled(results(tile), products + 2 * tile * kResultSize, column_scales[2 * pair + tile],
                           gate_scales_of(thread, panel - first) + v, row > 0);
          } else {
            multiply_half<RightOperand<P>>(LeftOperand<P>{a, 2}, 1, b, depth, results, prefetch, row > 0);
          }
        }
    }
  }

  // Stores two tiles of products without their scales, or adds them.
  static void add_unscaled(float* to, const float* products, const LaneScales& rows, const LaneScales* columns,
                           bool adds) {
    alignas(64) float unscale[16];
    store(unscale, rows.unscale);
    for (int v = 0; v < 2; v++)
      for (int r = 0; r < 16; r++, to += 16, products += 16) {
        const Floats sum = load(products) * unscale[r] * columns[v].unscale;
        store(to, adds ? load(to) + sum : sum);
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
};

}  // namespace
}  // namespace jaxlstm
