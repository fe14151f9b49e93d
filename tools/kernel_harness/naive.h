// Random problems, and a naive implementation of all three passes that has nothing in common with the kernels.
//
// Every array is allocated to its exact size, so that AddressSanitizer sees each element too far.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

namespace jaxlstm {

using std::vector;

inline std::mt19937 engine;

inline long pick(std::initializer_list<long> choices) {
  return *(choices.begin() + std::uniform_int_distribution<size_t>(0, choices.size() - 1)(engine));
}

template <class T>
vector<T> random_array(long count, double scale = 1) {
  std::normal_distribution<double> normal(0, scale);
  vector<T> array(count);
  for (T& x : array) x = T(normal(engine));
  return array;
}

template <class T>
struct Case {
  long time, batch, input_size, hidden_size, h_size, gates, wants;  // wants: which of the gradients, by bits
  bool reverse, bias, projected, ragged;
  vector<T> x, weight_ih, weight_hh, b, weight_hr, h_0, c_0, grad_y, grad_h_n, grad_c_n;
  vector<uint8_t> valid;

  Case() {
    time = pick({1, 2, 3, 9, 20}), batch = pick({1, 2, 3, 4, 5, 7, 13, 16, 29, 33, 48});
    input_size = pick({1, 3, 8, 40}), hidden_size = pick({1, 2, 7, 8, 16, 17, 33, 65, 130});
    projected = pick({0, 0, 1}) && hidden_size > 1, bias = pick({0, 1}), ragged = pick({0, 1}), reverse = pick({0, 1});
    h_size = projected ? 1 + hidden_size / 2 : hidden_size, gates = 4 * hidden_size;
    wants = pick({15, 15, 15, 1, 2, 4, 8, 11, 14});
    const double scale = 1 / std::sqrt(double(hidden_size));
    x = random_array<T>(time * batch * input_size), weight_ih = random_array<T>(gates * input_size, scale);
    weight_hh = random_array<T>(gates * h_size, scale), b = random_array<T>(gates, scale);
    weight_hr = random_array<T>(projected ? h_size * hidden_size : 0, scale);
    h_0 = random_array<T>(batch * h_size), c_0 = random_array<T>(batch * hidden_size);
    grad_y = random_array<T>(time * batch * h_size), grad_h_n = random_array<T>(batch * h_size);
    grad_c_n = random_array<T>(batch * hidden_size), valid.resize(time * batch);
    vector<long> lengths(batch);
    const long longest = pick({0, 1, time / 2, time, time});
    for (long& length : lengths) length = std::uniform_int_distribution<long>(0, longest)(engine);
    const long order = pick({0, 1, 2});  // as they come; the longest first; steps that are valid here and there
    if (order == 1) std::sort(lengths.rbegin(), lengths.rend());
    for (long row = 0; row < batch; row++)
      for (long t = 0; t < time; t++) valid[t * batch + row] = order == 2 ? pick({0, 0, 0, 1}) : t < lengths[row];
  }
};

// With `more` rows behind the others of each of `times` steps.
template <class T>
vector<T> padded(const vector<T>& array, long times, long rows, long more, double fill) {
  const long step = array.size() / times;
  vector<T> out;
  for (auto from = array.begin(); from != array.end(); from += step) {
    out.insert(out.end(), from, from + step);
    out.insert(out.end(), step / rows * more, T(fill));
  }
  return out;
}
// The same with rows that have no step, and zeros or NaN in what is not to be read of them.
template <class T>
Case<T> padded(const Case<T>& c, long more) {
  const double fill = pick({0, 1}) ? NAN : 0;
  Case<T> p = c;
  if (!c.ragged) std::fill(p.valid.begin(), p.valid.end(), 1);
  p.batch += more, p.ragged = true, p.valid = padded(p.valid, c.time, c.batch, more, 0);
  p.x = padded(c.x, c.time, c.batch, more, fill);
  p.h_0 = padded(c.h_0, 1, c.batch, more, fill), p.c_0 = padded(c.c_0, 1, c.batch, more, fill);
  p.grad_y = padded(c.grad_y, c.time, c.batch, more, 0);
  p.grad_h_n = padded(c.grad_h_n, 1, c.batch, more, 0), p.grad_c_n = padded(c.grad_c_n, 1, c.batch, more, 0);
  return p;
}

template <class T>
struct Answer {
  vector<T> y, h_n, c_n, by_gates, f, m_by_c, m, grad_gates, grad_projected, grad_h_0, grad_c_0;
  vector<T> grad_x, grad_weight_ih, grad_weight_hh, grad_bias;
  Answer(const Case<T>& c, T fill)
      : y(c.time * c.batch * c.h_size, fill), h_n(c.batch * c.h_size, fill), c_n(c.batch * c.hidden_size, fill),
        by_gates(c.time * c.batch * c.gates, fill), f(c.time * c.batch * c.hidden_size, fill), m_by_c(f), m(f),
        grad_gates(by_gates), grad_projected(y), grad_h_0(h_n), grad_c_0(c_n), grad_x(c.x.size(), fill),
        grad_weight_ih(c.weight_ih.size(), fill), grad_weight_hh(c.weight_hh.size(), fill), grad_bias(c.gates, fill) {}
};

template <class T>
void naive_forward(const Case<T>& c, Answer<T>& a) {
  vector<double> h(c.h_0.begin(), c.h_0.end()), cell(c.c_0.begin(), c.c_0.end());
  const long I = c.input_size, H = c.hidden_size, P = c.h_size, B = c.batch;
  auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  for (long s = 0; s < c.time; s++)
    for (long r = 0; r < B; r++) {
      const long at = (c.reverse ? c.time - 1 - s : s) * B + r;
      if (c.ragged && !c.valid[at]) continue;
      vector<double> z(4 * H), m(H);
      for (long k = 0; k < 4 * H; k++) {
        z[k] = c.bias ? c.b[k] : 0;
        for (long j = 0; j < I; j++) z[k] += double(c.weight_ih[k * I + j]) * c.x[at * I + j];
        for (long j = 0; j < P; j++) z[k] += double(c.weight_hh[k * P + j]) * h[r * P + j];
      }
      for (long j = 0; j < H; j++) {
        const double i = sigmoid(z[j]), f = sigmoid(z[H + j]), g = std::tanh(z[2 * H + j]), o = sigmoid(z[3 * H + j]);
        const double before = cell[r * H + j], after = f * before + i * g, tanh_c = std::tanh(after);
        cell[r * H + j] = after, m[j] = o * tanh_c;
        T* by = &a.by_gates[at * 4 * H + j];
        by[0] = T(g * i * (1 - i)), by[H] = T(before * f * (1 - f)), by[2 * H] = T(i * (1 - g * g));
        by[3 * H] = T(tanh_c * o * (1 - o));
        a.f[at * H + j] = T(f), a.m_by_c[at * H + j] = T(o * (1 - tanh_c * tanh_c)), a.m[at * H + j] = T(m[j]);
      }
      for (long j = 0; j < P; j++) {
        double out = c.projected ? 0 : m[j];
        if (c.projected)
          for (long k = 0; k < H; k++) out += double(c.weight_hr[j * H + k]) * m[k];
        h[r * P + j] = out, a.y[at * P + j] = T(out);
      }
    }
  std::copy(h.begin(), h.end(), a.h_n.begin()), std::copy(cell.begin(), cell.end(), a.c_n.begin());
}

// From the derivative of each step in a.
template <class T>
void naive_backward(const Case<T>& c, Answer<T>& a) {
  const long H = c.hidden_size, P = c.h_size, B = c.batch;
  vector<double> grad_h(c.grad_h_n.begin(), c.grad_h_n.end()), grad_c(c.grad_c_n.begin(), c.grad_c_n.end());
  for (long s = c.time - 1; s >= 0; s--)
    for (long r = 0; r < B; r++) {
      const long at = (c.reverse ? c.time - 1 - s : s) * B + r;
      if (c.ragged && !c.valid[at]) continue;
      vector<double> grad(P), dz(4 * H);
      for (long j = 0; j < P; j++) grad[j] = grad_h[r * P + j] + c.grad_y[at * P + j];
      for (long j = 0; j < P && c.projected; j++) a.grad_projected[at * P + j] = T(grad[j]);
      for (long j = 0; j < H; j++) {
        double grad_m = c.projected ? 0 : grad[j];
        for (long k = 0; k < P && c.projected; k++) grad_m += c.weight_hr[k * H + j] * grad[k];
        const T* by = &a.by_gates[at * 4 * H + j];
        const double next = grad_c[r * H + j] + a.m_by_c[at * H + j] * grad_m;
        for (long g = 0; g < 4; g++) dz[g * H + j] = by[g * H] * (g < 3 ? next : grad_m);
        grad_c[r * H + j] = a.f[at * H + j] * next;
      }
      for (long j = 0; j < P; j++) {
        grad_h[r * P + j] = 0;
        for (long k = 0; k < 4 * H; k++) grad_h[r * P + j] += dz[k] * c.weight_hh[k * P + j];
      }
      for (long k = 0; k < 4 * H; k++) a.grad_gates[at * 4 * H + k] = T(dz[k]);
    }
  std::copy(grad_h.begin(), grad_h.end(), a.grad_h_0.begin());
  std::copy(grad_c.begin(), grad_c.end(), a.grad_c_0.begin());
}

// From a.grad_gates and a.y.
template <class T>
void naive_gradients(const Case<T>& c, Answer<T>& a) {
  const long I = c.input_size, P = c.h_size, B = c.batch, G = c.gates;
  vector<double> weight_ih(G * I), weight_hh(G * P), bias(G);
  for (long t = 0; t < c.time; t++)
    for (long r = 0; r < B; r++) {
      const long at = t * B + r, step = c.reverse ? 1 : -1;
      // As in jaxlstm/scan.py, states_before: valid steps are a beginning, and what holds in gaps is no matter.
      const bool begins = c.reverse && c.ragged && t + 1 < c.time && !c.valid[at + B];
      const bool has_before = t + step >= 0 && t + step < c.time && !begins;
      const T* h = has_before ? &a.y[(at + step * B) * P] : &c.h_0[r * P];
      vector<double> x(I);
      for (long k = 0; k < G; k++) {
        const double grad = a.grad_gates[at * G + k];
        bias[k] += grad;
        for (long j = 0; j < I; j++) x[j] += grad * c.weight_ih[k * I + j];
        for (long j = 0; j < I; j++) weight_ih[k * I + j] += grad * c.x[at * I + j];
        for (long j = 0; j < P; j++) weight_hh[k * P + j] += grad * h[j];
      }
      std::copy(x.begin(), x.end(), a.grad_x.begin() + at * I);
    }
  std::copy(weight_ih.begin(), weight_ih.end(), a.grad_weight_ih.begin());
  std::copy(weight_hh.begin(), weight_hh.end(), a.grad_weight_hh.begin());
  std::copy(bias.begin(), bias.end(), a.grad_bias.begin());
}

template <class T>
Answer<T> naive(const Case<T>& c) {
  Answer<T> a(c, 0);
  naive_forward(c, a);
  naive_backward(c, a);
  naive_gradients(c, a);
  return a;
}

}  // namespace jaxlstm
