// The forward pass on AMX: products on tiles (amx_product.h), the cell as in forward.h.
//
// Each step adds W_hh h to W_ih x. While AMX multiplies a panel, the vector units compute the cells of the panel before
// it, and split the new h into its parts for the next step.
#pragma once
#include "amx_forward_operands.h"
#include "amx_product.h"
#include "forward.h"

namespace jaxlstm {
namespace {

// The cells of some rows, from a multiple of 16 on, of one panel after another. `calls` is how often `advance` is
// called per panel.
//
// Between two groups of four tile products the processor hides about 50 vector instructions, so in float32 a cell runs
// in five stages of about that size: about two per group with bfloat16 parts, four with float16 parts. In bfloat16,
// where a panel takes a sixth of the tile products, there are too few groups for that.
template <class Pass, class T, class P>
class AmxCells {
 public:
  AmxCells(Pass& pass, long s, Range rows, long calls)
      : pass_(pass), s_(s), t_(pass.vectors.time_of(s)), rows_(rows), row_(rows.end),
        stages_per_call_(ceil_divide(rows.size() * kStages, calls)) {}

  // Begins with the cells of a panel. W_ih x is at `by_x` from row `row_ahead` on, and W_hh h of the first row at
  // `by_h`, both [row tile][gate][16][16]. The scale of row r of W_ih x is unscale_x[r], if there are scales.
  void start(long panel, long row_ahead, const float* by_x, const float* by_h, const float* unscale_x) {
    panel_ = panel, row_ = rows_.begin, row_ahead_ = row_ahead, unscale_x_ = unscale_x;
    x_ = by_x + row_ahead / 16 * 4 * kResultSize + row_ahead % 16 * 16, h_ = by_h;
    bias_ = pass_.vectors.bias + panel * 4 * kLanes<T>;
  }
  JAXLSTM_INLINE void advance() {
    for (long i = 0; i < stages_per_call_ && row_ < rows_.end; i++) run_stage();
  }
  void finish() {
    while (row_ < rows_.end) run_stage();
  }

 private:
  static constexpr int kStages = kIsHalf<T> ? 1 : 5;

  JAXLSTM_INLINE void run_stage() {
    if constexpr (kStages == 1) {
      run_row();
    } else {
      switch (stage_++) {
        case 0: i_ = sigmoid_of(0); return;
        case 1: f_ = sigmoid_of(1); return;
        case 2: g_ = tanh_of(2); return;
        case 3: o_ = sigmoid_of(3); return;
        case 4: finish_row(), stage_ = 0;
      }
    }
    // After 16 rows the next row tile begins.
    x_ += ++row_ahead_ % 16 ? 16 : 16 + 3 * kResultSize;
    h_ += ++row_ % 16 ? 16 : 16 + 3 * kResultSize;
  }
  JAXLSTM_INLINE Floats sum(int v) const {
    // Scales are powers of two, so it does not matter whether products and sums are fused.
    if constexpr (kIsFloat16<P>)
      return load(x_ + v * kResultSize) * unscale_x_[row_ahead_] + load(bias_ + v * kLanes<T>) +
             load(h_ + v * kResultSize) * pass_.operands.scale_h.unscale;
    return load(x_ + v * kResultSize) + load(bias_ + v * kLanes<T>) + load(h_ + v * kResultSize);
  }

  // These are not inlined: each inlined copy could round differently.
  __attribute__((noinline)) Floats sigmoid_of(int v) const { return sigmoid<T>(sum(v)); }
  __attribute__((noinline)) Floats tanh_of(int v) const { return tanh<T>(sum(v)); }
  __attribute__((noinline)) void finish_row() {
    pass_.store_m(s_, t_, row_, panel_, pass_.vectors.cell(t_, row_, panel_, i_, f_, g_, o_));
  }
  __attribute__((noinline)) void run_row() {
    const Floats i = sigmoid<T>(sum(0)), f = sigmoid<T>(sum(1)), g = tanh<T>(sum(2)), o = sigmoid<T>(sum(3));
    pass_.store_m(s_, t_, row_, panel_, pass_.vectors.cell(t_, row_, panel_, i, f, g, o));
  }

