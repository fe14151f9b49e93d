// The forward pass on AMX: products on tiles (amx_product.h), the cell as in forward.h.
//
// W_ih x is computed for several steps at a time, since products of more rows are faster. Each step adds W_hh h. While
// AMX multiplies a panel, the vector units compute the cells of the panel before (amx_cells.h), and split the new h
// into its parts for the next step.
#pragma once
#include "amx_cells.h"
#include "amx_policy.h"
#include "amx_product.h"
#include "amx_scales.h"
#include "forward.h"

namespace jaxlstm {
namespace {

// P: the parts of the operands (amx_parts.h).
template <class T, class P = Bfloat16Parts<T>>
struct AmxForwardPass : ForwardPass<T> {
  typedef ForwardPass<T> Base;
  using Base::L, Base::p, Base::gates, Base::panels, Base::bias, Base::scratch_bytes;
  using Base::outputs, Base::output_panels;
  using Base::cell, Base::finish_c, Base::is_valid, Base::live_rows, Base::prepare_c, Base::time_of, Base::zero_outputs;
  using Base::lengths_balance;
  typedef std::conditional_t<kIsHalf<T>, PackedPanels, RightOperand<P>> Weights;
  static constexpr long kRowsAhead = 256;
  static constexpr bool kScales = kIsFloat16<P>;
  const long used = used_rows(p.valid, p.time, p.batch);
  // In bfloat16 tiles are faster than vectors for any number of rows.
  const bool use_amx = kIsHalf<T> ? used > 0 : amx_is_faster(used) && (!kScales || can_scale());
  const long row_tiles = ceil_divide(used, 16);
  // The number of steps whose W_ih x is computed at once, and the row tiles of their rows.
  const long ahead = use_amx ? minimum(p.time, used < kRowsAhead ? kRowsAhead / used : 1) : 0;
  const long tiles_ahead = ceil_divide(ahead * used, 16);
  Weights right_ih, right_hh, right_hr;
  LeftOperand<P> left_x, left_h[2], left_m;  // h before and after the current step, m before a projection
  // W_ih x of the steps ahead, and W_hh h and W_hr m of a step, [panel][row tile][4][16][16].
  float *projected, *sums, *sums_hr;
  // For kScales: the scales of the columns of W_ih and W_hh and of all rows of h, and of the products of the rows ahead.
  ColumnScales scales_ih, scales_hh;
  RowScale scale_h;
  float* unscale_x;
  Magnitude<T> left, right, projections;  // of x and h_0, the weights, and h after a projection
  uint32_t* magnitudes;
  // Of this thread: its rows and panels, and where its rows of each step ahead begin, without those after the last
  // valid one, and the end of the last one.
  Range my_rows, my_panels;
  long first_row[kRowsAhead + 1];

