// The backward pass: it computes the gradients of the gates from the gradients of the outputs, backwards through the
// steps of the forward pass. It is the transpose of outputs_tangent in jaxlstm/layer/scan.py. The gradients of weights
// and inputs are large products of grad_gates, computed afterwards (gradients.h).
//
// A step computes grad_h = W_hh^T grad_gates of the step that follows it in the forward pass, and its own grad_gates
// from that. Threads share the columns of grad_h or the rows (pass.h).
#pragma once
#include "arguments.h"
#include "panel.h"
#include "pass.h"

#if defined(__AVX512BF16__)
#include "bfloat16.h"
#endif

namespace jaxlstm {
namespace {

template <class T, Cell kCell = Cell::kLstm>
struct BackwardPass {
  static constexpr long L = kLanes<T>;
  static constexpr bool kIsGru = kCell == Cell::kGru;
  const BackwardArguments<T>& p;
  const PlainColumns states{p.h_size}, units{p.hidden_size};
  const long state_panels = states.panels<T>(), unit_panels = units.panels<T>();
  const long gate_rows = 4 * p.hidden_size;
  // The gates to which h contributes: of a GRU all but the first.
  const long first_gate = kIsGru ? p.hidden_size : 0, depth = gate_rows - first_gate;
  // Packed weights, and two arrays [panel][row][4][lanes] that a step passes on to the next: the gradient of c, and the
  // part of the gradient of h that bypasses W_hh. The latter is the gradient of the last state, which invalid steps
  // hand on.
  T *weight_hh, *weight_hr;
  Wide<T>*grad_c, *grad_h;
  // In half precision: grad_gates of the current step and of the step that follows it, and the rounding errors of the
  // first step, whose product with W_hh is a result.
  T *rounded_gates[2], *rounding_errors;
  size_t scratch_bytes;

  BackwardPass(const BackwardArguments<T>& arguments, void* scratch) : p(arguments) {
    Arena arena(scratch);
    weight_hh = arena.take<T>(state_panels * padded_depth<T>(depth) * 4 * L);
    weight_hr = p.weight_hr ? arena.take<T>(unit_panels * padded_depth<T>(p.h_size) * 4 * L) : nullptr;
    grad_c = arena.take<Wide<T>>(kIsGru ? 0 : unit_panels * p.batch * 4 * L);
    grad_h = arena.take<Wide<T>>(state_panels * p.batch * 4 * L);
    for (T*& step : rounded_gates) step = arena.take<T>(kIsHalf<T> ? p.batch * gate_rows : 0);
    rounding_errors = arena.take<T>(kIsHalf<T> ? p.batch * gate_rows : 0);
    scratch_bytes = arena.used() + kPrefetchBytes;
  }

  void run(int thread, int threads, Barrier& barrier) {
    const WorkShare mine{split_rows(threads), thread, threads};
    const Range my_rows = mine.rows(p.batch);
    const Range my_states = mine.columns(state_panels), my_units = mine.columns(unit_panels);
    pack_weights(thread, threads);
    prepare(my_rows, my_states, my_units);
    if (mine.by_rows) barrier.wait();
    for (long s = p.time - 1; s >= 0; s--) {
      step(s, my_rows, my_states);
      if (p.weight_hr) {
        mine.synchronize(barrier);
        differentiate_projection(s, my_rows, my_units);
      }
      mine.synchronize(barrier);
    }
    step(-1, my_rows, my_states);
    finish(my_rows, my_units);
  }

  bool split_rows(int threads) const {
    const long weight_bytes = state_panels * depth * 4 * L * long(sizeof(T));
    return threads > 1 && sharing_rows_is_faster(p.batch / threads, weight_bytes);
  }

  long time_of(long s) const { return p.reverse ? p.time - 1 - s : s; }
  Wide<T>* panel_row(Wide<T>* buffer, long panel, long b) const { return buffer + (panel * p.batch + b) * 4 * L; }
  // Returns grad_gates of step s as the product with W_hh reads it.
  const T* multiplied_gates(long s) const {
    if constexpr (kIsHalf<T>) return rounded_gates[s & 1];
    else return p.grad_gates + time_of(s) * p.batch * gate_rows;
  }

