// The gradient of the inputs on AMX (amx_product.h): grad_x = W_ih^T grad_gates, where grad_gates is the left operand
// and W_ih the right one.
#pragma once
#include "amx_product.h"
#include "gradients.h"

namespace jaxlstm {
namespace {

// P: the parts of the operands (amx.h).
template <class T, class P>
struct AmxInputGradients {
  const GradientsArguments<T>& p;
  const long rows = p.time * p.batch, gates = 4 * p.hidden_size;
  const PlainColumns inputs{p.input_size};
  const long input_panels = inputs.template panels<T>();
  static constexpr bool kScales = kIsFloat16<P>;
  static constexpr long kDepth = kMaxChainTiles;  // k tiles per chunk
  static constexpr long kRowTiles = 16;           // row tiles of grad_gates packed at a time
  static constexpr long kGateTilesSize = kRowTiles * kDepth * P::kCount * kTileSize;
  // Shorter sums are less accurate in float16 than in float32.
  const bool use_amx = rows >= (kScales ? 256 : 64) && gates >= (kScales ? 160 : 0) &&
                       p.threads <= Magnitudes<T>::kMaxThreads;
  const long gate_k_tiles = ceil_divide(gates, kTileDepth);
  // Rows are processed in groups of equal size, the same number for each thread.
  const long row_groups = p.threads * ceil_divide(rows, 16 * kRowTiles * p.threads);
  const long row_tiles = 2 * ceil_divide(rows, 32 * row_groups);
  RightOperand<P> right;  // W_ih
  TileBits* gate_tiles;   // packed tiles of grad_gates, [thread]
  float* grad_x;          // [thread][panel of inputs][row tile][4][16][16]
  // For kScales: of the rows of W_ih, and of the rows of grad_gates in a group, [thread][kRowTiles * 16].
  ColumnScales scales_ih;
  RowScale* row_scales;
  struct OperandMagnitudes {
    Magnitude<T> grad_gates, x, h, weight_ih;
  };

  AmxInputGradients(const GradientsArguments<T>& arguments, Arena& arena) : p(arguments) {
    if (!use_amx) return;
    right = RightOperand<P>::take(arena, p.grad_x ? input_panels : 0, gates);
    gate_tiles = arena.take<TileBits>(p.threads * kGateTilesSize);
    grad_x = arena.take<float>(p.grad_x ? p.threads * input_panels * kRowTiles * 4 * kResultSize : 0);
    scales_ih = ColumnScales::take(arena, kScales && p.grad_x ? gates : 0);
    row_scales = arena.take<RowScale>(kScales ? p.threads * kRowTiles * 16 : 0);
  }

  TileBits* gate_tiles_of(int thread) const { return gate_tiles + thread * kGateTilesSize; }

  void find_weight_scales(int thread, int threads) const {
    scales_ih.find_of_rows(p.weight_ih, gates, p.input_size, thread, threads);
  }
  void pack_weights(int thread, int threads, OperandMagnitudes& magnitude) const {
    const long all = input_panels * gate_k_tiles;
    for (long i = share(all, thread, threads); i < share(all, thread + 1, threads); i++) {
      const long k = i % gate_k_tiles, gate = k * kTileDepth;
      right.pack_rows(p.weight_ih + gate * p.input_size, p.input_size, gates - gate, inputs, i / gate_k_tiles, k,
                      magnitude.weight_ih, [&](long k, Floats v) { return kScales ? v * scales_ih.of_weights[k] : v; });
    }
  }

  // Computes grad_x for this thread's groups of rows. A stage is one chunk of the gates of one
  // group.
  void input_gradients(int thread, int threads, OperandMagnitudes& magnitude) {
    const long stages = ceil_divide(gate_k_tiles, kDepth);
    const long begin = share(row_groups, thread, threads) * stages;
    const long end = share(row_groups, thread + 1, threads) * stages;
    for (long stage = begin; stage < end; stage++) {
      for (long i = 0; i < tiles_of(stage, stages); i++)
        pack_rows_tile(stage, stages, i, thread, magnitude);
      multiply_rows(stage, stages, thread);
      if (stage % stages == stages - 1) store_rows(stage / stages, thread);
    }
  }

 private:
  long depth_of(long stage, long stages) const { return minimum(kDepth, gate_k_tiles - stage % stages * kDepth); }
  long tiles_of(long stage, long stages) const { return row_tiles * depth_of(stage, stages); }

  void pack_rows_tile(long stage, long stages, long i, int thread, OperandMagnitudes& magnitude) const {
    const long depth = depth_of(stage, stages), k = i % depth, tile = i / depth;
    const long first_gate = stage % stages * kDepth * kTileDepth, gate = first_gate + k * kTileDepth;
    const long row = (stage / stages * row_tiles + tile) * 16;
    const auto row_at = [&](long r) { return p.grad_gates + (row + r) * gates + gate; };
    RowScale* const scales = row_scales_of(thread) + tile * 16;
    if constexpr (kScales)
      for (long r = 0; gate == 0 && r < minimum(16, rows - row); r++)
        scales[r] = scales_ih.of_row(row_at(r), gates, magnitude.grad_gates);
    LeftOperand<P>{gate_tiles_of(thread), row_tiles}.pack_tile_of_rows(
        row_at, rows - row, gates - gate, k, tile, magnitude.grad_gates, [&](long r, long k, Floats v) {
          return kScales ? v * load(scales_ih.of_x + first_gate + k) * scales[r].scale : v;
        });
  }

  RowScale* row_scales_of(int thread) const { return row_scales + thread * kRowTiles * 16; }
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
          const Floats sum = kScales ? load(from) * row_scales_of(thread)[r].unscale : load(from);
          if (width) store(p.grad_x + (first + r) * p.input_size + column, sum, width);
        }
  }
};

}  // namespace
}  // namespace jaxlstm
