// The backward pass on AMX: grad_h = W_hh^T grad_gates on tiles (amx_product.h), the rest as in backward.h.
//
// As in the forward pass, the vector units compute the cells of one panel while AMX multiplies the next, and split the
// new grad_gates into parts for the next product.
#pragma once
#include "amx_product.h"
#include "backward.h"
#include "pass.h"

namespace jaxlstm {
namespace {

template <class T>
struct AmxBackwardPass {
  static constexpr long L = kLanes<T>;
  typedef Bfloat16Parts<T> P;
  BackwardPass<T> vectors;  // computes the cells, and the calls that AMX does not
  const BackwardArguments<T>& p = vectors.p;
  const PlainColumns states = vectors.states;
  const long state_panels = vectors.state_panels;
  const bool use_amx = amx_is_faster(used_rows(p.valid, p.time, p.batch)) && !p.weight_hr;
  const long row_tiles = ceil_divide(p.batch, 16);
  const long gate_k_tiles = ceil_divide(p.hidden_size, kTileDepth), depth = 4 * gate_k_tiles * kTileDepth;
  RightOperand<P> right;         // W_hh, each gate padded to whole k tiles
  LeftOperand<P> left_grads[2];  // grad_gates of the current step and of the step that follows it
  LeftOperand<P> left_errors{};  // in bfloat16, the rounding errors of the first step
  float* sums;                   // [panel][row tile][4][16][16]
  uint32_t* magnitudes;
  Range my_rows;  // of this thread
  size_t scratch_bytes = vectors.scratch_bytes;

