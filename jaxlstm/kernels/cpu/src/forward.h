// The forward pass. A step is one product of [x | h] with the packed weights (panel.h). A panel holds all four gates of
// some hidden units, so their new state is computed while the gates are still in registers.
//
// Threads share the hidden units or the rows of each step (work_sharing.h).
#pragma once
#include "activations.h"
#include "forward_operands.h"

namespace jaxlstm {
namespace {

// With at most kMaxHoistedRows rows, W_ih x is computed ahead of time for many steps at once, which reads W_ih once for
// all of them. The number of steps is chosen so that the result stays in the second-level cache.
constexpr long kMaxHoistedRows = 4, kHoistedBytes = 512 << 10;

template <class T>
struct ForwardPass : ForwardOperands<T> {
  typedef ForwardOperands<T> Operands;
  using Operands::L, Operands::p, Operands::gates, Operands::panels, Operands::outputs, Operands::output_panels;
  using Operands::bias, Operands::c, Operands::weight_hh, Operands::weight_hr, Operands::weight_ih;
  using Operands::finish_c, Operands::is_valid, Operands::lengths_balance, Operands::live_rows, Operands::pack_weights;
  using Operands::prepare_c, Operands::scratch_bytes, Operands::time_of, Operands::zero_outputs;
  const bool hoisted = p.batch <= kMaxHoistedRows;
  // A small derivative is still in the caches when the backward pass reads it.
  const bool streams = kStreams && 6 * p.time * p.batch * p.hidden_size * long(sizeof(Wide<T>)) > 1 << 20;
  // m = o tanh(c') before a projection, h before and after the current step, and hoisted W_ih x + b as
  // [panel][row][4][lanes].
  T *m, *h[2];
  Wide<T>* ahead;
  long steps_ahead = 0;

  ForwardPass(const ForwardArguments<T>& arguments, void* scratch) : Operands(arguments, scratch) {
    Arena arena(scratch, scratch_bytes);
    m = p.weight_hr ? arena.take<T>(p.batch * p.hidden_size) : nullptr;
    for (T*& buffer : h) buffer = arena.take<T>(p.batch * p.h_size);
    if (hoisted && p.batch) {
      const long step_bytes = panels * 4 * L * p.batch * long(sizeof(Wide<T>));
      steps_ahead = kHoistedBytes / step_bytes < 8 ? 8 : kHoistedBytes / step_bytes;
      if (steps_ahead > p.time) steps_ahead = p.time;
      ahead = arena.take<Wide<T>>(panels * steps_ahead * p.batch * 4 * L);
    }
    scratch_bytes = arena.used() + kPrefetchBytes;
  }

  void run(int thread, int threads, Barrier& barrier) {
    const WorkShare mine{split_rows(threads), thread, threads};
    const Range units = mine.columns(panels), rows = mine.rows(p.batch), projected = mine.columns(output_panels);
    if (!p.prepared) pack_weights(thread, threads);
    prepare(thread, threads);
    barrier.wait();
    Range before = rows;  // the rows of the previous step
    for (long s = 0; s < p.time; s++) {
      const Range live = live_rows(s, rows);
      if (hoisted && s % steps_ahead == 0) project_inputs(s, units);
      zero_outputs(s, mine.whole_rows({live.end, rows.end}));
      copy_h(s, mine.whole_rows({live.end, before.end}));
      step(s, live, units);
      if (p.weight_hr && live.size()) {
        mine.synchronize(barrier);
        project_outputs(s, live, projected);
      }
      if (live.size() || before.size()) mine.synchronize(barrier);
      before = live;
    }
    finish(rows, mine.whole_rows(rows), units);
    finish_streams();
  }

  // Returns true if threads should share the rows: if that is faster in principle (work_sharing.h), and if ragged
  // lengths allow it.
  bool split_rows(int threads) const {
    const long weight_bytes = panels * (p.input_size + p.h_size) * 4 * L * long(sizeof(T));
    if (threads == 1 || hoisted || !sharing_rows_is_faster(p.batch / threads, weight_bytes)) return false;
    return lengths_balance(threads, [&](int thread) { return share_of({0, p.batch}, thread, threads); });
  }
  // Packs the bias and copies the initial state.
  void prepare(int thread, int threads) {
    prepare_c(thread, threads);
    if (thread == 0) copy_rounded(p.h_0, h[0], p.batch * p.h_size);
  }
  // Copies h of rows that step s is the first to skip, so both buffers hold it from now on.
  void copy_h(long s, Range rows) const {
    if (rows.size())
      std::memcpy(h[(s + 1) & 1] + rows.begin * p.h_size, h[s & 1] + rows.begin * p.h_size,
                  size_t(rows.size()) * p.h_size * sizeof(T));
  }

