// The operands of a forward pass: packed weights, the state c, and the rows of each step.
//
// A step computes only the rows up to its last valid one, and skips a step without valid rows. The choice depends only
// on `valid`, so all threads agree on when to synchronize.
#pragma once
#include "arena.h"
#include "arguments.h"
#include "panel.h"
#include "work_sharing.h"

#if defined(__AVX512BF16__)
#include "bfloat16.h"
#endif

namespace jaxlstm {
namespace {

template <class T>
struct ForwardOperands {
  static constexpr long L = kLanes<T>;
  const ForwardArguments<T>& p;
  const GateColumns gates{p.hidden_size};
  const PlainColumns outputs{p.h_size};
  const long panels = gates.panels<T>(), output_panels = outputs.panels<T>();
  // Packed weights and bias, and the state c as [panel][row][lanes].
  T *weight_ih, *weight_hh, *weight_hr;
  Wide<T>*bias, *c;
  size_t prepared_bytes, scratch_bytes;

  ForwardOperands(const ForwardArguments<T>& arguments, void* scratch) : p(arguments) {
    Arena weights(p.prepared ? const_cast<void*>(p.prepared) : scratch);
    weight_ih = weights.take<T>(panels * padded_depth<T>(p.input_size) * 4 * L);
    weight_hh = weights.take<T>(panels * padded_depth<T>(p.h_size) * 4 * L);
    weight_hr = p.weight_hr ? weights.take<T>(output_panels * padded_depth<T>(p.hidden_size) * 4 * L) : nullptr;
    bias = weights.take<Wide<T>>(panels * 4 * L);
    prepared_bytes = weights.used();
    Arena arena(scratch, p.prepared ? 0 : prepared_bytes);
    c = arena.take<Wide<T>>(panels * p.batch * L);
    scratch_bytes = arena.used();
  }

  // Packs weights and bias to the start of scratch memory, which other calls then take as `prepared`.
  void prepare_weights() {
    pack_weights(0, 1);
    pack_bias({0, panels});
  }

  void pack_weights(int thread, int threads) const {
    const Range mine = share_of({0, panels}, thread, threads);
    const Range projected = share_of({0, output_panels}, thread, threads);
    pack(p.weight_ih, p.input_size, 1, p.input_size, gates, mine.begin, mine.end, weight_ih);
    pack(p.weight_hh, p.h_size, 1, p.h_size, gates, mine.begin, mine.end, weight_hh);
    if (p.weight_hr)
      pack(p.weight_hr, p.hidden_size, 1, p.hidden_size, outputs, projected.begin, projected.end, weight_hr);
  }

  void pack_bias(Range mine) {
    for (long panel = mine.begin; panel < mine.end; panel++)
      for (int v = 0; v < 4; v++) {
        const long count = p.bias ? gates.count<T>(panel, v) : 0;
        for (long l = 0; l < L; l++)
          bias[(panel * 4 + v) * L + l] = l < count ? p.bias[gates.first<T>(panel, v) + l] : 0;
      }
  }

  // Packs the bias and copies the initial c.
  void prepare_c(int thread, int threads) {
    const Range mine = share_of({0, panels}, thread, threads);
    if (!p.prepared) pack_bias(mine);
    for (long panel = mine.begin; panel < mine.end; panel++) {
      const long count = gates.count<T>(panel, 0);
      for (long b = 0; b < p.batch; b++)
        store(c + (panel * p.batch + b) * L, load(p.c_0 + b * p.hidden_size + panel * L, count));
    }
  }
  // Stores the last c of some units of `rows`.
  void finish_c(Range rows, Range units) {
    for (long panel = units.begin; panel < units.end; panel++)
      for (long b = rows.begin; b < rows.end; b++)
        store(p.c_n + b * p.hidden_size + panel * L, load(c + (panel * p.batch + b) * L), gates.count<T>(panel, 0));
  }

  long time_of(long s) const { return p.reverse ? p.time - 1 - s : s; }
  JAXLSTM_INLINE bool is_valid(long t, long row) const { return !p.valid || p.valid[t * p.batch + row]; }

  // Returns the part of `rows` that step s computes, up to the last valid row.
  Range live_rows(long s, Range rows) const {
    const uint8_t* valid = p.valid ? p.valid + time_of(s) * p.batch : nullptr;
    while (valid && rows.end > rows.begin && !valid[rows.end - 1]) rows.end--;
    return rows;
  }
  // Returns true if no thread has much more work with its rows than with a share of the units.
  template <class Rows>
  bool lengths_balance(int threads, Rows&& rows_of) const {
    long longest = 0;
    for (int thread = 0; thread < threads; thread++) {
      const long steps = row_steps(rows_of(thread));
      if (steps > longest) longest = steps;
    }
    const long by_units = row_steps({0, p.batch}) * ceil_divide(panels, threads);
    return 10 * longest * panels <= 11 * by_units;  // synchronization takes about a tenth
  }
  // Returns the number of rows computed in all steps.
  long row_steps(Range rows) const {
    long sum = 0;
    for (long s = 0; s < p.time; s++) sum += live_rows(s, rows).size();
    return sum;
  }

  // Sets the outputs of step s to zero for rows that it does not compute.
  void zero_outputs(long s, Range rows) const {
    const auto zero = [&](auto* array, long width) {
      const long begin = (time_of(s) * p.batch + rows.begin) * width, count = rows.size() * width;
      if (array) std::memset(array + begin, 0, size_t(count) * sizeof *array);
    };
    if (!rows.size()) return;
    zero(p.y, p.h_size), zero(p.by_gates, 4 * p.hidden_size);
    zero(p.f, p.hidden_size), zero(p.m_by_c, p.hidden_size), zero(p.m, p.hidden_size);
  }
};

}  // namespace
}  // namespace jaxlstm
