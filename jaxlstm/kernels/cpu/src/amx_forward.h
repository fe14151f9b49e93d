// The forward pass on AMX: products on tiles (amx_product.h), the cell as in forward.h.
//
// W_ih x is computed for several steps at a time, since products of more rows are faster. Each step adds W_hh h. While
// AMX multiplies a panel, the vector units compute the cells of the panel before, and split the new h into its parts for
// the next step.
#pragma once
#include "amx_policy.h"
#include "amx_product.h"
#include "forward.h"

namespace jaxlstm {
namespace {

template <class T>
struct AmxForwardPass : ForwardPass<T> {
  typedef ForwardPass<T> Base;
  using Base::L, Base::p, Base::gates, Base::panels, Base::bias, Base::scratch_bytes;
  using Base::cell, Base::finish_c, Base::is_valid, Base::live_rows, Base::prepare_c, Base::time_of, Base::zero_outputs;
  typedef std::conditional_t<kIsHalf<T>, PackedPanels, RightOperand<T>> Weights;
  static constexpr long kRowsAhead = 256;
  const long used = used_rows(p.valid, p.time, p.batch);
  // A product of one row in bfloat16 is faster than with vectors too.
  const bool use_amx = (kIsHalf<T> ? used > 0 : amx_is_faster(used)) && !p.weight_hr;
  const long row_tiles = ceil_divide(used, 16);
  // The number of steps whose W_ih x is computed at once, and the row tiles of their rows.
  const long ahead = use_amx ? minimum(p.time, used < kRowsAhead ? kRowsAhead / used : 1) : 0;
  const long tiles_ahead = ceil_divide(ahead * used, 16);
  Weights right_ih, right_hh;
  LeftOperand<T> left_x, left_h[2];  // h before and after the current step
  float *projected, *sums;           // W_ih x of the steps ahead and W_hh h of a step, [panel][row tile][gate][16][16]
  uint32_t* magnitudes;
  // Where the rows of each step ahead begin, without those after its last valid one, and the end of the last one.
  long first_row[kRowsAhead + 1];
  long first_panel = 0;  // of this thread

