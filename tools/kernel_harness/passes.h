// Passes on the arrays of a problem, on new threads or on the helper threads of the process.
#pragma once
#include <cstdlib>
#include <thread>

#include "helpers.h"
#include "instruction_sets.h"
#include "problem.h"
#include "team.h"

namespace jaxlstm {

template <class Arguments>
static void run(const Arguments& arguments, const Pass<Arguments>& pass, int threads) {
  void* scratch = std::aligned_alloc(64, (pass.scratch_bytes(arguments) + 63) / 64 * 64);
  vector<std::thread> helpers;
  run_as_team(threads, 1.0, [&](auto task) { helpers.emplace_back(task); },
              [&](int thread, int size, Barrier& barrier) { pass.run(arguments, scratch, thread, size, barrier); });
  for (auto& helper : helpers) helper.join();
  std::free(scratch);
}

// As run, on the helper threads of the process. A call with a long estimate waits for sleeping helpers.
template <class Arguments>
static void run_with_helpers(const Arguments& arguments, const Pass<Arguments>& pass, int threads, int spin,
                             bool is_long) {
  void* scratch = std::aligned_alloc(64, (pass.scratch_bytes(arguments) + 63) / 64 * 64);
  Helpers::of_process().run(threads, is_long ? 0.01 : 1e-6, std::chrono::microseconds(spin),
      [&](int thread, int size, Barrier& barrier) { pass.run(arguments, scratch, thread, size, barrier); });
  std::free(scratch);
}

template <class T>
static const T* weight_hr_of(const Problem<T>& p) { return p.projected ? p.weight_hr.data() : nullptr; }
template <class T>
static const uint8_t* valid_of(const Problem<T>& p) { return p.ragged ? p.valid.data() : nullptr; }

template <class T>
static ForwardArguments<T> forward_arguments(const Problem<T>& p, Results<T>& r) {
  return {p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse, p.x.data(), p.weight_ih.data(),
          p.weight_hh.data(), p.has_bias ? p.bias.data() : nullptr, weight_hr_of(p), p.h_0.data(), p.c_0.data(),
          valid_of(p), r.y.data(), r.h_n.data(), r.c_n.data(), r.by_gates.data(), r.f.data(), r.m_by_c.data(),
          r.m.data(), nullptr};
}
template <class T>
static BackwardArguments<T> backward_arguments(const Problem<T>& p, Results<T>& r) {
  return {p.time, p.batch, p.hidden_size, p.h_size, p.reverse, p.weight_hh.data(), weight_hr_of(p),
          r.by_gates.data(), r.f.data(), r.m_by_c.data(), valid_of(p), p.grad_y.data(), p.grad_h_n.data(),
          p.grad_c_n.data(), r.grad_gates.data(), r.grad_projected.data(), r.grad_h_0.data(), r.grad_c_0.data()};
}
template <class T>
static GradientsArguments<T> gradients_arguments(const Problem<T>& p, Results<T>& r, int threads) {
  return {p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse, threads, r.grad_gates.data(),
          p.x.data(), r.y.data(), p.rounded_h_0.data(), valid_of(p), p.weight_ih.data(),
          p.requested & kGradX ? r.grad_x.data() : nullptr,
          p.requested & kGradWeightIh ? r.grad_weight_ih.data() : nullptr,
          p.requested & kGradWeightHh ? r.grad_weight_hh.data() : nullptr,
          p.requested & kGradBias ? r.grad_bias.data() : nullptr};
}

// Fills the results with NaN, which reveals elements that a kernel does not write.
template <class T>
static Results<T> unwritten(const Problem<T>& p) { return {p, NAN}; }

// Packs the weights as the instruction set takes them: in T, or widened to float32.
template <class T>
static void* prepared_weights(const InstructionSet& instruction_set, const Problem<T>& p) {
  Results<T> unused = unwritten(p);
  const auto pack = [](const auto& passes, const auto& arguments) {
    void* prepared = std::aligned_alloc(64, passes.prepared_bytes(arguments));
    passes.prepare_weights(arguments, prepared);
    return prepared;
  };
  const ForwardArguments<T> arguments = forward_arguments(p, unused);
  if (instruction_set.multiplies<T>()) return pack(instruction_set.passes<T>(), arguments);
  const auto weight_ih = widened(p.weight_ih), weight_hh = widened(p.weight_hh), weight_hr = widened(p.weight_hr);
  ForwardArguments<Wide<T>> wide{p.time, p.batch, p.input_size, p.hidden_size, p.h_size};
  wide.weight_ih = weight_ih.data(), wide.weight_hh = weight_hh.data(), wide.bias = arguments.bias;
  wide.weight_hr = p.projected ? weight_hr.data() : nullptr;
  return pack(instruction_set.passes<Wide<T>>(), wide);
}

}  // namespace jaxlstm