  void pack_weights(int thread, int threads) {
    const Range state_range = share_of({0, state_panels}, thread, threads);
    const Range unit_range = share_of({0, unit_panels}, thread, threads);
    pack(p.weight_hh, depth, p.h_size, 1, states, state_range.begin, state_range.end, weight_hh);
    if (p.weight_hr) pack(p.weight_hr, p.h_size, p.hidden_size, 1, units, unit_range.begin, unit_range.end, weight_hr);
  }
  void prepare(Range rows, Range my_states, Range my_units) {
    copy_to_panels(p.grad_h_n, p.h_size, rows, states, my_states, grad_h);
    if (!kIsGru) copy_to_panels(p.grad_c_n, p.hidden_size, rows, units, my_units, grad_c);
  }
  void copy_to_panels(const Wide<T>* from, long width, Range rows, PlainColumns columns, Range panels,
                      Wide<T>* to) const {
    for (long panel = panels.begin; panel < panels.end; panel++)
      for (long b = rows.begin; b < rows.end; b++)
        for (int v = 0; v < 4; v++) {
          const long count = columns.count<T>(panel, v);
          const Vector<T> value = count ? load(from + b * width + columns.first<T>(panel, v), count) : Vector<T>{};
          store(panel_row(to, panel, b) + v * L, value);
        }
  }

  // Computes grad_h of step s: W_hh^T grad_gates of the next step, plus the gradient that bypassed W_hh, plus grad_y.
  // Without a projection it continues with the cell. Step -1 stands for the initial state.
  void step(long s, Range my_rows, Range panels) {
    const bool has_next = s < p.time - 1;
    const T* next = has_next ? multiplied_gates(s + 1) : nullptr;
    for_register_blocks(my_rows.begin, my_rows.end, panels.begin, panels.end, s & 1,
      [&](long row, auto rows, long panel, auto group) {
        constexpr int M = decltype(rows)::count, N = decltype(group)::count;
        Vector<T> sums[M][4 * N];
#pragma GCC unroll 8
        for (int r = 0; r < M; r++)
#pragma GCC unroll 16
          for (int v = 0; v < 4 * N; v++) sums[r][v] = load(panel_row(grad_h, panel + v / 4, row + r) + v % 4 * L);
        if (has_next)
          multiply<M, N>(next + row * gate_rows + first_gate, gate_rows, panel_at(weight_hh, panel, depth), depth,
                         sums);
        if constexpr (kIsHalf<T>)
          if (s < 0)
            multiply<M, N>(rounding_errors + row * gate_rows, gate_rows, panel_at(weight_hh, panel, gate_rows),
                           gate_rows, sums);
        for (int r = 0; r < M; r++)
          for (int v = 0; v < 4 * N; v++) {
            const long count = states.count<T>(panel + v / 4, v % 4);
            if (count) finish_grad_h(s, row + r, panel + v / 4, v % 4, count, sums[r][v]);
          }
      });
  }

  JAXLSTM_INLINE void finish_grad_h(long s, long b, long panel, int v, long count, Vector<T> value) {
    const long column = states.first<T>(panel, v), at = b * p.h_size + column;
    if (s < 0) return store(p.grad_h_0 + at, value, count);
    const long t = time_of(s), at_t = t * p.batch * p.h_size + at;
    const bool valid = is_valid(t, b);
    prefetch_grad_y(at_t);
    store(panel_row(grad_h, panel, b) + v * L, valid ? Vector<T>{} : value);
    if (valid) value += load(p.grad_y + at_t, count);
    if constexpr (kIsGru) return differentiate_gru_cell(t, b, panel, v, count, valid, value);
    if (p.weight_hr) store(p.grad_projected + at_t, valid ? value : Vector<T>{}, count);
    else store_gates(s, b, panel, v, count, valid, value);
  }
  bool is_valid(long t, long row) const { return !p.valid || p.valid[t * p.batch + row]; }
  JAXLSTM_INLINE void prefetch_grad_y(long at) const {  // of the next step
    __builtin_prefetch(p.grad_y + at + (p.reverse ? p.batch : -p.batch) * p.h_size);
  }