  AmxForwardPass(const ForwardArguments<T>& arguments, void* scratch) : Base(arguments, scratch) {
    if (!use_amx) return;
    Arena arena(scratch, scratch_bytes);
    right_ih = weights(arena, Base::weight_ih, p.input_size, panels);
    right_hh = weights(arena, Base::weight_hh, p.h_size, panels);
    left_x = LeftOperand<P>::take(arena, tiles_ahead, p.input_size);
    for (LeftOperand<P>& operand : left_h) operand = LeftOperand<P>::take(arena, row_tiles, p.h_size);
    if (p.weight_hr) {
      right_hr = weights(arena, Base::weight_hr, p.hidden_size, output_panels);
      left_m = LeftOperand<P>::take(arena, row_tiles, p.hidden_size);
      sums_hr = arena.take<float>(output_panels * row_tiles * 4 * kResultSize);
    }
    sums = arena.take<float>(panels * row_tiles * 4 * kResultSize);
    projected = arena.take<float>(panels * tiles_ahead * 4 * kResultSize);
    if (kScales) {
      scales_ih = ColumnScales::take(arena, p.input_size), scales_hh = ColumnScales::take(arena, p.h_size);
      unscale_x = arena.take<float>(tiles_ahead * 16);
    }
    magnitudes = arena.take<uint32_t>(Magnitudes<T>::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (run_on_tiles(thread, threads, barrier)) return;
    Base::run(thread, threads, barrier);  // overwrites all results
  }

  // Returns false, with invalid results, if AMX is not faster or an operand was out of range.
  bool run_on_tiles(int thread, int threads, Barrier& barrier) {
    if (!use_amx || threads > Magnitudes<T>::kMaxThreads) return false;
    TileRegisters registers;
    const WorkShare mine{shares_rows(threads), thread, threads};
    my_rows = mine.rows(p.batch, 16), my_panels = mine.columns(panels);
    if constexpr (kScales) find_scales(thread, threads, barrier);
    pack_weights(thread, threads);
    pack_state(thread, threads);
    prepare_c(thread, threads);
    split_inputs(0, mine);
    barrier.wait();
    run_steps(mine, registers, barrier);
    finish_c(my_rows, my_panels);
    finish_streams();  // before another thread overwrites the results
    if constexpr (kIsHalf<T>) return true;
    Magnitudes<T> all(magnitudes);
    all.record(thread, left, right, projections, kScales ? final_states() : Magnitude<T>{});
    barrier.wait();
    return all.in_range(threads);
  }

  // Takes m = o tanh(c') of one row and one vector of units.
  JAXLSTM_INLINE void store_m(long s, long t, long row, long panel, Floats m) const {
    const long count = gates.template count<float>(panel, 0);
    if (p.weight_hr) left_m.put(row, panel * L, first_lanes(m, count));
    else store_h(s, t, row, panel * L, count, m);
  }

 private:
  static Weights weights(Arena& arena, const T* packed, long K, long panels) {
    if constexpr (kIsHalf<T>) return {packed, padded_depth<T>(K) / kTileDepth};
    else return Weights::take(arena, panels, K);
  }

  void run_steps(const WorkShare& mine, TileRegisters& registers, Barrier& barrier) {
    const Range my_outputs = mine.columns(output_panels);
    Range before = my_rows;
    for (long s = 0; s < p.time; s++) {
      const Range live = live_rows(s, my_rows);
      if (s > 0 && s % ahead == 0) {
        split_inputs(s, mine);
        mine.synchronize(barrier);
      }
      if (s % ahead == 0) project_inputs(registers);
      zero_outputs(s, mine.whole_rows({live.end, my_rows.end}));
      copy_h(s, mine.whole_rows({live.end, before.end}));
      if (live.size()) step_on_tiles(s, live);
      if (p.weight_hr && live.size()) {
        mine.synchronize(barrier);
        project_outputs(s, live, my_outputs);
      }
      if (s < p.time - 1 && (live.size() || before.size())) mine.synchronize(barrier);
      before = live;
    }
  }

  // Returns true if float16 is as accurate as sums in float32: if these sums are long enough, and if h has a limit, which
  // its scale needs and a projection does not give.
  bool can_scale() const { return p.input_size + p.h_size >= 160 && !p.weight_hr; }

  bool shares_rows(int threads) const {
    const long weight_bytes = RightOperand<P>::size(panels, ceil_divide(p.h_size, kTileDepth)) * sizeof(TileBits);
    return threads > 1 && sharing_forward_rows_is_faster(p.batch / threads, weight_bytes) &&
           lengths_balance(threads, [&](int thread) { return WorkShare{true, thread, threads}.rows(p.batch, 16); });
  }

  // The panels of a thread take turns in the memory of its first two, which stays in the first-level cache.
  float* sums_at(long panel, long row_tile) const {
    const long place = my_panels.begin + (panel - my_panels.begin) % 2;
    return sums + (place * row_tiles + row_tile) * 4 * kResultSize;
  }
  // The tiles ahead of all threads form one array. Returns the first tile of this thread.
  long first_tile_ahead() const { return ahead * my_rows.begin / 16; }
  float* projected_at(long panel, long tile) const {
    return projected + (panel * tiles_ahead + first_tile_ahead() + tile) * 4 * kResultSize;
  }
  LeftOperand<P> inputs_ahead() const {
    return {left_x.tiles + LeftOperand<P>::size(first_tile_ahead(), p.input_size), ceil_divide(first_row[ahead], 16)};
  }

  void find_scales(int thread, int threads, Barrier& barrier) {
    if (p.prepared) {
      scales_ih.find_in_panels(Base::weight_ih, panels, p.input_size, thread, threads);
      scales_hh.find_in_panels(Base::weight_hh, panels, p.h_size, thread, threads);
    } else {
      scales_ih.find(p.weight_ih, 4 * p.hidden_size, p.input_size, thread, threads);
      scales_hh.find(p.weight_hh, 4 * p.hidden_size, p.h_size, thread, threads);
    }
    barrier.wait();
    scale_h = scales_hh.of_states(p.h_size);
  }
  // Returns the magnitude of this thread's part of h_n, scaled so that it is out of range below 2^-12: the recurrent
  // products are then inaccurate, since the scale of h allows for 16.
  Magnitude<T> final_states() const {
    Magnitude<T> magnitude;
    for (long row = my_rows.begin; row < my_rows.end; row++)
      for (long panel = my_panels.begin; panel < my_panels.end; panel++)
        magnitude.update(load_h(row, panel * L) * 0x1p-48f);
    return magnitude;
  }
  JAXLSTM_INLINE Floats scaled_h(long k, Floats h) const {
    return kScales ? h * load(scales_hh.of_x + k) * scale_h.scale : h;
  }

  void pack_weights(int thread, int threads) {
    if constexpr (kIsHalf<T>) {
      if (!p.prepared) Base::pack_weights(thread, threads);
    } else {
      const Range units = share_of({0, panels}, thread, threads);
      for (long panel = units.begin; panel < units.end; panel++) {
        pack_panel(right_ih, p.weight_ih, Base::weight_ih, p.input_size, gates, panel, scales_ih);
        pack_panel(right_hh, p.weight_hh, Base::weight_hh, p.h_size, gates, panel, scales_hh);
      }
      const Range projected_units = share_of({0, p.weight_hr ? output_panels : 0}, thread, threads);
      for (long panel = projected_units.begin; panel < projected_units.end; panel++)
        pack_panel(right_hr, p.weight_hr, Base::weight_hr, p.hidden_size, outputs, panel, {});
    }
  }
  // Packs one panel from the weights or, if they were prepared, from the panel of vectors.
  template <class Columns>
  void pack_panel(RightOperand<P> to, const T* matrix, const T* prepared, long K, Columns columns, long panel,
                  const ColumnScales& scales) {
    if (!p.prepared)
      return to.pack_transposed(matrix, K, columns, panel, right, [&](long, long k, Floats v) {
        return kScales ? v * load(scales.of_weights + k) : v;
      });
    const auto scaling = [&](long k, Floats v) { return kScales ? v * scales.of_weights[k] : v; };
    constexpr long kWidth = 4 * L;
    const RightOperand<P> panel_only{to.at(panel, 0, 0), to.k_tiles};
    for (long k = 0; k < K; k += kTileDepth)
      panel_only.pack_rows(prepared + (panel * K + k) * kWidth, kWidth, K - k, PlainColumns{kWidth}, 0, k / kTileDepth,
                           right, scaling);
  }

  void pack_state(int thread, int threads) {
    Magnitude<T> state;
    for (long tile = share(row_tiles, thread, threads); tile < share(row_tiles, thread + 1, threads); tile++)
      left_h[0].pack_rows([&](long r) { return p.h_0 + (16 * tile + r) * p.h_size; }, minimum(16L, used - 16 * tile),
                          p.h_size, tile, state, [&](long, long k, Floats v) { return scaled_h(k, v); });
    left.update(state.limited_to(kScales ? kLargestState : INFINITY));
    if (p.time > 1) left_h[1].clear(p.h_size, thread, threads);
    if (p.weight_hr) left_m.clear(p.hidden_size, thread, threads);
    const Range mine = p.valid ? share_of({0, p.batch * p.h_size}, thread, threads) : Range{};
    for (long i = mine.begin; i < mine.end; i += L) {
      const long count = minimum(L, mine.end - i);
      store(p.h_n + i, rounded<T>(load_masked(p.h_0 + i, count)), count);
    }
  }

  // Packs this thread's share of the inputs of the steps from s on. Inputs of invalid steps become zero: they may be
  // NaN or huge, and must not count for the magnitude.
  void split_inputs(long s, const WorkShare& mine) {
    first_row[0] = 0;
    for (long i = 0; i < ahead; i++)
      first_row[i + 1] = first_row[i] + (s + i < p.time ? live_rows(s + i, my_rows).size() : 0);
    const long all_rows = first_row[ahead];
    const LeftOperand<P> x = inputs_ahead();
    const Range tiles = mine.whole_rows({0, x.row_tiles});
    for (long tile = tiles.begin, i = 0; tile < tiles.end; tile++) {
      const T* rows[16];
      const long count = minimum(16L, all_rows - 16 * tile);
      for (long r = 0; r < count; r++) {
        while (16 * tile + r >= first_row[i + 1]) i++;
        const long row = my_rows.begin + 16 * tile + r - first_row[i], t = time_of(s + i);
        rows[r] = is_valid(t, row) ? p.x + (t * p.batch + row) * p.input_size : nullptr;
      }
      pack_inputs(x, rows, count, tile);
    }
  }

  void pack_inputs(const LeftOperand<P>& x, const T* const (&rows)[16], long count, long tile) {
    const auto row = [&](long r) { return rows[r]; };
    if constexpr (kScales) {
      float scales[16];
      for (long r = 0; r < count; r++) {
        const RowScale scale = rows[r] ? scales_ih.of_row(rows[r], p.input_size, left) : RowScale{};
        scales[r] = scale.scale, unscale_x[(first_tile_ahead() + tile) * 16 + r] = scale.unscale;
      }
      Magnitude<T> updated;  // by of_row
      x.pack_rows(row, count, p.input_size, tile, updated,
                  [&](long r, long k, Floats v) { return v * load(scales_ih.of_x + k) * scales[r]; });
    } else {
      x.pack_rows(row, count, p.input_size, tile, left);
    }
  }

  void project_inputs(TileRegisters& registers) {
    const LeftOperand<P> x = inputs_ahead();
    if (!x.row_tiles) return;
    if (used < 16) registers.set_rows(minimum(16L, first_row[ahead]));
    for (long panel = my_panels.begin; panel < my_panels.end; panel++)
      multiply_panel(x, x.row_tiles, right_ih, panel, [&](long tile) { return projected_at(panel, tile); }, [] {});
    if (used < 16) registers.set_rows(used);
  }

  // As copy_h, for the parts of h.
  void copy_h(long s, Range rows) const {
    for (long row = rows.begin; row < minimum(rows.end, used); row++)
      for (long column = 0; column < p.h_size; column += L) put_h(s, row, column, load_h(row, column));
  }
  JAXLSTM_INLINE void put_h(long s, long row, long column, Floats h) const {
    left_h[(s + 1) & 1].put(row, column, scaled_h(column, h));
  }
  Floats load_h(long row, long column) const {
    return load_masked(p.h_n + row * p.h_size + column, p.h_size - column);
  }

  void step_on_tiles(long s, Range rows) {
    const long first_tile = rows.begin / 16, tiles = ceil_divide(rows.size(), 16);
    const LeftOperand<P> before = left_h[s & 1].from(first_tile);
    const long calls = interleaved_calls<P>(tiles, right_hh.k_tiles);
    AmxCells<AmxForwardPass, T, P> cells(*this, s, rows, calls);  // of the panel that was multiplied before
    for (long i = my_panels.begin; i < my_panels.end; i++) {
      const long panel = s & 1 ? my_panels.begin + my_panels.end - 1 - i : i;
      multiply_panel(before, tiles, right_hh, panel, [&](long tile) { return sums_at(panel, first_tile + tile); },
                     [&] { cells.advance(); });
      cells.finish();
      cells.start(panel, first_row[s % ahead], projected_at(panel, 0), sums_at(panel, first_tile),
                  kScales ? unscale_x + first_tile_ahead() * 16 : nullptr);
    }
    cells.finish();
  }

  // Stores h as output, as operand of the next step and, where it may be the last one, as state.
  JAXLSTM_INLINE void store_h(long s, long t, long row, long column, long count, Floats h) const {
    const long at = row * p.h_size + column;
    const bool valid = is_valid(t, row);
    store(p.y + t * p.batch * p.h_size + at, valid ? h : Floats{}, count);
    if (!valid) h = load_h(row, column);
    else if (p.valid || s == p.time - 1) store(p.h_n + at, rounded<T>(h), count);
    if (s < p.time - 1) put_h(s, row, column, first_lanes(h, count));
  }

  // As in forward.h.
  void project_outputs(long s, Range rows, Range my_outputs) {
    const long first_tile = rows.begin / 16;
    for (long panel = my_outputs.begin; panel < my_outputs.end; panel++) {
      const auto sums_of = [&](long tile) { return sums_hr + (panel * row_tiles + tile) * 4 * kResultSize; };
      multiply_panel(left_m.from(first_tile), ceil_divide(rows.size(), 16), right_hr, panel,
                     [&](long tile) { return sums_of(first_tile + tile); }, [] {});
      for (long row = rows.begin; row < rows.end; row++)
        for (int v = 0; v < 4; v++) {
          const long count = outputs.template count<float>(panel, v);
          if (!count) continue;
          const Floats h = load(sums_of(row / 16) + v * kResultSize + row % 16 * 16);
          projections.update(first_lanes(h, count));
          store_h(s, time_of(s), row, outputs.template first<float>(panel, v), count, h);
        }
    }
  }
};

}  // namespace
}  // namespace jaxlstm
