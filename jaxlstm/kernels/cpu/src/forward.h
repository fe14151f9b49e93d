// The forward pass. A step is one product of [x | h] with the packed weights (panel.h). A panel holds all gates of
// some hidden units, so their new state is computed while the gates are still in registers.
//
// Threads share the hidden units or the rows of each step (pass.h). Only the rows up to the last valid one of a
// step are computed, and none of a step without valid rows. This depends only on `valid`, so all threads agree on when
// to synchronize.
#pragma once
#include "activations.h"
#include "arguments.h"
#include "panel.h"
#include "pass.h"

#if defined(__AVX512BF16__)
#include "bfloat16.h"
#endif

namespace jaxlstm {
namespace {

// W_ih x can be computed ahead of time for many steps at once, which reads W_ih once for all of them. This is faster
// with few rows, where reading the weights dominates, and with more rows if the weights of a thread exceed its
// second-level cache of 2 MiB: there it gained 3 to 19 % with 8 to 32 rows, and nothing with 64. The number of steps is
// chosen so that the result stays in that cache, but is at least kMinStepsAhead.
constexpr long kFewRows = 4, kMaxHoistedRows = 32, kMaxCachedWeightBytes = 2 << 20;
constexpr long kHoistedBytes = 512 << 10, kMinStepsAhead = 8;

template <class T, Cell kCell = Cell::kLstm>
struct ForwardPass {
  static constexpr long L = kLanes<T>;
  static constexpr bool kIsGru = kCell == Cell::kGru;
  // The number of gates to which x and h each contribute: of a GRU the first three and the last three.
  static constexpr int V = blocks_of(kCell);
  const ForwardArguments<T>& p;
  const GateColumns<> gates{p.hidden_size};
  const GateColumns<V> gates_of_x{p.hidden_size, kIsGru ? 2 : 0}, gates_of_h{p.hidden_size};
  const PlainColumns outputs{p.h_size};
  const long panels = gates.panels<T>(), output_panels = outputs.panels<T>();
  const long weight_bytes = panels * (p.input_size + p.h_size) * V * L * long(sizeof(T));
  bool hoisted = false;  // set by `run`
  // A small derivative is still in the caches when the backward pass reads it.
  const bool streams = kStreams && 6 * p.time * p.batch * p.hidden_size * long(sizeof(Wide<T>)) > 1 << 20;
  // Packed weights and bias, and the state c as [panel][row][lanes].
  T *weight_ih, *weight_hh, *weight_hr;
  Wide<T>*bias, *c;
  size_t prepared_bytes, scratch_bytes;
  // m = o tanh(c') before a projection, h before and after the current step, and hoisted W_ih x + b as
  // [panel][row][4][lanes].
  T *m, *h[2];
  Wide<T>* ahead;
  long steps_ahead = 0;

  ForwardPass(const ForwardArguments<T>& arguments, void* scratch) : p(arguments) {
    Arena weights(p.prepared ? const_cast<void*>(p.prepared) : scratch);
    weight_ih = weights.take<T>(panels * padded_depth<T>(p.input_size) * V * L);
    weight_hh = weights.take<T>(panels * padded_depth<T>(p.h_size) * V * L);
    weight_hr = p.weight_hr ? weights.take<T>(output_panels * padded_depth<T>(p.hidden_size) * 4 * L) : nullptr;
    bias = weights.take<Wide<T>>(panels * 4 * L);
    prepared_bytes = weights.used();
    Arena arena(scratch, p.prepared ? 0 : prepared_bytes);
    c = arena.take<Wide<T>>(kIsGru ? 0 : panels * p.batch * L);
    m = p.weight_hr ? arena.take<T>(p.batch * p.hidden_size) : nullptr;
    for (T*& buffer : h) buffer = arena.take<T>(p.batch * p.h_size);
    if (p.batch && hoists(weight_bytes)) {
      const long step_bytes = panels * 4 * L * p.batch * long(sizeof(Wide<T>));
      steps_ahead = kHoistedBytes / step_bytes < kMinStepsAhead ? kMinStepsAhead : kHoistedBytes / step_bytes;
      if (steps_ahead > p.time) steps_ahead = p.time;
      ahead = arena.take<Wide<T>>(panels * steps_ahead * p.batch * 4 * L);
    }
    scratch_bytes = arena.used() + kPrefetchBytes;
  }

