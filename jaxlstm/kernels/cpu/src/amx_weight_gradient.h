// The gradient of a weight matrix on AMX, in blocks of time as in weight_gradient.h.
#pragma once
#include "amx.h"
#include "weight_gradient.h"

namespace jaxlstm {
namespace {

struct AmxWeightGradientPass : WeightGradientPass<float> {
  static constexpr long kBlockDepth = kSumBlocks;  // blocks of 32 rows that are multiplied at once
  const bool pays = p.rows >= 64 && p.columns >= 16;
  const long pairs = ceil_divide(p.gates, 32);  // of blocks of 16 gates
  Right right;
  Bfloat16* left;  // a block of each pair
  float* sums;     // [pair][panel][2][4][16][16]
  uint32_t* magnitudes;
  static constexpr long kLeftSize = kBlockDepth * 2 * kParts * kTileSize;

  AmxWeightGradientPass(const WeightGradient<float>& problem, void* scratch) : WeightGradientPass<float>(problem, scratch) {
    if (!pays) return;
    Arena arena(scratch, scratch_bytes);
    right = {arena.take<Bfloat16>(Right::size(panels, kBlockDepth * kTileDepth)), kBlockDepth};
    left = arena.take<Bfloat16>(pairs * kLeftSize);
    sums = arena.take<float>(pairs * panels * 8 * kResultSize);
    magnitudes = arena.take<uint32_t>(Magnitudes::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (pays && threads <= Magnitudes::kMostThreads && run_on_tiles(thread, threads, barrier)) return;
    WeightGradientPass<float>::run(thread, threads, barrier);  // writes everything anew
  }

 private:
  // Whether every operand was in range.
  bool run_on_tiles(int thread, int threads, Barrier& barrier) {
    const TileRegisters registers;
    const long begin = share(pairs, thread, threads), end = share(pairs, thread + 1, threads);
    Magnitude left_seen, right_seen;
    for (long row = 0; row < p.rows; row += kBlockDepth * kTileDepth) {
      const long rows = least(kBlockDepth * kTileDepth, p.rows - row), depth = ceil_divide(rows, kTileDepth);
      barrier.wait();  // until nobody reads the block before
      for (long i = share(panels * depth, thread, threads); i < share(panels * depth, thread + 1, threads); i++) {
        const long k = i % depth, from = row + k * kTileDepth;
        right.pack_rows(p.operand + from * p.columns, p.columns, p.rows - from, columns, i / depth, k, right_seen);
      }
      barrier.wait();
      for (long pair = begin; pair < end; pair++) {
        if (pair == begin)
          for (long tile = 0; tile < 2 * depth; tile++) pack_gates(row, pair, tile, left_seen);
        multiply_pair(row, pair, depth, pair + 1 < end, left_seen);
      }
    }
    for (long pair = begin; pair < end; pair++) store_pair(pair);
    Magnitudes all(magnitudes);
    all.tell(thread, left_seen, right_seen);
    barrier.wait();
    return all.fit(threads);
  }

  Left left_of(long pair) const { return {left + pair * kLeftSize, 2}; }
  float* sums_at(long pair, long panel, long block) const { return sums + ((pair * panels + panel) * 2 + block) * 4 * kResultSize; }

  void pack_gates(long row, long pair, long tile, Magnitude& seen) const {
    const long from = row + tile / 2 * kTileDepth, gate = 32 * pair + tile % 2 * 16;
    const float* source = p.grad_gates + from * p.gates + gate;
    left_of(pair).pack_columns(source, p.gates, p.rows - from, p.gates - gate, tile / 2, tile % 2, seen);
  }

  // Multiplies a pair, and packs the next meanwhile.
  void multiply_pair(long row, long pair, long depth, bool has_next, Magnitude& seen) const {
    const Left gates_of_pair = left_of(pair);
    const long tiles = has_next ? 2 * depth : 0;
    long tile = 0;
    alignas(64) float more[4 * kResultSize];
    for (long panel = 0; panel < panels; panel++)
      for (int v = 0; v < 4 && columns.count<float>(panel, v); v += 2) {
        float* above = sums_at(pair, panel, 0) + v * kResultSize;
        float* below = sums_at(pair, panel, 1) + v * kResultSize;
        float *to_above = row ? more : above, *to_below = row ? more + 2 * kResultSize : below;
        multiply_2_by_2(gates_of_pair.tiles, 2 * kParts * kTileSize, right.panel(panel) + v * kTileSize, depth, to_above,
                        to_below, [&] {
          if (tile < tiles) pack_gates(row, pair + 1, tile++, seen);
        });
        if (row) add_tiles(above, to_above, 2), add_tiles(below, to_below, 2);
      }
    for (; tile < tiles; tile++) pack_gates(row, pair + 1, tile, seen);
  }

  void store_pair(long pair) const {
    for (long panel = 0; panel < panels; panel++)
      for (long gate = 32 * pair; gate < least(p.gates, 32 * pair + 32); gate++)
        for (int v = 0; v < 4; v++) {
          const long count = columns.count<float>(panel, v);
          const float* from = sums_at(pair, panel, gate / 16 % 2) + v * kResultSize + gate % 16 * 16;
          if (count) store(p.result + gate * p.columns + columns.first<float>(panel, v), load(from), count);
        }
  }
};

}  // namespace
}  // namespace jaxlstm
