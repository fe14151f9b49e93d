// Random problems: sizes that are awkward for the kernels, and random arrays.
//
// Every array is allocated at its exact size, so that AddressSanitizer detects any access past its end.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

#include "half_conversion.h"

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
  template <class Number>
  Results(const Problem<Number>& p, double fill)
      : y(p.time * p.batch * p.h_size, rounded<T>(fill)), m(p.time * p.batch * p.hidden_size, rounded<T>(fill)),
        grad_projected(y), grad_x(p.x.size(), rounded<T>(fill)), grad_weight_ih(p.weight_ih.size(), rounded<T>(fill)),
        grad_weight_hh(p.weight_hh.size(), rounded<T>(fill)), h_n(p.batch * p.h_size, fill),
        c_n(p.batch * p.hidden_size, fill), by_gates(p.time * p.batch * p.gates, fill), f(m.size(), fill), m_by_c(f),
        grad_gates(by_gates), grad_h_0(h_n), grad_c_0(c_n), grad_bias(p.gates, fill) {}
};

}  // namespace jaxlstm
