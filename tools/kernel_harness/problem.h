// Random problems, with sizes that are awkward for the kernels, and passes on their arrays.
//
// Every array is allocated at its exact size, so that AddressSanitizer detects any access past its end.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <thread>
#include <vector>

#include "half.h"
#include "instruction_sets.h"
#include "team.h"

namespace jaxlstm {

using std::vector;

inline std::mt19937 engine;

inline long pick(std::initializer_list<long> choices) {
  return *(choices.begin() + std::uniform_int_distribution<size_t>(0, choices.size() - 1)(engine));
}

// Returns a number rounded to type T, which may be half precision.
template <class T>
T rounded(double value) {
  T result;
  if constexpr (kIsHalf<T>) narrow(float(value), result);
  else result = T(value);
  return result;
}
template <class T>
vector<T> random_array(long count, double scale = 1) {
  std::normal_distribution<double> normal(0, scale);
  vector<T> array(count);
  for (T& x : array) x = rounded<T>(normal(engine));
  return array;
}
template <class T>
vector<Wide<T>> widened(const vector<T>& array) {
  vector<Wide<T>> wide(array.size());
  for (size_t i = 0; i < wide.size(); i++) wide[i] = widen(array[i]);
  return wide;
}

// Bits of Problem::requested.
constexpr long kGradX = 1, kGradWeightIh = 2, kGradWeightHh = 4, kGradBias = 8, kAllGradients = 15;

// The inputs of all three passes, named as in arguments.h.
template <class T>
struct Problem {
  long time, batch, input_size, hidden_size, h_size, gates;
  long requested;  // results of the gradients pass
  bool reverse, has_bias, projected, ragged;
  vector<T> x, weight_ih, weight_hh, weight_hr, rounded_h_0, grad_y;
  vector<Wide<T>> bias, h_0, c_0, grad_h_n, grad_c_n;
  vector<uint8_t> valid;

  Problem() {
    time = pick({1, 2, 3, 9, 20}), batch = pick({1, 2, 3, 4, 5, 7, 13, 16, 29, 33, 48, 67, 100});
    input_size = pick({1, 3, 8, 40, 40}), hidden_size = pick({1, 2, 7, 8, 16, 17, 33, 65, 130, 130});
    projected = pick({0, 0, 1}) && hidden_size > 2;  // as in torch, h_size is then smaller than hidden_size
    has_bias = pick({0, 1}), ragged = pick({0, 1}), reverse = pick({0, 1});
    h_size = projected ? 1 + hidden_size / 2 : hidden_size, gates = 4 * hidden_size;
    requested = pick({kAllGradients, kAllGradients, kAllGradients, kGradX, kGradWeightIh, kGradWeightHh, kGradBias,
                      kGradX | kGradWeightIh | kGradBias, kAllGradients & ~kGradX});
    const double scale = 1 / std::sqrt(double(hidden_size));
    x = random_array<T>(time * batch * input_size), weight_ih = random_array<T>(gates * input_size, scale);
    weight_hh = random_array<T>(gates * h_size, scale), bias = random_array<Wide<T>>(gates, scale);
    weight_hr = random_array<T>(projected ? h_size * hidden_size : 0, scale);
    rounded_h_0 = random_array<T>(batch * h_size), h_0 = widened(rounded_h_0);
    c_0 = random_array<Wide<T>>(batch * hidden_size);
    grad_y = random_array<T>(time * batch * h_size), grad_h_n = random_array<Wide<T>>(batch * h_size);
    grad_c_n = random_array<Wide<T>>(batch * hidden_size), valid = random_valid();
  }
  // The same problem in float64.
  template <class Narrow>
  explicit Problem(const Problem<Narrow>& p)
      : time(p.time), batch(p.batch), input_size(p.input_size), hidden_size(p.hidden_size), h_size(p.h_size),
        gates(p.gates), requested(p.requested), reverse(p.reverse), has_bias(p.has_bias), projected(p.projected),
        ragged(p.ragged), valid(p.valid) {
    const auto copy = [](const auto& from, vector<double>& to) {
      to.resize(from.size());
      std::transform(from.begin(), from.end(), to.begin(), [](auto number) { return double(widen(number)); });
    };
    copy(p.x, x), copy(p.weight_ih, weight_ih), copy(p.weight_hh, weight_hh), copy(p.weight_hr, weight_hr);
    copy(p.rounded_h_0, rounded_h_0), copy(p.grad_y, grad_y), copy(p.bias, bias), copy(p.h_0, h_0), copy(p.c_0, c_0);
    copy(p.grad_h_n, grad_h_n), copy(p.grad_c_n, grad_c_n);
  }

