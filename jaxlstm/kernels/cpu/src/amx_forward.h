// The forward pass on AMX: products on tiles (amx_product.h), the cell as in forward.h.
//
// W_ih x is computed for several steps at a time, since products of more rows are faster. Each step adds W_hh h. While
// AMX multiplies a panel, the vector units compute the cells of the previous panel and split the new h into its parts
// for the next step.
#pragma once
#include "amx_policy.h"
#include "amx_product.h"
#include "forward.h"

namespace jaxlstm {
namespace {

template <class T>
struct AmxForwardPass : ForwardPass<T> {
  typedef ForwardPass<T> Base;
  using Base::L, Base::p, Base::gates, Base::panels, Base::bias, Base::h, Base::steps_ahead, Base::scratch_bytes;
  using Base::cell, Base::copy_h, Base::finish, Base::live_rows, Base::prepare, Base::time_of, Base::zero_outputs;
  static constexpr long kMaxRowTilesAhead = 16;
  const long used = used_rows(p.valid, p.time, p.batch);
  const bool use_amx = amx_is_faster(used) && !p.weight_hr;
  const long row_tiles = ceil_divide(used, 16);
  RightOperand<T> right_ih, right_hh;
  LeftOperand<T> left_x, left_h[2];  // h before and after the current step
  // W_ih x of the steps ahead, [panel][row tile][gate][16][16], and W_hh h of one step, likewise. The row tiles of the
  // steps ahead are numbered consecutively, and a step has only those with valid rows.
  float *projected, *sums;
  uint32_t* magnitudes;
  long first_tile[kMaxRowTilesAhead + 1];  // first row tile of each step ahead, and the end of the last one
  long step_tile = 0;                      // first row tile of the current step

  AmxForwardPass(const ForwardArguments<T>& arguments, void* scratch) : Base(arguments, scratch) {
    if (!use_amx) return;
    steps_ahead = minimum(p.time, row_tiles < kMaxRowTilesAhead ? kMaxRowTilesAhead / row_tiles : 1);
    Arena arena(scratch, scratch_bytes);
    right_ih = RightOperand<T>::take(arena, panels, p.input_size);
    right_hh = RightOperand<T>::take(arena, panels, p.h_size);
    left_x = LeftOperand<T>::take(arena, steps_ahead * row_tiles, p.input_size);
    for (LeftOperand<T>& left : left_h) left = LeftOperand<T>::take(arena, row_tiles, p.h_size);
    sums = arena.take<float>(panels * row_tiles * 4 * kResultSize);
    projected = arena.take<float>(steps_ahead * panels * row_tiles * 4 * kResultSize);
    magnitudes = arena.take<uint32_t>(Magnitudes<T>::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (use_amx && threads <= Magnitudes<T>::kMaxThreads && run_on_tiles(thread, threads, barrier)) return;
    Base::run(thread, threads, barrier);  // overwrites all results
  }

 private:
  // Returns false, with invalid results, if an operand was out of range.
  bool run_on_tiles(int thread, int threads, Barrier& barrier) {
    const TileRegisters registers;
    const Range rows{0, p.batch}, units = share_of({0, panels}, thread, threads);
    Magnitude<T> left, right;
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
      zero_outputs(s, share_of({live.end, rows.end}, thread, threads));
      copy_h_parts(s, share_of({live.end, before.end}, thread, threads));
      if (live.size()) step_on_tiles(s, live.end, units);
      if (live.size() || before.size()) barrier.wait();
      before = live;
    }
    finish(rows, share_of(rows, thread, threads), units);
    Magnitudes<T> all(magnitudes);
    all.record(thread, left, right);
    barrier.wait();
    return all.in_range(threads);
  }

  long rows_of(long row_tile) const { return minimum(16L, used - 16 * row_tile); }
  float* sums_at(long panel, long row_tile) const { return sums + (panel * row_tiles + row_tile) * 4 * kResultSize; }
  float* projected_at(long panel, long tile) const {
    return projected + (panel * steps_ahead * row_tiles + tile) * 4 * kResultSize;
  }

