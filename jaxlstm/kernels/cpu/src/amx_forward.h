// The forward pass on AMX: the products of a batch by tiles, the cell as in forward.h.
//
// W_ih x of some steps is computed ahead, since more rows make a better product; a step adds W_hh h to that. The
// cells of one panel are computed while the next is multiplied, and leave the next h split into its parts.
#pragma once
#include "amx.h"
#include "forward.h"
#include "rows.h"

namespace jaxlstm {
namespace {

struct AmxForwardPass : ForwardPass<float> {
  static constexpr long kRowsAhead = 256;
  const long there = rows_there(p.valid, p.time, p.batch);
  const bool pays = pays_for_tiles(there) && !p.weight_hr;
  const long blocks = ceil_divide(there, 16);
  Right right_ih, right_hh;
  Left left_x, left_h[2];
  // W_ih x: [panel][tile][gate][16][16], where the blocks of rows that each step ahead computes are numbered one after
  // another; W_hh h: [panel][block of rows] of one step
  float *projected, *sums;
  uint32_t* magnitudes;
  long first_tile[kRowsAhead / 16 + 1];  // of each step ahead, and of the one behind them
  long step_tile = 0;                    // of this step

  AmxForwardPass(const Forward<float>& problem, void* scratch) : ForwardPass<float>(problem, scratch) {
    if (!pays) return;
    steps_ahead = least(p.time, blocks < kRowsAhead / 16 ? kRowsAhead / 16 / blocks : 1);
    Arena arena(scratch, scratch_bytes);
    right_ih = {arena.take<Bfloat16>(Right::size(panels, p.input_size)), ceil_divide(p.input_size, kTileDepth)};
    right_hh = {arena.take<Bfloat16>(Right::size(panels, p.h_size)), ceil_divide(p.h_size, kTileDepth)};
    left_x = {arena.take<Bfloat16>(Left::size(steps_ahead * blocks, p.input_size)), steps_ahead * blocks};
    for (Left& h_parts : left_h) h_parts = {arena.take<Bfloat16>(Left::size(blocks, p.h_size)), blocks};
    sums = arena.take<float>(panels * blocks * 4 * kResultSize);
    projected = arena.take<float>(steps_ahead * panels * blocks * 4 * kResultSize);
    magnitudes = arena.take<uint32_t>(Magnitudes::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (pays && threads <= Magnitudes::kMostThreads && run_on_tiles(thread, threads, barrier)) return;
    ForwardPass<float>::run(thread, threads, barrier);  // writes everything anew
  }

 private:
  // Whether every operand was in range.
  bool run_on_tiles(int thread, int threads, Barrier& barrier) {
    const TileRegisters registers;
    const Range rows{0, p.batch}, units = share_of({0, panels}, thread, threads);
    Magnitude left, right;
    pack_tiles(thread, threads, units, left, right);
    prepare(thread, threads);
    barrier.wait();
    Range before = rows;
    for (long s = 0; s < p.time; s++) {
      const Range live = live_rows(s, rows);
      if (s % steps_ahead == 0 && number_tiles(s)) {
        split_inputs(s, thread, threads, left);
        barrier.wait();
        project_inputs(units);
      }
      clear(s, share_of({live.end, rows.end}, thread, threads));
      keep_parts(s, share_of({live.end, before.end}, thread, threads));
      if (live.size()) step_on_tiles(s, live.end, units);
      if (live.size() || before.size()) barrier.wait();
      before = live;
    }
    finish(rows, share_of(rows, thread, threads), units);
    Magnitudes all(magnitudes);
    all.tell(thread, left, right);
    barrier.wait();
    return all.fit(threads);
  }

  long rows_of(long block) const { return least(16L, there - 16 * block); }
  float* sums_at(long panel, long block) const { return sums + (panel * blocks + block) * 4 * kResultSize; }
  float* projected_at(long panel, long tile) const {
    return projected + (panel * steps_ahead * blocks + tile) * 4 * kResultSize;
  }

  void pack_tiles(int thread, int threads, Range units, Magnitude& left, Magnitude& right) {
    for (long panel = units.begin; panel < units.end; panel++) {
      pack_panel(right_ih, p.weight_ih, weight_ih, p.input_size, panel, right);
      pack_panel(right_hh, p.weight_hh, weight_hh, p.h_size, panel, right);
    }
    for (long block = share(blocks, thread, threads); block < share(blocks, thread + 1, threads); block++)
      left_h[0].pack_rows(p.h_0 + 16 * block * p.h_size, p.h_size, rows_of(block), p.h_size, block, left);
    if (thread == 0) std::memset(left_h[1].tiles, 0, Left::size(blocks, p.h_size) * sizeof(Bfloat16));
  }

  // From the weights, or from the panels of vectors that were made of them, whose rows are those of one panel here.
  void pack_panel(Right to, const float* matrix, const float* panels, long K, long panel, Magnitude& seen) const {
    if (!p.prepared) return to.pack_transposed(matrix, K, gates, panel, seen);
    constexpr long kWidth = 4 * L;
    const Right one{to.at(panel, 0, 0), to.k_blocks};
    for (long k = 0; k < K; k += kTileDepth)
      one.pack_rows(panels + (panel * K + k) * kWidth, kWidth, K - k, PlainColumns{kWidth}, 0, k / kTileDepth, seen);
  }

  // The tiles of the steps from s on, and how many there are.
  long number_tiles(long s) {
    first_tile[0] = 0;
    for (long i = 0; i < steps_ahead; i++)
      first_tile[i + 1] = first_tile[i] + (s + i < p.time ? ceil_divide(live_rows(s + i, {0, p.batch}).size(), 16) : 0);
    return first_tile[steps_ahead];
  }

  void split_inputs(long s, int thread, int threads, Magnitude& seen) {
    const Left x{left_x.tiles, first_tile[steps_ahead]};
    const Range mine = share_of({0, x.blocks}, thread, threads);
    for (long tile = mine.begin, i = 0; tile < mine.end; tile++) {
      while (tile >= first_tile[i + 1]) i++;
      const long block = tile - first_tile[i], row = time_of(s + i) * p.batch + 16 * block;
      x.pack_rows(p.x + row * p.input_size, p.input_size, rows_of(block), p.input_size, tile, seen);
    }
  }

  void project_inputs(Range units) {
    const Left x{left_x.tiles, first_tile[steps_ahead]};
    for (long panel = units.begin; panel < units.end; panel++)
      multiply_panel(x, x.blocks, right_ih, panel, [&](long tile) { return projected_at(panel, tile); }, [] {});
  }

  // As keep, of h and of its parts.
  void keep_parts(long s, Range rows) const {
    keep(s, rows);
    for (long row = rows.begin; row < least(rows.end, there); row++)
      for (long unit = 0; unit < p.h_size; unit += L) put_h(s, row, unit);
  }

  void step_on_tiles(long s, long rows, Range units) {
    const Left& before = left_h[s & 1];
    const long live_blocks = ceil_divide(rows, 16);
    step_tile = first_tile[s % steps_ahead];
    const long rows_a_call = ceil_divide(rows, calls_meanwhile(live_blocks, right_hh));
    long waiting = -1;  // the panel whose cells are next
    for (long i = units.begin; i < units.end; i++) {
      const long panel = s & 1 ? units.begin + units.end - 1 - i : i;
      long row = waiting < 0 ? rows : 0;
      multiply_panel(before, live_blocks, right_hh, panel, [&](long block) { return sums_at(panel, block); }, [&] {
        for (const long end = least(rows, row + rows_a_call); row < end; row++) finish_row(s, row, waiting);
      });
      for (; row < rows; row++) finish_row(s, row, waiting);
      waiting = panel;
    }
    for (long row = 0; row < rows && waiting >= 0; row++) finish_row(s, row, waiting);
  }

  void finish_row(long s, long row, long panel) {
    const long t = time_of(s), unit = panel * L;
    const float* by_x = projected_at(panel, step_tile + row / 16) + row % 16 * 16;
    const float* by_h = sums_at(panel, row / 16) + row % 16 * 16;
    Floats z[4];
    for (int v = 0; v < 4; v++)
      z[v] = load(by_x + v * kResultSize) + load(bias + (panel * 4 + v) * L) + load(by_h + v * kResultSize);
    cell(s, t, row, panel, z);
    put_h(s, row, unit);
  }

  void put_h(long s, long row, long unit) const {
    left_h[(s + 1) & 1].put(row, unit, load_some(h[(s + 1) & 1] + row * p.h_size + unit, p.h_size - unit));
  }
};

}  // namespace
}  // namespace jaxlstm