  Pass& pass_;
  const long s_, t_;
  const Range rows_;
  long panel_ = 0, row_, row_ahead_ = 0;  // row_ahead_: the index of the row in W_ih x
  const long stages_per_call_;
  int stage_ = 0;
  const float *x_ = nullptr, *h_ = nullptr, *bias_ = nullptr;  // the gates of the row: W_ih x, W_hh h and b
  const float* unscale_x_ = nullptr;
  Floats i_, f_, g_, o_;
};

template <class T, class P = Bfloat16Parts<T>>
struct AmxForwardPass {
  static constexpr long L = kLanes<T>;
  static constexpr bool kScales = kIsFloat16<P>;
  ForwardPass<T> vectors;  // computes the cells, and the calls that AMX does not
  const ForwardArguments<T>& p = vectors.p;
  Arena arena;
  AmxForwardOperands<T, P> operands{vectors, arena};
  const long panels = vectors.panels, output_panels = vectors.output_panels, row_tiles = operands.row_tiles;
  // W_ih x of the steps ahead, and W_hh h and W_hr m of a step, [panel][row tile][4][16][16].
  float *projected, *sums, *sums_hr;
  Magnitude<T> projections;  // of h after a projection
  uint32_t* magnitudes;

  size_t scratch_bytes = vectors.scratch_bytes;

