// The gradients of weights, bias and inputs on AMX, as in gradients.h.
//
// For the weights [x | h]^T is the left operand and grad_gates the right one, so that what is larger is packed as it
// lies; for the inputs grad_gates is the left operand and W_ih the right one. Either is multiplied in blocks of 512
// k, and a few tiles of grad_gates, which stay in the second cache, meet all of the other operand. The next few are
// packed meanwhile.
#pragma once
#include "amx.h"
#include "gradients.h"

namespace jaxlstm {
namespace {

struct AmxGradientsPass : GradientsPass<float> {
  static constexpr long kDepth = kSumBlocks;                       // blocks of 32 k
  static constexpr long kPanels = 4, kRowBlocks = 16;               // that are packed at once, of gates and of rows
  static constexpr long kPair = kDepth * 2 * kParts * kTileSize;   // of 16 columns of [x | h]
  static constexpr long kPacked = kPanels * kDepth * kParts * 4 * kTileSize;
  static_assert(kPacked == kRowBlocks * kDepth * kParts * kTileSize, "one buffer serves for both");
  const bool pays = rows >= 64 && p.threads <= Magnitudes::kMostThreads;
  const PlainColumns gate_columns{gates};
  const long gate_panels = gate_columns.panels<float>(), gate_blocks = ceil_divide(gates, kTileDepth);
  const long input_pairs = p.grad_weight_ih ? ceil_divide(p.input_size, 32) : 0;
  // Of so many rows at a time that each thread has as many as the others.
  const long row_groups = p.threads * ceil_divide(rows, 16 * kRowBlocks * p.threads);
  const long row_blocks = 2 * ceil_divide(rows, 32 * row_groups);
  const long pairs = input_pairs + (p.grad_weight_hh ? ceil_divide(p.h_size, 32) : 0);
  Bfloat16* left;        // a block of [x | h]^T: [pair]
  Right right;           // W_ih
  Bfloat16* packed;      // of grad_gates: [thread][2]
  float *sums, *grad_x;  // [pair][panel of gates][2][4][16][16], [thread][panel of inputs][block of rows][4][16][16]
  uint32_t* magnitudes;

