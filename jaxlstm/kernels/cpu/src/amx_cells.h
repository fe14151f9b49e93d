// The cells of the forward pass on AMX, computed on the vector units while AMX multiplies.
//
// Between two groups of four tile products the processor hides about 50 vector instructions, so in float32 a cell runs
// in five stages of about that size: about two per group with bfloat16 parts, four with float16 parts. In bfloat16,
// where a panel takes a sixth of the tile products, there are too few groups for that.
#pragma once
#include "amx_product.h"
#include "forward.h"

namespace jaxlstm {
namespace {

// The cells of some rows, from a multiple of 16 on, of one panel after another. `calls` is how often `advance` is
// called per panel.
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

}  // namespace
}  // namespace jaxlstm