  void differentiate_projection(long s, Range my_rows, Range panels) {
    const long t = time_of(s);
    for_register_blocks(my_rows.begin, my_rows.end, panels.begin, panels.end, s & 1,
      [&](long row, auto rows, long panel, auto group) {
        constexpr int M = decltype(rows)::count, N = decltype(group)::count;
        Vector<T> sums[M][4 * N] = {};
        multiply<M, N>(p.grad_projected + (t * p.batch + row) * p.h_size, p.h_size,
                       panel_at(weight_hr, panel, p.h_size), p.h_size, sums);
        for (int r = 0; r < M; r++)
          for (int v = 0; v < 4 * N; v++) {
            const long count = units.count<T>(panel + v / 4, v % 4);
            if (count) store_gates(s, row + r, panel + v / 4, v % 4, count, is_valid(t, row + r), sums[r][v]);
          }
      });
  }

  JAXLSTM_INLINE void store_gates(long s, long b, long panel, int v, long count, bool valid, Vector<T> grad_m) {
    Vector<T> grads[4];
    differentiate_cell(time_of(s), b, panel, v, count, valid, grad_m, grads);
    if constexpr (kIsHalf<T>)
      for (int g = 0; g < 4; g++)
        store_rounded(s, b * gate_rows + g * p.hidden_size + units.first<T>(panel, v), grads[g], count);
  }

  // Computes the gradients of the gates and of c from grad_m, with m = o tanh(c'), and stores them.
  JAXLSTM_INLINE void differentiate_cell(
      long t, long b, long panel, int v, long count, bool valid, Vector<T> grad_m, Vector<T> (&grads)[4]) {
    const long row = t * p.batch + b, unit = units.first<T>(panel, v);
    const long at = row * p.hidden_size + unit, gate = row * gate_rows + unit;
    const long next = (p.reverse ? p.batch : -p.batch) * p.hidden_size;  // distance to the next step
    for (int g = 0; g < 4; g++) __builtin_prefetch(p.by_gates + gate + g * p.hidden_size + 4 * next, 1);
    __builtin_prefetch(p.m_by_c + at + next), __builtin_prefetch(p.f + at + next);
    if (valid) {
      const Wide<T>* by = p.by_gates + gate;
      Wide<T>* c = panel_row(grad_c, panel, b) + v * L;
      const Vector<T> grad_c_next = load(c) + load(p.m_by_c + at, count) * grad_m;
      for (int g = 0; g < 3; g++) grads[g] = load(by + g * p.hidden_size, count) * grad_c_next;
      grads[3] = load(by + 3 * p.hidden_size, count) * grad_m;
      store(c, load(p.f + at, count) * grad_c_next);
    } else {
      for (Vector<T>& grad : grads) grad = Vector<T>{};
    }
    for (int g = 0; g < 4; g++) store(p.grad_gates + gate + g * p.hidden_size, grads[g], count);
  }

  // Computes the gradients of the gates, and of h where it bypasses W_hh, from the gradient of h'.
  JAXLSTM_INLINE void differentiate_gru_cell(long t, long b, long panel, int v, long count, bool valid,
                                             Vector<T> grad_h_next) {
    const long unit = units.first<T>(panel, v), row = t * p.batch + b, gate = row * gate_rows + unit;
    if (valid) store(panel_row(grad_h, panel, b) + v * L, load(p.f + row * p.hidden_size + unit, count) * grad_h_next);
    for (int g = 0; g < 4; g++) {
      const long at = gate + g * p.hidden_size;
      store(p.grad_gates + at, valid ? load(p.by_gates + at, count) * grad_h_next : Vector<T>{}, count);
    }
  }

  JAXLSTM_INLINE void store_rounded(long s, long at, Vector<T> value, long count) {
    T* rounded = rounded_gates[s & 1] + at;
    store(rounded, value, count);
    if (s == 0) store(rounding_errors + at, value - load(rounded, count), count);
  }

  void finish(Range rows, Range panels) {
    for (long panel = panels.begin; panel < panels.end && !kIsGru; panel++)
      for (long b = rows.begin; b < rows.end; b++)
        for (int v = 0; v < 4; v++) {
          const long count = units.count<T>(panel, v);
          if (count)
            store(p.grad_c_0 + b * p.hidden_size + units.first<T>(panel, v),
                  load(panel_row(grad_c, panel, b) + v * L), count);
        }
  }
};

}  // namespace
}  // namespace jaxlstm