  // Computes W_ih x + b for `steps_ahead` steps from s on, without leading and trailing steps that have no rows.
  void project_inputs(long s, Range units) {
    const long ahead_end = s + steps_ahead < p.time ? s + steps_ahead : p.time;
    long first = s, last = ahead_end;
    while (first < last && !live_rows(first, {0, p.batch}).size()) first++;
    while (first < last && !live_rows(last - 1, {0, p.batch}).size()) last--;
    const long t = p.reverse ? p.time - ahead_end : s;  // time of the first row of `ahead`
    const long begin = p.reverse ? ahead_end - last : first - s;
    for_register_blocks(begin * p.batch, (begin + last - first) * p.batch, units.begin, units.end, false,
      [&](long row, auto rows, long panel, auto count) {
        constexpr int M = decltype(rows)::count, N = decltype(count)::count;
        Vector<T> sums[M][4 * N];
        start_from_bias(panel, sums);
        multiply<M, N>(p.x + (t * p.batch + row) * p.input_size, p.input_size,
                       panel_at(weight_ih, panel, p.input_size), p.input_size, sums);
        for (int r = 0; r < M; r++)
          for (int v = 0; v < 4 * N; v++) store(ahead_at(panel + v / 4, row + r) + v % 4 * L, sums[r][v]);
      });
  }
  Wide<T>* ahead_at(long panel, long row) const { return ahead + (panel * steps_ahead * p.batch + row) * 4 * L; }

  template <int M, int N4>
  JAXLSTM_INLINE void start_from_bias(long panel, Vector<T> (&sums)[M][N4]) const {
#pragma GCC unroll 8
    for (int r = 0; r < M; r++)
#pragma GCC unroll 16
      for (int v = 0; v < N4; v++) sums[r][v] = load(bias + (panel * 4 + v) * L);
  }

  void step(long s, Range row_range, Range units) {
    const long t = time_of(s);
    const long ahead_begin = hoisted ? s - s % steps_ahead : 0;
    const long ahead_end = hoisted && ahead_begin + steps_ahead > p.time ? p.time : ahead_begin + steps_ahead;
    const long row_ahead = (p.reverse ? ahead_end - 1 - s : s - ahead_begin) * p.batch;
    for_register_blocks(row_range.begin, row_range.end, units.begin, units.end, s & 1,
      [&](long row, auto rows, long panel, auto count) {
        constexpr int M = decltype(rows)::count, N = decltype(count)::count;
        Vector<T> sums[M][4 * N];
        if (hoisted) {
#pragma GCC unroll 8
          for (int r = 0; r < M; r++)
#pragma GCC unroll 16
            for (int v = 0; v < 4 * N; v++)
              sums[r][v] = load(ahead_at(panel + v / 4, row_ahead + row + r) + v % 4 * L);
        } else {
          start_from_bias(panel, sums);
          multiply<M, N>(p.x + (t * p.batch + row) * p.input_size, p.input_size,
                         panel_at(weight_ih, panel, p.input_size), p.input_size, sums);
        }
        multiply<M, N>(h[s & 1] + row * p.h_size, p.h_size, panel_at(weight_hh, panel, p.h_size), p.h_size, sums);
#pragma GCC unroll 8
        for (int r = 0; r < M; r++)
#pragma GCC unroll 4
          for (int n = 0; n < N; n++) finish_row(s, t, row + r, panel + n, &sums[r][4 * n]);
      });
  }

  // Computes c' = f c + i g and m = o tanh(c') for one row and one vector of units, and the derivative of the step if
  // requested. An invalid step keeps the state. The function is not inlined: each inlined copy could round differently.
  __attribute__((noinline)) void finish_row(long s, long t, long b, long panel, const Vector<T>* sums) {
    store_m(s, t, b, panel, cell(t, b, panel, sigmoid<T>(sums[0]), sigmoid<T>(sums[1]), tanh<T>(sums[2]),
                                 sigmoid<T>(sums[3])));
  }