 private:
  // Draws lengths in random or descending order, or valid steps that are scattered over time.
  vector<uint8_t> random_valid() const {
    vector<uint8_t> steps(time * batch);
    vector<long> lengths(batch);
    const long longest = pick({0, 1, time / 2, time, time});
    for (long& length : lengths) length = std::uniform_int_distribution<long>(0, longest)(engine);
    constexpr long kRandom = 0, kDescending = 1, kScattered = 2;
    const long order = pick({kRandom, kDescending, kScattered});
    if (order == kDescending) std::sort(lengths.rbegin(), lengths.rend());
    for (long row = 0; row < batch; row++)
      for (long t = 0; t < time; t++)
        steps[t * batch + row] = order == kScattered ? pick({0, 0, 0, 1}) : t < lengths[row];
    return steps;
  }
};

// Appends `padding` rows to each of `times` steps of an array.
template <class T>
vector<T> pad(const vector<T>& array, long times, long rows, long padding, double fill) {
  const long step = array.size() / times;
  vector<T> out;
  for (auto from = array.begin(); from != array.end(); from += step) {
    out.insert(out.end(), from, from + step);
    out.insert(out.end(), step / rows * padding, rounded<T>(fill));
  }
  return out;
}
// Appends `padding` rows without valid steps. Their inputs are zero or NaN, since no pass may read them.
template <class T>
Problem<T> pad(const Problem<T>& problem, long padding) {
  const double fill = pick({0, 1}) ? NAN : 0;
  const long time = problem.time, batch = problem.batch;
  Problem<T> p = problem;
  if (!p.ragged) std::fill(p.valid.begin(), p.valid.end(), 1);
  p.batch += padding, p.ragged = true, p.valid = pad(p.valid, time, batch, padding, 0);
  p.x = pad(p.x, time, batch, padding, fill);
  p.rounded_h_0 = pad(p.rounded_h_0, 1, batch, padding, fill);
  p.h_0 = pad(p.h_0, 1, batch, padding, fill), p.c_0 = pad(p.c_0, 1, batch, padding, fill);
  p.grad_y = pad(p.grad_y, time, batch, padding, 0);
  p.grad_h_n = pad(p.grad_h_n, 1, batch, padding, 0), p.grad_c_n = pad(p.grad_c_n, 1, batch, padding, 0);
  return p;
}

// The results of all three passes, filled with a number.
template <class T>
struct Results {
  vector<T> y, m, grad_projected, grad_x, grad_weight_ih, grad_weight_hh;
  vector<Wide<T>> h_n, c_n, by_gates, f, m_by_c, grad_gates, grad_h_0, grad_c_0, grad_bias;
  Results(const Problem<T>& p, double fill)
      : y(p.time * p.batch * p.h_size, rounded<T>(fill)), m(p.time * p.batch * p.hidden_size, rounded<T>(fill)),
        grad_projected(y), grad_x(p.x.size(), rounded<T>(fill)), grad_weight_ih(p.weight_ih.size(), rounded<T>(fill)),
        grad_weight_hh(p.weight_hh.size(), rounded<T>(fill)), h_n(p.batch * p.h_size, fill),
        c_n(p.batch * p.hidden_size, fill), by_gates(p.time * p.batch * p.gates, fill), f(m.size(), fill), m_by_c(f),
        grad_gates(by_gates), grad_h_0(h_n), grad_c_0(c_n), grad_bias(p.gates, fill) {}
};

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