  void run(int thread, int threads, Barrier& barrier) {
    const WorkShare mine{split_rows(threads), thread, threads};
    hoisted = p.batch && !mine.by_rows && hoists(weight_bytes / threads);
    const Range units = mine.columns(panels), rows = mine.rows(p.batch), projected = mine.columns(output_panels);
    if (!p.prepared) pack_weights(thread, threads);
    prepare_c(thread, threads);
    if (thread == 0) copy_numbers(p.h_0, h[0], p.batch * p.h_size);
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
    finish_c(rows, units);
    const Range rows_of_h = mine.whole_rows(rows);
    const long first = rows_of_h.begin * p.h_size;
    copy_numbers(h[p.time & 1] + first, p.h_n + first, rows_of_h.size() * p.h_size);
    finish_streams();
  }

  // Packs weights and bias to the start of scratch memory, which other calls then take as `prepared`.
  void prepare_weights() {
    pack_weights(0, 1);
    pack_bias({0, panels});
  }

  void pack_weights(int thread, int threads) const {
    const Range mine = share_of({0, panels}, thread, threads);
    const Range projected = share_of({0, output_panels}, thread, threads);
    pack(p.weight_ih, p.input_size, 1, p.input_size, gates_of_x, mine.begin, mine.end, weight_ih);
    pack(p.weight_hh, p.h_size, 1, p.h_size, gates_of_h, mine.begin, mine.end, weight_hh);
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
    for (long panel = mine.begin; panel < mine.end && !kIsGru; panel++) {
      const long count = gates.count<T>(panel, 0);
      for (long b = 0; b < p.batch; b++)
        store(c + (panel * p.batch + b) * L, load(p.c_0 + b * p.hidden_size + panel * L, count));
    }
  }
  // Stores the last c of some units of `rows`.
  void finish_c(Range rows, Range units) {
    for (long panel = units.begin; panel < units.end && !kIsGru; panel++)
      for (long b = rows.begin; b < rows.end; b++)
        store(p.c_n + b * p.hidden_size + panel * L, load(c + (panel * p.batch + b) * L), gates.count<T>(panel, 0));
  }

  long time_of(long s) const { return p.reverse ? p.time - 1 - s : s; }
  JAXLSTM_INLINE T* y_at(long t, long row) const { return p.y + (t * p.batch + row) * p.y_stride; }
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
    for (long row = rows.begin; row < rows.end; row++)
      std::memset(y_at(time_of(s), row), 0, size_t(p.h_size) * sizeof(T));
    if (!rows.size()) return;
    zero(p.by_gates, 4 * p.hidden_size);
    zero(p.f, p.hidden_size), zero(p.m_by_c, p.hidden_size), zero(p.m, p.hidden_size);
  }

  // Returns true if threads should share the rows: if that is faster in principle (pass.h), and if ragged
  // lengths allow it.
  bool split_rows(int threads) const {
    if (threads == 1 || p.batch <= kFewRows || !sharing_rows_is_faster(p.batch / threads, weight_bytes)) return false;
    return lengths_balance(threads, [&](int thread) { return share_of({0, p.batch}, thread, threads); });
  }
  // Copies h of rows that step s is the first to skip, so both buffers hold it from now on.
  void copy_h(long s, Range rows) const {
    if (rows.size())
      std::memcpy(h[(s + 1) & 1] + rows.begin * p.h_size, h[s & 1] + rows.begin * p.h_size,
                  size_t(rows.size()) * p.h_size * sizeof(T));
  }

  // Returns true if W_ih x should be computed ahead, given the bytes of weights that each thread reads in a step. A
  // step then writes and reads the sums of its rows instead of W_ih, and padding is computed too.
  bool hoists(long thread_weight_bytes) const {
    if (p.batch <= kFewRows) return true;
    return thread_weight_bytes > kMaxCachedWeightBytes && p.batch <= kMaxHoistedRows && 2 * p.batch <= p.input_size &&
           10 * row_steps({0, p.batch}) >= 9 * p.time * p.batch;
  }