  // Computes c' from the gates, stores it and, if requested, the derivative of the step. Returns m.
  JAXLSTM_INLINE Vector<T> cell(long t, long b, long panel, Vector<T> i, Vector<T> f, Vector<T> g, Vector<T> o) {
    const long unit = panel * L, count = gates.template count<T>(panel, 0);
    const long at = (t * p.batch + b) * p.hidden_size + unit;
    Wide<T>* state = c + (panel * p.batch + b) * L;
    const bool valid = is_valid(t, b);
    const Vector<T> c_before = load(state), c_next = sum_of_products(f, c_before, i, g), tanh_c = tanh<T>(c_next);
    const Vector<T> value = o * tanh_c;
    if (valid) store(state, c_next);
    if (!p.by_gates) return value;
    Wide<T>* by = p.by_gates + (t * p.batch + b) * 4 * p.hidden_size + unit;
    if (!streams) prefetch_derivative(by, at);
    const auto put = [&](auto* to, Vector<T> v) {
      if (!valid) v = Vector<T>{};
      streams ? stream(to, v, count) : store(to, v, count);
    };
    put(by, g * (i * (1 - i)));
    put(by + p.hidden_size, c_before * (f * (1 - f)));
    put(by + 2 * p.hidden_size, i * ((1 + g) * (1 - g)));
    put(by + 3 * p.hidden_size, tanh_c * (o * (1 - o)));
    put(p.f + at, f);
    put(p.m_by_c + at, o * ((1 + tanh_c) * (1 - tanh_c)));
    if (p.m) store(p.m + at, valid ? value : Vector<T>{}, count);
    return value;
  }
  JAXLSTM_INLINE void prefetch_derivative(const Wide<T>* by, long at) const {  // of the next step
    const long next = (p.reverse ? -p.batch : p.batch) * p.hidden_size;
    for (int g = 0; g < 4; g++) __builtin_prefetch(by + g * p.hidden_size + 4 * next, 1);
    __builtin_prefetch(p.f + at + next, 1), __builtin_prefetch(p.m_by_c + at + next, 1);
  }

  // Stores m as output and next h, or with a projection as the operand of project_outputs.
  JAXLSTM_INLINE void store_m(long s, long t, long b, long panel, Vector<T> value) {
    const long unit = panel * L, count = gates.template count<T>(panel, 0);
    const bool valid = is_valid(t, b);
    if (p.weight_hr) return store(m + b * p.hidden_size + unit, value, count);
    const long at = b * p.h_size + unit;
    store(p.y + t * p.batch * p.h_size + at, valid ? value : Vector<T>{}, count);
    store(h[(s + 1) & 1] + at, valid ? value : load(h[s & 1] + at, count), count);
  }

  void project_outputs(long s, Range row_range, Range projected) {
    const long t = time_of(s);
    for_register_blocks(row_range.begin, row_range.end, projected.begin, projected.end, s & 1,
      [&](long row, auto rows, long panel, auto group) {
        constexpr int M = decltype(rows)::count, N = decltype(group)::count;
        Vector<T> sums[M][4 * N] = {};
        multiply<M, N>(m + row * p.hidden_size, p.hidden_size, panel_at(weight_hr, panel, p.hidden_size),
                       p.hidden_size, sums);
        for (int r = 0; r < M; r++) {
          const bool valid = is_valid(t, row + r);
          for (int v = 0; v < 4 * N; v++) {
            const long count = outputs.template count<T>(panel + v / 4, v % 4);
            if (count == 0) continue;
            const long at = (row + r) * p.h_size + outputs.template first<T>(panel + v / 4, v % 4);
            store(p.y + t * p.batch * p.h_size + at, valid ? sums[r][v] : Vector<T>{}, count);
            store(h[(s + 1) & 1] + at, valid ? sums[r][v] : load(h[s & 1] + at, count), count);
          }
        }
      });
  }

  // Stores the last state: c of some units of `rows`, and all of h for `rows_of_h`.
  void finish(Range rows, Range rows_of_h, Range units) {
    finish_c(rows, units);
    const long first = rows_of_h.begin * p.h_size;
    copy_widened(h[p.time & 1] + first, p.h_n + first, rows_of_h.size() * p.h_size);
  }
};

}  // namespace
}  // namespace jaxlstm