  AmxGradientsPass(const Gradients<float>& problem, void* scratch) : GradientsPass<float>(problem, scratch) {
    if (!pays) return;
    Arena arena(scratch, scratch_bytes);
    left = arena.take<Bfloat16>(pairs * kPair);
    right = {arena.take<Bfloat16>(p.grad_x ? Right::size(input_panels, gates) : 0), gate_blocks};
    packed = arena.take<Bfloat16>(p.threads * kPacked);
    sums = arena.take<float>(pairs * gate_panels * 8 * kResultSize);
    grad_x = arena.take<float>(p.grad_x ? p.threads * input_panels * kRowBlocks * 4 * kResultSize : 0);
    magnitudes = arena.take<uint32_t>(Magnitudes::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (pays && run_on_tiles(thread, threads, barrier)) return;
    GradientsPass<float>::run(thread, threads, barrier);  // writes everything anew
  }

 private:
  struct Seen {
    Magnitude grad_gates, x, h, weight_ih;
  };

  // Whether every operand was in range.
  bool run_on_tiles(int thread, int threads, Barrier& barrier) {
    const TileRegisters registers;
    Seen seen;
    if (p.grad_x) pack_weights(thread, threads, seen);
    if (pairs || p.grad_bias) by_weights(thread, threads, barrier, seen);
    barrier.wait();
    if (p.grad_x) by_inputs(thread, threads, seen);
    Magnitudes all(magnitudes);
    all.tell(thread, seen.grad_gates, seen.x, seen.h, seen.weight_ih);
    barrier.wait();
    return all.fit(threads);
  }

  Bfloat16* packed_of(int thread) const { return packed + thread * kPacked; }

  void by_weights(int thread, int threads, Barrier& barrier, Seen& seen) {
    const long begin = share(gate_panels, thread, threads), end = share(gate_panels, thread + 1, threads);
    for (long row = 0; row < rows; row += kDepth * kTileDepth) {
      const long depth = least(kDepth, ceil_divide(rows - row, kTileDepth));
      barrier.wait();  // until nobody reads the block before
      for (long i = share(pairs * depth * 2, thread, threads); i < share(pairs * depth * 2, thread + 1, threads); i++)
        pack_operand(row, i / (2 * depth), i / 2 % depth, i % 2, seen);
      barrier.wait();
      for (long first = begin; first < end; first += kPanels) {
        const long last = least(end, first + kPanels);
        for (long panel = first; panel < last; panel++)
          pack_gates(row, depth, panel, panel - first, packed_of(thread), seen);
        multiply_panels(row, depth, first, last, packed_of(thread));
      }
    }
    for (long panel = begin; panel < end; panel++) store_panel(panel);
  }

  // One tile of [x | h]^T: 16 columns of one of them, 32 rows.
  void pack_operand(long row, long pair, long k, long block, Seen& seen) const {
    const long first = row + k * kTileDepth, count = rows - first;
    const Left to{left + pair * kPair, 2};
    if (pair < input_pairs) {
      const long column = 32 * pair + 16 * block;
      to.pack_columns([&](long r) { return x_at(first + r) + column; }, count, p.input_size - column, k, block, seen.x);
    } else {
      const long column = 32 * (pair - input_pairs) + 16 * block;
      to.pack_columns([&](long r) { return h_before(first + r) + column; }, count, p.h_size - column, k, block, seen.h);
    }
  }

  // A block of one panel of grad_gates, and its share of their sum.
  void pack_gates(long row, long depth, long panel, long n, Bfloat16* to, Seen& seen) const {
    Floats sum[4] = {};
    for (long k = 0; k < depth; k++) {
      const long from = row + k * kTileDepth;
      Right{to, kDepth}.pack_rows_and_sum(p.grad_gates + from * gates + 64 * panel, gates, rows - from,
                                          gates - 64 * panel, n, k, seen.grad_gates, sum);
    }
    for (int v = 0; v < 4; v++) {
      const long width = gate_columns.count<float>(panel, v);
      float* bias = p.grad_bias + gate_columns.first<float>(panel, v);
      if (p.grad_bias && width) store(bias, row ? load(bias, width) + sum[v] : sum[v], width);
    }
  }

  float* sums_at(long pair, long panel) const { return sums + (pair * gate_panels + panel) * 8 * kResultSize; }

  void multiply_panels(long row, long depth, long first, long last, Bfloat16* gates_packed) const {
    const Right panels{gates_packed, kDepth};
    alignas(64) float more[4 * kResultSize];
    for (long pair = 0; pair < pairs; pair++)
      for (long panel = first; panel < last; panel++)
        for (int v = 0; v < 4; v += 2) {
          float *above = sums_at(pair, panel) + v * kResultSize, *below = above + 4 * kResultSize;
          long line = 0;
          const Bfloat16* tiles = panels.panel(panel - first) + v * kTileSize;
          multiply_2_by_2(left + pair * kPair, 2 * kParts * kTileSize, tiles, depth, row ? more : above,
                          row ? more + 2 * kResultSize : below, [&] {
            for (int i = 0; i < 2; i++, line += 16) __builtin_prefetch(above + line), __builtin_prefetch(below + line);
          });
          if (row) add_tiles(above, more, 2), add_tiles(below, more + 2 * kResultSize, 2);
        }
  }

  void store_panel(long panel) const {
    for (long pair = 0; pair < pairs; pair++) {
      const bool of_x = pair < input_pairs;
      const long width = of_x ? p.input_size : p.h_size, first = 32 * (of_x ? pair : pair - input_pairs);
      float* result = of_x ? p.grad_weight_ih : p.grad_weight_hh;
      for (int tile = 0; tile < 8; tile++) {
        const long column = first + tile / 4 * 16, gate = 64 * panel + tile % 4 * 16;
        Floats lines[16];
        for (int i = 0; i < 16; i++) lines[i] = load(sums_at(pair, panel) + tile * kResultSize + i * 16);
        transpose<float>(lines);
        for (long g = gate; g < least(gates, gate + 16) && column < width; g++)
          store(result + g * width + column, lines[g - gate], least(16, width - column));
      }
    }
  }

  void pack_weights(int thread, int threads, Seen& seen) const {
    const long all = input_panels * gate_blocks;
    for (long i = share(all, thread, threads); i < share(all, thread + 1, threads); i++) {
      const long k = i % gate_blocks, gate = k * kTileDepth;
      right.pack_rows(p.weight_ih + gate * p.input_size, p.input_size, gates - gate, inputs, i / gate_blocks, k,
                      seen.weight_ih);
    }
  }

  // W_ih^T grad_gates for this thread's rows: some rows at a time, and of them some gates.
  void by_inputs(int thread, int threads, Seen& seen) {
    const long stages = ceil_divide(gate_blocks, kDepth);
    const long begin = share(row_groups, thread, threads) * stages;
    const long end = share(row_groups, thread + 1, threads) * stages;
    for (long stage = begin; stage < end; stage++) {
      for (long i = 0; i < tiles_of(stage, stages); i++) pack_rows_tile(stage, stages, i, packed_of(thread), seen);
      multiply_rows(stage, stages, thread);
      if (stage % stages == stages - 1) store_rows(stage / stages, thread);
    }
  }

  long depth_of(long stage, long stages) const { return least(kDepth, gate_blocks - stage % stages * kDepth); }
  long tiles_of(long stage, long stages) const { return row_blocks * depth_of(stage, stages); }

  void pack_rows_tile(long stage, long stages, long i, Bfloat16* to, Seen& seen) const {
    const long depth = depth_of(stage, stages), k = i % depth, block = i / depth;
    const long row = (stage / stages * row_blocks + block) * 16, gate = (stage % stages * kDepth + k) * kTileDepth;
    Left{to, row_blocks}.pack_tile_of_rows(p.grad_gates + row * gates + gate, gates, rows - row, gates - gate, k, block,
                                           seen.grad_gates);
  }

  float* grad_x_at(int thread, long panel, long block) const {
    return grad_x + ((thread * input_panels + panel) * row_blocks + block) * 4 * kResultSize;
  }

  void multiply_rows(long stage, long stages, int thread) const {
    const long first = stage % stages * kDepth, depth = depth_of(stage, stages);
    const Left rows_packed{packed_of(thread), row_blocks};
    alignas(64) float more[4 * kResultSize];
    for (long panel = 0; panel < input_panels; panel++)
      for (long block = 0; block < row_blocks; block += 2)
        for (int v = 0; v < 4 && inputs.count<float>(panel, v); v += 2) {
          float *above = grad_x_at(thread, panel, block) + v * kResultSize, *below = above + 4 * kResultSize;
          multiply_2_by_2(rows_packed.at(0, block), row_blocks * kParts * kTileSize,
                          right.panel(panel) + first * kParts * Right::kPartStep + v * kTileSize, depth,
                          first ? more : above, first ? more + 2 * kResultSize : below, [] {});
          if (first) add_tiles(above, more, 2), add_tiles(below, more + 2 * kResultSize, 2);
        }
  }

  void store_rows(long group, int thread) const {
    const long first = group * row_blocks * 16, count = least(row_blocks * 16, rows - first);
    for (long r = 0; r < count; r++)
      for (long panel = 0; panel < input_panels; panel++)
        for (int v = 0; v < 4; v++) {
          const long width = inputs.count<float>(panel, v);
          const float* from = grad_x_at(thread, panel, r / 16) + v * kResultSize + r % 16 * 16;
          if (width) store(p.grad_x + (first + r) * p.input_size + inputs.first<float>(panel, v), load(from), width);
        }
  }
};

}  // namespace
}  // namespace jaxlstm
