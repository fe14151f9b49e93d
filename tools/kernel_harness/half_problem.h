// Problems in half precision.
#pragma once
#include <cstdlib>
#include <utility>

#include "half_conversion.h"
#include "passes.h"

namespace jaxlstm {

// A problem whose weights, inputs and gradients of outputs are rounded to half precision, and its results.
template <class T>
struct HalfProblem {
  Problem<float> wide;
  vector<T> x = rounded(wide.x), weight_ih = rounded(wide.weight_ih), weight_hh = rounded(wide.weight_hh);
  vector<T> weight_hr = rounded(wide.weight_hr), h_0 = rounded(wide.h_0), grad_y = rounded(wide.grad_y);
  Results<float> results = unwritten(wide);
  vector<T> y = unwritten_like(results.y), m = unwritten_like(results.m);
  vector<T> grad_projected = unwritten_like(results.grad_projected), grad_x = unwritten_like(results.grad_x);
  vector<T> grad_weight_ih = unwritten_like(results.grad_weight_ih);
  vector<T> grad_weight_hh = unwritten_like(results.grad_weight_hh);

  static vector<T> rounded(vector<float>& values) {
    vector<T> halves(values.size());
    narrow(values.data(), halves.data(), long(values.size()));
    widen(halves.data(), values.data(), long(values.size()));
    return halves;
  }
  static vector<T> unwritten_like(const vector<float>& wide) { return vector<T>(wide.size(), T{0x7fff}); }  // NaN

  // Runs all passes, and widens the results.
  void solve(const Passes<T>& passes, int threads) {
    run(forward_arguments(), passes.forward, threads);
    run(backward_arguments(), passes.backward, threads);
    run(gradients_arguments(threads), passes.gradients, threads);
    widen_results();
  }
  void widen_results() {
    for (const auto& [half, wide] : {std::pair(&y, &results.y), std::pair(&m, &results.m),
                                     std::pair(&grad_projected, &results.grad_projected),
                                     std::pair(&grad_x, &results.grad_x),
                                     std::pair(&grad_weight_ih, &results.grad_weight_ih),
                                     std::pair(&grad_weight_hh, &results.grad_weight_hh)})
      widen(half->data(), wide->data(), long(half->size()));
  }

  BackwardArguments<T> backward_arguments() {
    const Problem<float>& p = wide;
    Results<float>& r = results;
    return {p.time, p.batch, p.hidden_size, p.h_size, p.reverse, weight_hh.data(),
            p.projected ? weight_hr.data() : nullptr, r.by_gates.data(), r.f.data(), r.m_by_c.data(), valid_of(p),
            grad_y.data(), p.grad_h_n.data(), p.grad_c_n.data(), r.grad_gates.data(), grad_projected.data(),
            r.grad_h_0.data(), r.grad_c_0.data()};
  }
  GradientsArguments<T> gradients_arguments(int threads) {
    const Problem<float>& p = wide;
    return {p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse, threads, results.grad_gates.data(),
            x.data(), y.data(), h_0.data(), valid_of(p), weight_ih.data(),
            p.requested & kGradX ? grad_x.data() : nullptr,
            p.requested & kGradWeightIh ? grad_weight_ih.data() : nullptr,
            p.requested & kGradWeightHh ? grad_weight_hh.data() : nullptr,
            p.requested & kGradBias ? results.grad_bias.data() : nullptr};
  }
  ForwardArguments<T> forward_arguments() {
    const Problem<float>& p = wide;
    Results<float>& r = results;
    return {p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse, x.data(), weight_ih.data(),
            weight_hh.data(), p.has_bias ? p.bias.data() : nullptr, p.projected ? weight_hr.data() : nullptr,
            p.h_0.data(), p.c_0.data(), valid_of(p), y.data(), r.h_n.data(), r.c_n.data(), r.by_gates.data(),
            r.f.data(), r.m_by_c.data(), m.data(), nullptr};
  }
};

// Packs the weights as the instruction set takes them: in T, or widened to float32.
template <class T>
static void* prepared_weights(const InstructionSet& instruction_set, HalfProblem<T>& problem) {
  const auto pack = [](const auto& passes, const auto& arguments) {
    void* prepared = std::aligned_alloc(64, passes.prepared_bytes(arguments));
    passes.prepare_weights(arguments, prepared);
    return prepared;
  };
  if (instruction_set.multiplies<T>()) return pack(instruction_set.passes<T>(), problem.forward_arguments());
  return pack(instruction_set.passes<float>(), forward_arguments(problem.wide, problem.results));
}

}  // namespace jaxlstm
