// The forward pass on AMX: the products of a batch by tiles, the cell as in forward.h.
//
// W_ih x of some steps is computed ahead, since more rows make a better product; a step adds W_hh h to that. The
// cells of one panel are computed while the next is multiplied, and leave the next h split into its parts.
#pragma once
#include "amx.h"
#include "forward.h"

namespace jaxlstm {
namespace {

struct AmxForwardPass : ForwardPass<float> {
  static constexpr long kRowsAhead = 256;
  const bool pays = pays_for_rows(p.batch) && !p.weight_hr;
  const long blocks = ceil_divide(p.batch, 16);
  Right right_ih, right_hh;
  Left left_x, left_h[2];
  float *projected, *sums;  // W_ih x: [step ahead][panel][block of rows][gate][16][16]; W_hh h: the same of one step
  uint32_t* magnitudes;
  long first_ahead = 0;  // the time of the first step ahead

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
    const Range units{share(panels, thread, threads), share(panels, thread + 1, threads)};
    Magnitude left, right;
    pack_tiles(thread, threads, units, left, right);
    prepare(thread, threads);
    for (long s = 0; s < p.time; s++) {
      if (s % steps_ahead == 0) {
        split_inputs(s, thread, threads, left);
        barrier.wait();
        project_inputs(s, units);
      }
      step_on_tiles(s, units);
      barrier.wait();
    }
    finish({0, p.batch}, units, {thread, threads});
    Magnitudes all(magnitudes);
    all.tell(thread, left, right);
    barrier.wait();
    return all.fit(threads);
  }

  long rows_of(long block) const { return least(16L, p.batch - 16 * block); }
  float* sums_at(long panel, long block) const { return sums + (panel * blocks + block) * 4 * kResultSize; }
  float* projected_at(long step, long panel, long block) const {
    return projected + ((step * panels + panel) * blocks + block) * 4 * kResultSize;
  }

  void pack_tiles(int thread, int threads, Range units, Magnitude& left, Magnitude& right) {
    for (long panel = units.begin; panel < units.end; panel++) {
      right_ih.pack_transposed(p.weight_ih, p.input_size, gates, panel, right);
      right_hh.pack_transposed(p.weight_hh, p.h_size, gates, panel, right);
    }
    for (long block = share(blocks, thread, threads); block < share(blocks, thread + 1, threads); block++)
      left_h[0].pack_rows(p.h_0 + 16 * block * p.h_size, p.h_size, rows_of(block), p.h_size, block, left);
    if (thread == 0) std::memset(left_h[1].tiles, 0, Left::size(blocks, p.h_size) * sizeof(Bfloat16));
  }

  long steps_from(long s) const { return least(steps_ahead, p.time - s); }

  void split_inputs(long s, int thread, int threads, Magnitude& seen) {
    const long steps = steps_from(s), all = steps * blocks;
    first_ahead = p.reverse ? p.time - s - steps : s;
    const Left x{left_x.tiles, all};
    for (long i = share(all, thread, threads); i < share(all, thread + 1, threads); i++) {
      const long row = (first_ahead + i / blocks) * p.batch + i % blocks * 16;
      x.pack_rows(p.x + row * p.input_size, p.input_size, rows_of(i % blocks), p.input_size, i, seen);
    }
  }

  void project_inputs(long s, Range units) {
    const Left x{left_x.tiles, steps_from(s) * blocks};
    for (long panel = units.begin; panel < units.end; panel++)
      multiply_panel(x, right_ih, panel, [&](long i) { return projected_at(i / blocks, panel, i % blocks); }, [] {});
  }

  void step_on_tiles(long s, Range units) {
    const Left& before = left_h[s & 1];
    const long rows_a_call = ceil_divide(p.batch, calls_meanwhile(before, right_hh));
    long waiting = -1;  // the panel whose cells are next
    for (long i = units.begin; i < units.end; i++) {
      const long panel = s & 1 ? units.begin + units.end - 1 - i : i;
      long row = waiting < 0 ? p.batch : 0;
      multiply_panel(before, right_hh, panel, [&](long block) { return sums_at(panel, block); }, [&] {
        for (const long end = least(p.batch, row + rows_a_call); row < end; row++) finish_row(s, row, waiting);
      });
      for (; row < p.batch; row++) finish_row(s, row, waiting);
      waiting = panel;
    }
    for (long row = 0; row < p.batch && waiting >= 0; row++) finish_row(s, row, waiting);
  }

  void finish_row(long s, long row, long panel) {
    const long t = time_of(s), unit = panel * L;
    const float* by_x = projected_at(t - first_ahead, panel, row / 16) + row % 16 * 16;
    const float* by_h = sums_at(panel, row / 16) + row % 16 * 16;
    Floats z[4];
    for (int v = 0; v < 4; v++)
      z[v] = load(by_x + v * kResultSize) + load(bias + (panel * 4 + v) * L) + load(by_h + v * kResultSize);
    cell(s, t, row, panel, z);
    left_h[(s + 1) & 1].put(row, unit, load_some(h[(s + 1) & 1] + row * p.h_size + unit, p.h_size - unit));
  }
};

}  // namespace
}  // namespace jaxlstm
