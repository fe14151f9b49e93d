// The operands of the forward pass on AMX: which rows and steps they hold, and how they are packed.
//
// W_ih x is computed for several steps at a time, since products of more rows are faster.
#pragma once
#include "amx_operands.h"
#include "forward.h"
#include "pass.h"

namespace jaxlstm {
namespace {

// P: the parts of the operands (amx.h).
template <class T, class P>
struct AmxForwardOperands {
  static constexpr long L = kLanes<T>;
  const ForwardPass<T>& plain;  // as packed for vectors
  const ForwardArguments<T>& p = plain.p;
  const GateColumns<> gates = plain.gates;
  const PlainColumns outputs = plain.outputs;
  const long panels = plain.panels, output_panels = plain.output_panels;
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
  // For kScales: the scales of the columns of W_ih and W_hh, of all rows of h, and of the products of the rows ahead.
  ColumnScales scales_ih, scales_hh;
  RowScale scale_h;
  float* unscale_x;
  Magnitude<T> left, right;  // of x and h_0, and of the weights
  // Of this thread: its rows and panels, and where its rows of each step ahead begin, without those after the last
  // valid one, and the end of the last one.
  Range my_rows, my_panels;
  long first_row[kRowsAhead + 1];

  AmxForwardOperands(const ForwardPass<T>& plain, Arena& arena) : plain(plain) {
    if (!use_amx) return;
    right_ih = weights(arena, plain.weight_ih, p.input_size, panels);
    right_hh = weights(arena, plain.weight_hh, p.h_size, panels);
    left_x = LeftOperand<P>::take(arena, tiles_ahead, p.input_size);
    for (LeftOperand<P>& operand : left_h) operand = LeftOperand<P>::take(arena, row_tiles, p.h_size);
    if (p.weight_hr) {
      right_hr = weights(arena, plain.weight_hr, p.hidden_size, output_panels);
      left_m = LeftOperand<P>::take(arena, row_tiles, p.hidden_size);
    }
    if (kScales) {
      scales_ih = ColumnScales::take(arena, p.input_size), scales_hh = ColumnScales::take(arena, p.h_size);
      unscale_x = arena.take<float>(tiles_ahead * 16);
    }
  }

  // The tiles ahead of all threads form one array. Returns the first tile of this thread.
  long first_tile_ahead() const { return ahead * my_rows.begin / 16; }
  LeftOperand<P> inputs_ahead() const {
    return {left_x.tiles + LeftOperand<P>::size(first_tile_ahead(), p.input_size), ceil_divide(first_row[ahead], 16)};
  }

  JAXLSTM_INLINE void put_h(long s, long row, long column, Floats h) const {
    left_h[(s + 1) & 1].put(row, column, scaled_h(column, h));
  }
  Floats load_h(long row, long column) const {
    return load_masked(p.h_n + row * p.h_size + column, p.h_size - column);
  }

  void find_scales(int thread, int threads, Barrier& barrier) {
    if (p.prepared) {
      scales_ih.find_in_panels(plain.weight_ih, panels, p.input_size, thread, threads);
      scales_hh.find_in_panels(plain.weight_hh, panels, p.h_size, thread, threads);
    } else {
      scales_ih.find(p.weight_ih, 4 * p.hidden_size, p.input_size, thread, threads);
      scales_hh.find(p.weight_hh, 4 * p.hidden_size, p.h_size, thread, threads);
    }
    barrier.wait();
    scale_h = scales_hh.of_states(p.h_size);
  }
  // Returns the magnitude of this thread's part of h_n, divided so that it is out of range below 2^-12: the scale of h
  // allows for kLargestState, so the parts of numbers that small have large relative errors.
  Magnitude<T> final_states() const {
    Magnitude<T> magnitude;
    for (long row = my_rows.begin; row < minimum(my_rows.end, used); row++)
      for (long panel = my_panels.begin; panel < my_panels.end; panel++) magnitude.update(load_h(row, panel * L));
    return magnitude.over_power_of_two(48);
  }
  JAXLSTM_INLINE Floats scaled_h(long k, Floats h) const {
    return kScales ? h * load(scales_hh.of_x + k) * scale_h.scale : h;
  }

  void pack_weights(int thread, int threads) {
    if constexpr (kIsHalf<T>) {
      if (!p.prepared) plain.pack_weights(thread, threads);
    } else {
      const Range units = share_of({0, panels}, thread, threads);
      for (long panel = units.begin; panel < units.end; panel++) {
        pack_panel(right_ih, p.weight_ih, plain.weight_ih, p.input_size, gates, panel, scales_ih);
        pack_panel(right_hh, p.weight_hh, plain.weight_hh, p.h_size, gates, panel, scales_hh);
      }
      const Range projected_units = share_of({0, p.weight_hr ? output_panels : 0}, thread, threads);
      for (long panel = projected_units.begin; panel < projected_units.end; panel++)
        pack_panel(right_hr, p.weight_hr, plain.weight_hr, p.hidden_size, outputs, panel, {});
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
      first_row[i + 1] = first_row[i] + (s + i < p.time ? plain.live_rows(s + i, my_rows).size() : 0);
    const long all_rows = first_row[ahead];
    const LeftOperand<P> x = inputs_ahead();
    const Range tiles = mine.whole_rows({0, x.row_tiles});
    for (long tile = tiles.begin, i = 0; tile < tiles.end; tile++) {
      const T* rows[16];
      const long count = minimum(16L, all_rows - 16 * tile);
      for (long r = 0; r < count; r++) {
        while (16 * tile + r >= first_row[i + 1]) i++;
        const long row = my_rows.begin + 16 * tile + r - first_row[i], t = plain.time_of(s + i);
        rows[r] = plain.is_valid(t, row) ? p.x + (t * p.batch + row) * p.input_size : nullptr;
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

 private:
  // Returns true if float16 is as accurate as sums in float32: if these sums are long enough, and if h has a limit. Its
  // scale needs one, and after a projection it has none.
  bool can_scale() const { return p.input_size + p.h_size >= 160 && !p.weight_hr; }

  static Weights weights(Arena& arena, const T* packed, long K, long panels) {
    if constexpr (kIsHalf<T>) return {packed, padded_depth<T>(K) / kTileDepth};
    else return Weights::take(arena, panels, K);
  }
};

}  // namespace
}  // namespace jaxlstm