  AmxBackwardPass(const BackwardArguments<T>& arguments, void* scratch) : vectors(arguments, scratch) {
    if (!use_amx) return;
    Arena arena(scratch, scratch_bytes);
    right = RightOperand<P>::take(arena, state_panels, depth);
    for (LeftOperand<P>& left : left_grads) left = LeftOperand<P>::take(arena, row_tiles, depth);
    if constexpr (kIsHalf<T>) left_errors = LeftOperand<P>::take(arena, row_tiles, depth);
    sums = arena.take<float>(state_panels * row_tiles * 4 * kResultSize);
    magnitudes = arena.take<uint32_t>(Magnitudes<T>::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    // The check comes first, since writing grad_gates may overwrite by_gates.
    if (!use_amx || threads > Magnitudes<T>::kMaxThreads || !pack_and_check(thread, threads, barrier))
      return vectors.run(thread, threads, barrier);
    TileRegisters registers;
    registers.set_rows(minimum(16, p.batch));
    const WorkShare mine{shares_rows(threads), thread, threads};
    my_rows = mine.rows(p.batch, 16);
    const Range panels = mine.columns(state_panels);
    vectors.prepare(my_rows, panels, panels);
    for (long s = p.time - 1; s >= -1; s--) {
      step_on_tiles(s, panels);
      if (s >= 0) mine.synchronize(barrier);
    }
    vectors.finish(my_rows, panels);
  }

 private:
  // Packs this thread's share of W_hh, and checks the range of W_hh and of all gradients that the pass starts from.
  bool pack_and_check(int thread, int threads, Barrier& barrier) {
    Magnitude<T> gradients, weights;
    const Range panels = share_of({0, state_panels}, thread, threads);
    for (long panel = panels.begin; panel < panels.end; panel++)
      for (long k = 0; k < right.k_tiles; k++) {
        const long unit = k % gate_k_tiles * kTileDepth, row = k / gate_k_tiles * p.hidden_size + unit;
        right.pack_rows(p.weight_hh + row * p.h_size, p.h_size, p.hidden_size - unit, states, panel, k, weights);
      }
    const auto check = [&](const auto* array, long count) {
      if constexpr (kIsHalf<T>) return;
      for (long i = share(count, thread, threads), end = share(count, thread + 1, threads); i < end; i += L)
        gradients.update(load_masked(array + i, end - i));
    };
    check(p.grad_y, p.time * p.batch * p.h_size);
    check(p.grad_h_n, p.batch * p.h_size), check(p.grad_c_n, p.batch * p.hidden_size);
    for (const LeftOperand<P>& left : left_grads) left.clear(depth, thread, threads);
    if (left_errors.tiles) left_errors.clear(depth, thread, threads);
    Magnitudes<T> all(magnitudes);
    all.record(thread, gradients, weights);
    barrier.wait();
    return all.in_range(threads);
  }

  // As in the forward pass, if the numbers of row tiles balance.
  bool shares_rows(int threads) const {
    const long weight_bytes = RightOperand<P>::size(state_panels, right.k_tiles) * sizeof(TileBits);
    const long by_rows = ceil_divide(row_tiles, threads) * state_panels;
    const long by_panels = row_tiles * ceil_divide(state_panels, threads);
    return threads > 1 && sharing_backward_rows_is_faster(p.batch / threads, weight_bytes) &&
           10 * by_rows <= 11 * by_panels;
  }

  float* sums_at(long panel, long row_tile) const { return sums + (panel * row_tiles + row_tile) * 4 * kResultSize; }

  // As BackwardPass::step.
  void step_on_tiles(long s, Range panels) {
    const long first_tile = my_rows.begin / 16, tiles = ceil_divide(my_rows.size(), 16);
    const LeftOperand<P> next = left_grads[(s + 1) & 1].from(first_tile);
    Cells cells{*this, s};  // of the panel that was multiplied before
    for (long i = panels.begin; i < panels.end; i++) {
      const long panel = s & 1 ? panels.begin + panels.end - 1 - i : i;
      const auto sums_of = [&](long tile) { return sums_at(panel, first_tile + tile); };
      if (s < p.time - 1) multiply_panel(next, tiles, right, panel, sums_of, [&] { cells.advance(); });
      if (left_errors.tiles && s < 0)
        multiply_panel(left_errors.from(first_tile), tiles, right, panel, sums_of, [] {}, true);
      cells.finish();
      cells.start(panel);
    }
    cells.finish();
  }

  // The cells of a panel, one vector of units at a time, spread evenly over the calls of `advance` during a product.
  struct Cells {
    AmxBackwardPass& pass;
    const long s;
    const long vectors = 4 * pass.my_rows.size();
    const long calls = interleaved_calls<P>(ceil_divide(pass.my_rows.size(), 16), pass.right.k_tiles);
    const long per_call = ceil_divide(vectors, calls), calls_per_vector = calls > vectors ? calls / vectors : 1;
    long panel = 0, next = vectors, waited = 0;

    void start(long new_panel) { panel = new_panel, next = waited = 0; }
    JAXLSTM_INLINE void advance() {
      if (++waited < calls_per_vector) return;
      waited = 0;
      for (const long end = minimum(vectors, next + per_call); next < end; next++) run();
    }
    void finish() {
      for (; next < vectors; next++) run();
    }
    void run() const { pass.finish_vector(s, pass.my_rows.begin + next / 4, panel, next % 4); }
  };

  __attribute__((noinline)) void finish_vector(long s, long row, long panel, int v) {
    const long count = states.template count<float>(panel, v);
    if (!count) return;
    const long unit = states.template first<float>(panel, v), t = vectors.time_of(s);
    const long at = row * p.h_size + unit, at_t = t * p.batch * p.h_size + at;
    const bool is_last = s == p.time - 1, valid = s < 0 || vectors.is_valid(t, row);
    Floats grad_m = is_last ? Floats{} : load(sums_at(panel, row / 16) + v * kResultSize + row % 16 * 16);
    Wide<T>* const bypass = vectors.panel_row(vectors.grad_h, panel, row) + v * L;
    if (is_last || p.valid) grad_m += load(bypass);
    if (s < 0) return store(p.grad_h_0 + at, grad_m, count);
    vectors.prefetch_grad_y(at_t);
    if (p.valid) store(bypass, valid ? Floats{} : grad_m);
    if (valid) grad_m += load(p.grad_y + at_t, count);
    Floats grads[4];
    vectors.differentiate_cell(t, row, panel, v, count, valid, grad_m, grads);
    for (int g = 0; g < 4; g++) {
      const long k = g * gate_k_tiles * kTileDepth + unit;
      const Floats grad = first_lanes(grads[g], count);
      left_grads[s & 1].put(row, k, grad);
      if (left_errors.tiles && s == 0) left_errors.put(row, k, grad - rounded<T>(grad));
    }
  }
};

}  // namespace
}  // namespace jaxlstm