  // Computes W_ih x + b for `steps_ahead` steps from s on, without leading and trailing steps that have no rows.
  void project_inputs(long s, Range units) {
    const long ahead_end = s + steps_ahead < p.time ? s + steps_ahead : p.time;
    long first = s, last = ahead_end;
    while (first < last && !live_rows(first, {0, p.batch}).size()) first++;
    while (first < last && !live_rows(last - 1, {0, p.batch}).size()) last--;
    const long t = p.reverse ? p.time - ahead_end : s;  // time of the first row of `ahead`
    const long begin = p.reverse ? ahead_end - last : first - s;
    for_register_blocks<V>(begin * p.batch, (begin + last - first) * p.batch, units.begin, units.end, false,
      [&](long row, auto rows, long panel, auto count) {
        constexpr int M = decltype(rows)::count, N = decltype(count)::count;
        Vector<T> sums[M][4 * N];
        start_from_bias(panel, sums);
        add_product<M, N>(p.x + (t * p.batch + row) * p.input_size, p.input_size, weight_ih, panel, 0, sums);
        for (int r = 0; r < M; r++)
          for (int v = 0; v < 4 * N; v++) store(ahead_at(panel + v / 4, row + r) + v % 4 * L, sums[r][v]);
      });
  }
  // Adds the product of rows with K elements and packed weights to V of the four sums of each panel.
  template <int M, int N>
  JAXLSTM_INLINE void add_product(const T* rows, long K, const T* weights, long panel, int first,
                                  Vector<T> (&sums)[M][4 * N]) const {
    if constexpr (V == 4) multiply<M, N>(rows, K, panel_at(weights, panel, K), K, sums);
    else multiply<M, N, T, V, 4>(rows, K, panel_at<V>(weights, panel, K), K, sums, 1, first);
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
    for_register_blocks<V>(row_range.begin, row_range.end, units.begin, units.end, s & 1,
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
          add_product<M, N>(p.x + (t * p.batch + row) * p.input_size, p.input_size, weight_ih, panel, 0, sums);
        }
        add_product<M, N>(h[s & 1] + row * p.h_size, p.h_size, weight_hh, panel, 4 - V, sums);
        finish_cells(s, t, row, M, panel, N, sums[0]);
      });
  }

  // Computes c' = f c + i g and m = o tanh(c') of some rows and panels, and the derivative of the step if requested. An
  // invalid step keeps the state. `sums` holds the gates, [row][panel][4]. Their nonlinearities come first: they are
  // independent, and tanh(c') waits for them. The function is not inlined: each inlined copy could round differently.
  __attribute__((noinline)) void finish_cells(long s, long t, long row, int rows, long panel, int count,
                                              Vector<T>* sums) {
    if constexpr (kIsGru) return finish_gru_cells(s, t, row, rows, panel, count, sums);
    for (Vector<T>* z = sums; z < sums + 4 * rows * count; z += 4)
      z[0] = sigmoid<T>(z[0]), z[1] = sigmoid<T>(z[1]), z[2] = tanh<T>(z[2]), z[3] = sigmoid<T>(z[3]);
    for (long b = row; b < row + rows; b++)
      for (long j = panel; j < panel + count; j++, sums += 4)
        store_m(s, t, b, j, cell(t, b, j, sums[0], sums[1], sums[2], sums[3]));
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
  // Computes h' = n + z (h - n) of some rows and panels, and the derivative of the step if requested.
  JAXLSTM_INLINE void finish_gru_cells(long s, long t, long row, int rows, long panel, int count, Vector<T>* sums) {
    Vector<T>* const end = sums + 4 * rows * count;
    for (Vector<T>* x = sums; x < end; x += 4) x[1] = sigmoid<T>(x[1]), x[2] = sigmoid<T>(x[2]);
    for (Vector<T>* x = sums; x < end; x += 4) x[0] = tanh<T>(x[0] + x[1] * x[3]);
    for (long b = row; b < row + rows; b++)
      for (long j = panel; j < panel + count; j++, sums += 4) {
        const Vector<T> n = sums[0], r = sums[1], z = sums[2];
        const long units = gates.template count<T>(j, 0);
        const Vector<T> h_before = load(h[s & 1] + b * p.h_size + j * L, units);
        store_m(s, t, b, j, n + z * (h_before - n));
        if (!p.by_gates) continue;
        const Vector<T> by_n = (1 - z) * ((1 + n) * (1 - n));
        const Vector<T> by[4] = {by_n, by_n * sums[3] * (r * (1 - r)), (h_before - n) * (z * (1 - z)), by_n * r};
        const long at = (t * p.batch + b) * p.hidden_size + j * L, gate = at + 3 * (t * p.batch + b) * p.hidden_size;
        const bool valid = is_valid(t, b);
        for (int g = 0; g < 4; g++)
          store(p.by_gates + gate + g * p.hidden_size, valid ? by[g] : Vector<T>{}, units);
        store(p.f + at, valid ? z : Vector<T>{}, units);
      }
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
    store(y_at(t, b) + unit, valid ? value : Vector<T>{}, count);
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
            const long first = outputs.template first<T>(panel + v / 4, v % 4), at = (row + r) * p.h_size + first;
            store(y_at(t, row + r) + first, valid ? sums[r][v] : Vector<T>{}, count);
            store(h[(s + 1) & 1] + at, valid ? sums[r][v] : load(h[s & 1] + at, count), count);
          }
        }
      });
  }
};

}  // namespace
}  // namespace jaxlstm
