// The backward pass on AMX: grad_h = W_hh^T grad_gates by tiles, the rest as in backward.h.
#pragma once
#include "amx.h"
#include "backward.h"
#include "rows.h"

namespace jaxlstm {
namespace {

struct AmxBackwardPass : BackwardPass<float> {
  const bool pays = pays_for_tiles(rows_there(p.valid, p.time, p.batch)) && !p.weight_hr;
  const long blocks = ceil_divide(p.batch, 16);
  const long gate_blocks = ceil_divide(p.hidden_size, kTileDepth), depth = 4 * gate_blocks * kTileDepth;
  Right right;         // W_hh, each gate padded to whole blocks
  Left left_grads[2];  // the gradients of the gates of this step and of the one after it
  float* sums;         // [panel][block of rows][4][16][16]
  uint32_t* magnitudes;

  AmxBackwardPass(const Backward<float>& problem, void* scratch) : BackwardPass<float>(problem, scratch) {
    if (!pays) return;
    Arena arena(scratch, scratch_bytes);
    right = {arena.take<Bfloat16>(Right::size(state_panels, depth)), 4 * gate_blocks};
    for (Left& grads : left_grads) grads = {arena.take<Bfloat16>(Left::size(blocks, depth)), blocks};
    sums = arena.take<float>(state_panels * blocks * 4 * kResultSize);
    magnitudes = arena.take<uint32_t>(Magnitudes::kSize);
    scratch_bytes = arena.used();
  }

  void run(int thread, int threads, Barrier& barrier) {
    if (!pays || threads > Magnitudes::kMostThreads) return BackwardPass<float>::run(thread, threads, barrier);
    const Range rows{0, p.batch}, panels = share_of({0, state_panels}, thread, threads);
    // Before anything is written, since grad_gates may be by_gates.
    if (!in_range(thread, threads, panels, barrier)) return BackwardPass<float>::run(thread, threads, barrier);
    const TileRegisters registers;
    prepare(rows, panels, panels);
    for (long s = p.time - 1; s >= -1; s--) {
      step_on_tiles(s, panels);
      if (s >= 0) barrier.wait();
    }
    finish(rows, panels);
  }

 private:
  // Packs this thread's share, and looks at all that the gradients of the gates are made of.
  bool in_range(int thread, int threads, Range panels, Barrier& barrier) {
    Magnitude left, packed;
    for (long panel = panels.begin; panel < panels.end; panel++)
      for (long k = 0; k < right.k_blocks; k++) {
        const long unit = k % gate_blocks * kTileDepth, row = k / gate_blocks * p.hidden_size + unit;
        right.pack_rows(p.weight_hh + row * p.h_size, p.h_size, p.hidden_size - unit, states, panel, k, packed);
      }
    const auto see = [&](const float* array, long count) {
      for (long i = share(count, thread, threads), end = share(count, thread + 1, threads); i < end; i += L)
        left.see(load_some(array + i, end - i));
    };
    see(p.grad_y, p.time * p.batch * p.h_size);
    see(p.grad_h_n, p.batch * p.h_size), see(p.grad_c_n, p.batch * p.hidden_size);
    const long size = Left::size(blocks, depth);
    for (const Left& grads : left_grads) {
      const long begin = share(size, thread, threads), end = share(size, thread + 1, threads);
      std::memset(grads.tiles + begin, 0, size_t(end - begin) * sizeof(Bfloat16));
    }
    Magnitudes all(magnitudes);
    all.tell(thread, left, packed);
    barrier.wait();
    return all.fit(threads);
  }

  float* sums_at(long panel, long block) const { return sums + (panel * blocks + block) * 4 * kResultSize; }

  // As through_weights.
  void step_on_tiles(long s, Range panels) {
    const Left& next = left_grads[(s + 1) & 1];
    const bool has_next = s < p.time - 1;
    const long rows_a_call = ceil_divide(p.batch, calls_meanwhile(blocks, right));
    long waiting = -1;  // the panel whose cells are next
    for (long i = panels.begin; i < panels.end; i++) {
      const long panel = s & 1 ? panels.begin + panels.end - 1 - i : i;
      long row = waiting < 0 ? p.batch : 0;
      if (has_next)
        multiply_panel(next, blocks, right, panel, [&](long block) { return sums_at(panel, block); }, [&] {
          for (const long end = least(p.batch, row + rows_a_call); row < end; row++) finish_row(s, row, waiting, true);
        });
      for (; row < p.batch; row++) finish_row(s, row, waiting, has_next);
      waiting = panel;
    }
    for (long row = 0; row < p.batch && waiting >= 0; row++) finish_row(s, row, waiting, has_next);
  }

  void finish_row(long s, long row, long panel, bool has_next) {
    for (int v = 0; v < 4; v++) {
      const long count = states.count<float>(panel, v);
      if (!count) continue;
      Floats grad = load(carried(grad_h, panel, row) + v * L);
      if (has_next) grad += load(sums_at(panel, row / 16) + v * kResultSize + row % 16 * 16);
      take_grad_h(s, row, panel, v, count, grad);
      if (s < 0) continue;
      const long unit = states.first<float>(panel, v);
      const float* made = p.grad_gates + (time_of(s) * p.batch + row) * gate_rows + unit;
      for (int g = 0; g < 4; g++)
        left_grads[s & 1].put(row, g * gate_blocks * kTileDepth + unit, load_some(made + g * p.hidden_size, count));
    }
  }
};

}  // namespace
}  // namespace jaxlstm