  AmxForwardPass(const ForwardArguments<T>& arguments, void* scratch) : Base(arguments, scratch) {
    if (!use_amx) return;
    Arena arena(scratch, scratch_bytes);
    right_ih = weights(arena, Base::weight_ih, p.input_size), right_hh = weights(arena, Base::weight_hh, p.h_size);
    left_x = LeftOperand<T>::take(arena, tiles_ahead, p.input_size);
    for (LeftOperand<T>& left : left_h) left = LeftOperand<T>::take(arena, row_tiles, p.h_size);
    sums = arena.take<float>(panels * row_tiles * 4 * kResultSize);
    projected = arena.take<float>(panels * tiles_ahead * 4 * kResultSize);
    magnitudes = arena.take<uint32_t>(Magnitudes<T>::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (use_amx && threads <= Magnitudes<T>::kMaxThreads && run_on_tiles(thread, threads, barrier)) return;
    Base::run(thread, threads, barrier);  // overwrites all results
  }

 private:
  Weights weights(Arena& arena, const T* packed, long K) const {
    if constexpr (kIsHalf<T>) return {packed, padded_depth<T>(K) / kTileDepth};
    else return Weights::take(arena, panels, K);
  }

  // Returns false, with invalid results, if an operand was out of range.
  bool run_on_tiles(int thread, int threads, Barrier& barrier) {
    TileRegisters registers;
    const Range rows{0, p.batch}, units = share_of({0, panels}, thread, threads);
    first_panel = units.begin;
    Magnitude<T> left, right;
    pack_tiles(thread, threads, units, left, right);
    prepare_c(thread, threads);
    split_inputs(0, thread, threads, left);
    barrier.wait();
    Range before = rows;
    for (long s = 0; s < p.time; s++) {
      const Range live = live_rows(s, rows);
      if (s > 0 && s % ahead == 0) {
        split_inputs(s, thread, threads, left);
        barrier.wait();
      }
      if (s % ahead == 0) project_inputs(registers, units);
      zero_outputs(s, share_of({live.end, rows.end}, thread, threads));
      copy_h(s, share_of({live.end, before.end}, thread, threads));
      if (live.size()) step_on_tiles(s, live.end, units);
      if (s < p.time - 1 && (live.size() || before.size())) barrier.wait();
      before = live;
    }
    finish_c(rows, units);
    if constexpr (kIsHalf<T>) return true;
    Magnitudes<T> all(magnitudes);
    all.record(thread, left, right);
    barrier.wait();
    return all.in_range(threads);
  }

  // The panels of a thread take turns in the memory of its first two, which stays in the first-level cache.
  float* sums_at(long panel, long row_tile) const {
    const long place = first_panel + (panel - first_panel) % 2;
    return sums + (place * row_tiles + row_tile) * 4 * kResultSize;
  }
  float* projected_at(long panel, long tile) const {
    return projected + (panel * tiles_ahead + tile) * 4 * kResultSize;
  }

  void pack_tiles(int thread, int threads, Range units, Magnitude<T>& left, Magnitude<T>& right) {
    if constexpr (kIsHalf<T>) {
      if (!p.prepared) Base::pack_weights(thread, threads);
    } else {
      for (long panel = units.begin; panel < units.end; panel++) {
        pack_panel(right_ih, p.weight_ih, Base::weight_ih, p.input_size, panel, right);
        pack_panel(right_hh, p.weight_hh, Base::weight_hh, p.h_size, panel, right);
      }
    }
    for (long tile = share(row_tiles, thread, threads); tile < share(row_tiles, thread + 1, threads); tile++)
      left_h[0].pack_rows([&](long r) { return p.h_0 + (16 * tile + r) * p.h_size; }, minimum(16L, used - 16 * tile),
                          p.h_size, tile, left);
    if (p.time > 1) left_h[1].clear(p.h_size, thread, threads);
    const Range mine = p.valid ? share_of({0, p.batch * p.h_size}, thread, threads) : Range{};
    for (long i = mine.begin; i < mine.end; i += L) {
      const long count = minimum(L, mine.end - i);
      store(p.h_n + i, rounded<T>(load_masked(p.h_0 + i, count)), count);
    }
  }

  // Packs one panel from the weights or, if they were prepared, from the panel of vectors.
  void pack_panel(RightOperand<T> to, const T* matrix, const T* prepared, long K, long panel,
                  Magnitude<T>& magnitude) const {
    if (!p.prepared) return to.pack_transposed(matrix, K, gates, panel, magnitude);
    constexpr long kWidth = 4 * L;
    const RightOperand<T> panel_only{to.at(panel, 0, 0), to.k_tiles};
    for (long k = 0; k < K; k += kTileDepth)
      panel_only.pack_rows(prepared + (panel * K + k) * kWidth, kWidth, K - k, PlainColumns{kWidth}, 0, k / kTileDepth,
                           magnitude);
  }

  // Packs this thread's share of the inputs of the steps from s on.
  void split_inputs(long s, int thread, int threads, Magnitude<T>& magnitude) {
    first_row[0] = 0;
    for (long i = 0; i < ahead; i++)
      first_row[i + 1] = first_row[i] + (s + i < p.time ? live_rows(s + i, {0, p.batch}).size() : 0);
    const long all_rows = first_row[ahead];
    const LeftOperand<T> x = inputs_ahead();
    const Range mine = share_of({0, x.row_tiles}, thread, threads);
    for (long tile = mine.begin, i = 0; tile < mine.end; tile++) {
      const T* rows[16];
      const long count = minimum(16L, all_rows - 16 * tile);
      for (long r = 0; r < count; r++) {
        while (16 * tile + r >= first_row[i + 1]) i++;
        rows[r] = p.x + (time_of(s + i) * p.batch + 16 * tile + r - first_row[i]) * p.input_size;
      }
      x.pack_rows([&](long r) { return rows[r]; }, count, p.input_size, tile, magnitude);
    }
  }
  LeftOperand<T> inputs_ahead() const { return {left_x.tiles, ceil_divide(first_row[ahead], 16)}; }

  void project_inputs(TileRegisters& registers, Range units) {
    const LeftOperand<T> x = inputs_ahead();
    if (!x.row_tiles) return;
    if (used < 16) registers.set_rows(minimum(16L, first_row[ahead]));
    for (long panel = units.begin; panel < units.end; panel++)
      multiply_panel(x, x.row_tiles, right_ih, panel, [&](long tile) { return projected_at(panel, tile); }, [] {});
    if (used < 16) registers.set_rows(used);
  }

  // As copy_h, for the parts of h.
  void copy_h(long s, Range rows) const {
    for (long row = rows.begin; row < minimum(rows.end, used); row++)
      for (long panel = 0; panel < panels; panel++) left_h[(s + 1) & 1].put(row, panel * L, load_h(row, panel));
  }
  Floats load_h(long row, long panel) const {
    return load_masked(p.h_n + row * p.h_size + panel * L, p.h_size - panel * L);
  }

  void step_on_tiles(long s, long rows, Range units) {
    const LeftOperand<T>& before = left_h[s & 1];
    const long live_row_tiles = ceil_divide(rows, 16);
    const long stages = ceil_divide(rows * Cells::kStages, interleaved_calls<T>(live_row_tiles, right_hh.k_tiles));
    Cells cells{*this, s};  // of the panel that was multiplied before
    for (long i = units.begin; i < units.end; i++) {
      const long panel = s & 1 ? units.begin + units.end - 1 - i : i;
      multiply_panel(before, live_row_tiles, right_hh, panel, [&](long tile) { return sums_at(panel, tile); },
                     [&] { cells.advance(stages); });
      cells.finish();
      cells.start(panel, rows);
    }
    cells.finish();
  }

  // The cells of some rows of a panel, in stages that are short enough to run between tile products.
  struct Cells {
    static constexpr int kStages = kIsHalf<T> ? 1 : 5;
    AmxForwardPass& pass;
    const long s, t = pass.time_of(s);
    long panel = 0, row = 0, end = 0, row_ahead = 0;  // row_ahead: the index of the row in W_ih x
    int stage = 0;
    const float *x = nullptr, *h = nullptr, *bias = nullptr;  // the gates of the row: W_ih x, W_hh h and b
    Floats i, f, g, o;

    void start(long new_panel, long rows) {
      panel = new_panel, row = 0, end = rows, row_ahead = pass.first_row[s % pass.ahead];
      x = pass.projected_at(panel, row_ahead / 16) + row_ahead % 16 * 16;
      h = pass.sums_at(panel, 0), bias = pass.bias + panel * 4 * L;
    }
    JAXLSTM_INLINE void advance(long stages) {
      for (; stages > 0 && row < end; stages--) run_stage();
    }
    void finish() {
      while (row < end) run_stage();
    }

   private:
    JAXLSTM_INLINE void run_stage() {
      if constexpr (kStages == 1) {
        run_row();
      } else {
        switch (stage++) {
          case 0: i = sigmoid_of(x, h, bias); return;
          case 1: f = sigmoid_of(x + kResultSize, h + kResultSize, bias + L); return;
          case 2: g = tanh_of(x + 2 * kResultSize, h + 2 * kResultSize, bias + 2 * L); return;
          case 3: o = sigmoid_of(x + 3 * kResultSize, h + 3 * kResultSize, bias + 3 * L); return;
          case 4: pass.finish_row(s, t, row, panel, i, f, g, o), stage = 0;
        }
      }
      x += ++row_ahead % 16 ? 16 : 16 + 3 * kResultSize;
      h += ++row % 16 ? 16 : 16 + 3 * kResultSize;
    }
    // These are not inlined: each inlined copy could round differently.
    __attribute__((noinline)) static Floats sigmoid_of(const float* x, const float* h, const float* b) {
      return sigmoid<T>(load(x) + load(b) + load(h));
    }
    __attribute__((noinline)) static Floats tanh_of(const float* x, const float* h, const float* b) {
      return tanh<T>(load(x) + load(b) + load(h));
    }
    __attribute__((noinline)) void run_row() {
      Floats z[4];
      for (int v = 0; v < 4; v++) z[v] = load(x + v * kResultSize) + load(bias + v * L) + load(h + v * kResultSize);
      const Floats i = sigmoid<T>(z[0]), f = sigmoid<T>(z[1]), g = tanh<T>(z[2]), o = sigmoid<T>(z[3]);
      pass.store_h(s, t, row, panel, pass.cell(t, row, panel, i, f, g, o));
    }
  };

  __attribute__((noinline)) void finish_row(long s, long t, long row, long panel, Floats i, Floats f, Floats g,
                                            Floats o) {
    store_h(s, t, row, panel, cell(t, row, panel, i, f, g, o));
  }

  // Stores h as output, as operand of the next step and, where it may be the last one, as state.
  JAXLSTM_INLINE void store_h(long s, long t, long row, long panel, Floats h) const {
    const long at = row * p.h_size + panel * L, count = gates.template count<float>(panel, 0);
    const bool valid = is_valid(t, row);
    store(p.y + t * p.batch * p.h_size + at, valid ? h : Floats{}, count);
    if (!valid) h = load_h(row, panel);
    else if (p.valid || s == p.time - 1) store(p.h_n + at, rounded<T>(h), count);
    if (s < p.time - 1) left_h[(s + 1) & 1].put(row, panel * L, first_lanes(h, count));
  }
};

}  // namespace
}  // namespace jaxlstm