  void pack_tiles(int thread, int threads, Range units, Magnitude<T>& left, Magnitude<T>& right) {
    for (long panel = units.begin; panel < units.end; panel++) {
      pack_panel(right_ih, p.weight_ih, Base::weight_ih, p.input_size, panel, right);
      pack_panel(right_hh, p.weight_hh, Base::weight_hh, p.h_size, panel, right);
    }
    for (long tile = share(row_tiles, thread, threads); tile < share(row_tiles, thread + 1, threads); tile++)
      left_h[0].pack_rows(p.h_0 + 16 * tile * p.h_size, p.h_size, rows_of(tile), p.h_size, tile, left);
    left_h[1].clear(p.h_size, thread, threads);
  }

  // Packs one panel from the weights or, if they were prepared, from the panel of vectors.
  void pack_panel(RightOperand<T> to, const T* matrix, const T* prepared, long K, long panel,
                  Magnitude<T>& magnitude) const {
    if (!p.prepared) return to.pack_transposed(matrix, K, gates, panel, magnitude);
    if constexpr (kIsHalf<T>) return to.copy_panel(panel_at(prepared, panel, K), K, panel);
    constexpr long kWidth = 4 * L;
    const RightOperand<T> panel_only{to.at(panel, 0, 0), to.k_tiles};
    for (long k = 0; k < K; k += kTileDepth)
      panel_only.pack_rows(prepared + (panel * K + k) * kWidth, kWidth, K - k, PlainColumns{kWidth}, 0, k / kTileDepth,
                           magnitude);
  }

  // Numbers the row tiles of the steps from s on, and returns their count.
  long number_tiles(long s) {
    first_tile[0] = 0;
    for (long i = 0; i < steps_ahead; i++)
      first_tile[i + 1] = first_tile[i] + (s + i < p.time ? ceil_divide(live_rows(s + i, {0, p.batch}).size(), 16) : 0);
    return first_tile[steps_ahead];
  }

  void split_inputs(long s, int thread, int threads, Magnitude<T>& magnitude) {
    const LeftOperand<T> x{left_x.tiles, first_tile[steps_ahead]};
    const Range mine = share_of({0, x.row_tiles}, thread, threads);
    for (long tile = mine.begin, i = 0; tile < mine.end; tile++) {
      while (tile >= first_tile[i + 1]) i++;
      const long row_tile = tile - first_tile[i], row = time_of(s + i) * p.batch + 16 * row_tile;
      x.pack_rows(p.x + row * p.input_size, p.input_size, rows_of(row_tile), p.input_size, tile, magnitude);
    }
  }

  void project_inputs(Range units) {
    const LeftOperand<T> x{left_x.tiles, first_tile[steps_ahead]};
    for (long panel = units.begin; panel < units.end; panel++)
      multiply_panel(x, x.row_tiles, right_ih, panel, [&](long tile) { return projected_at(panel, tile); }, [] {});
  }

  // As copy_h, for h and its parts.
  void copy_h_parts(long s, Range rows) const {
    copy_h(s, rows);
    for (long row = rows.begin; row < minimum(rows.end, used); row++)
      for (long unit = 0; unit < p.h_size; unit += L) put_h(s, row, unit);
  }

  void step_on_tiles(long s, long rows, Range units) {
    const LeftOperand<T>& before = left_h[s & 1];
    const long live_row_tiles = ceil_divide(rows, 16);
    step_tile = first_tile[s % steps_ahead];
    const long rows_per_call = ceil_divide(rows, interleaved_calls(live_row_tiles, right_hh));
    long pending = -1;  // the multiplied panel whose cells are not computed yet
    for (long i = units.begin; i < units.end; i++) {
      const long panel = s & 1 ? units.begin + units.end - 1 - i : i;
      long row = pending < 0 ? rows : 0;
      multiply_panel(before, live_row_tiles, right_hh, panel, [&](long tile) { return sums_at(panel, tile); }, [&] {
        for (const long end = minimum(rows, row + rows_per_call); row < end; row++) finish_row(s, row, pending);
      });
      for (; row < rows; row++) finish_row(s, row, pending);
      pending = panel;
    }
    for (long row = 0; row < rows && pending >= 0; row++) finish_row(s, row, pending);
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
    left_h[(s + 1) & 1].put(row, unit, load_masked(h[(s + 1) & 1] + row * p.h_size + unit, p.h_size - unit));
  }
};

}  // namespace
}  // namespace jaxlstm