  AmxForwardPass(const ForwardArguments<T>& arguments, void* scratch)
      : vectors(arguments, scratch), arena(scratch, vectors.scratch_bytes) {
    if (!operands.use_amx) return;
    sums = arena.take<float>(panels * row_tiles * 4 * kResultSize);
    projected = arena.take<float>(panels * operands.tiles_ahead * 4 * kResultSize);
    sums_hr = p.weight_hr ? arena.take<float>(output_panels * row_tiles * 4 * kResultSize) : nullptr;
    magnitudes = arena.take<uint32_t>(Magnitudes<T>::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (run_on_tiles(thread, threads, barrier)) return;
    vectors.run(thread, threads, barrier);  // overwrites all results
  }

  // Returns false, with invalid results, if AMX is not faster or an operand was out of range.
  bool run_on_tiles(int thread, int threads, Barrier& barrier) {
    if (!operands.use_amx || threads > Magnitudes<T>::kMaxThreads) return false;
    TileRegisters registers;
    const WorkShare mine{shares_rows(threads), thread, threads};
    operands.my_rows = mine.rows(p.batch, 16), operands.my_panels = mine.columns(panels);
    if constexpr (kScales) operands.find_scales(thread, threads, barrier);
    operands.pack_weights(thread, threads);
    operands.pack_state(thread, threads);
    vectors.prepare_c(thread, threads);
    operands.split_inputs(0, mine);
    barrier.wait();
    run_steps(mine, registers, barrier);
    vectors.finish_c(operands.my_rows, operands.my_panels);
    finish_streams();  // before another thread overwrites the results
    if constexpr (kIsHalf<T>) return true;
    Magnitudes<T> all(magnitudes);
    all.record(thread, operands.left, operands.right, projections,
               kScales ? operands.final_states() : Magnitude<T>{});
    barrier.wait();
    return all.in_range(threads);
  }

  // Takes m = o tanh(c') of one row and one vector of units.
  JAXLSTM_INLINE void store_m(long s, long t, long row, long panel, Floats m) const {
    const long count = vectors.gates.template count<float>(panel, 0);
    if (p.weight_hr) operands.left_m.put(row, panel * L, first_lanes(m, count));
    else store_h(s, t, row, panel * L, count, m);
  }

 private:
  void run_steps(const WorkShare& mine, TileRegisters& registers, Barrier& barrier) {
    const Range my_outputs = mine.columns(output_panels);
    const Range my_rows = operands.my_rows;
    Range before = my_rows;
    for (long s = 0; s < p.time; s++) {
      const Range live = vectors.live_rows(s, my_rows);
      const bool looks_ahead = s % operands.ahead == 0;
      if (s > 0 && looks_ahead) {
        operands.split_inputs(s, mine);
        mine.synchronize(barrier);
      }
      if (looks_ahead) project_inputs(registers);
      vectors.zero_outputs(s, mine.whole_rows({live.end, my_rows.end}));
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

  bool shares_rows(int threads) const {
    const long weight_bytes = RightOperand<P>::size(panels, ceil_divide(p.h_size, kTileDepth)) * sizeof(TileBits);
    return threads > 1 && sharing_forward_rows_is_faster(p.batch / threads, weight_bytes) &&
           vectors.lengths_balance(threads, [&](int t) { return WorkShare{true, t, threads}.rows(p.batch, 16); });
  }

  // The panels of a thread take turns in the memory of its first two, which stays in the first-level cache.
  float* sums_at(long panel, long row_tile) const {
    const long first = operands.my_panels.begin, place = first + (panel - first) % 2;
    return sums + (place * row_tiles + row_tile) * 4 * kResultSize;
  }
  float* projected_at(long panel, long tile) const {
    return projected + (panel * operands.tiles_ahead + operands.first_tile_ahead() + tile) * 4 * kResultSize;
  }
  void project_inputs(TileRegisters& registers) {
    const LeftOperand<P> x = operands.inputs_ahead();
    const long used = operands.used;
    if (!x.row_tiles) return;
    if (used < 16) registers.set_rows(minimum(16L, operands.first_row[operands.ahead]));
    for (long panel = operands.my_panels.begin; panel < operands.my_panels.end; panel++)
      multiply_panel(x, x.row_tiles, operands.right_ih, panel, [&](long tile) { return projected_at(panel, tile); },
                     [] {});
    if (used < 16) registers.set_rows(used);
  }

  // As copy_h, for the parts of h.
  void copy_h(long s, Range rows) const {
    for (long row = rows.begin; row < minimum(rows.end, operands.used); row++)
      for (long column = 0; column < p.h_size; column += L)
        operands.put_h(s, row, column, operands.load_h(row, column));
  }
  void step_on_tiles(long s, Range rows) {
    const long first_tile = rows.begin / 16, tiles = ceil_divide(rows.size(), 16);
    const LeftOperand<P> before = operands.left_h[s & 1].from(first_tile);
    const long calls = interleaved_calls<P>(tiles, operands.right_hh.k_tiles);
    const Range my_panels = operands.my_panels;
    AmxCells<AmxForwardPass, T, P> cells(*this, s, rows, calls);  // of the panel that was multiplied before
    for (long i = my_panels.begin; i < my_panels.end; i++) {
      const long panel = s & 1 ? my_panels.begin + my_panels.end - 1 - i : i;
      multiply_panel(before, tiles, operands.right_hh, panel,
                     [&](long tile) { return sums_at(panel, first_tile + tile); }, [&] { cells.advance(); });
      cells.finish();
      cells.start(panel, operands.first_row[s % operands.ahead], projected_at(panel, 0), sums_at(panel, first_tile),
                  kScales ? operands.unscale_x + operands.first_tile_ahead() * 16 : nullptr);
    }
    cells.finish();
  }

  // Stores h as output, as operand of the next step and, where it may be the last one, as state.
  JAXLSTM_INLINE void store_h(long s, long t, long row, long column, long count, Floats h) const {
    const long at = row * p.h_size + column;
    const bool valid = vectors.is_valid(t, row);
    store(vectors.y_at(t, row) + column, valid ? h : Floats{}, count);
    if (!valid) h = operands.load_h(row, column);
    else if (p.valid || s == p.time - 1) store(p.h_n + at, rounded<T>(h), count);
    if (s < p.time - 1) operands.put_h(s, row, column, first_lanes(h, count));
  }

  // As in forward.h.
  void project_outputs(long s, Range rows, Range my_outputs) {
    const long first_tile = rows.begin / 16;
    for (long panel = my_outputs.begin; panel < my_outputs.end; panel++) {
      const auto sums_of = [&](long tile) { return sums_hr + (panel * row_tiles + tile) * 4 * kResultSize; };
      multiply_panel(operands.left_m.from(first_tile), ceil_divide(rows.size(), 16), operands.right_hr, panel,
                     [&](long tile) { return sums_of(first_tile + tile); }, [] {});
      for (long row = rows.begin; row < rows.end; row++)
        for (int v = 0; v < 4; v++) {
          const long count = vectors.outputs.template count<float>(panel, v);
          if (!count) continue;
          const Floats h = load(sums_of(row / 16) + v * kResultSize + row % 16 * 16);
          projections.update(first_lanes(h, count));
          store_h(s, vectors.time_of(s), row, vectors.outputs.template first<float>(panel, v), count, h);
        }
    }
  }
};

}  // namespace
}  // namespace jaxlstm
