// A naive implementation of all three passes in float64, which shares no code with the kernels.
#pragma once
#include "problem.h"

namespace jaxlstm {

template <class T>
void naive_forward(const Problem<T>& p, Results<double>& results) {
  vector<double> h(p.h_0.begin(), p.h_0.end()), c(p.c_0.begin(), p.c_0.end());
  const long I = p.input_size, H = p.hidden_size, P = p.h_size, B = p.batch;
  auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  for (long s = 0; s < p.time; s++)
    for (long b = 0; b < B; b++) {
      const long row = (p.reverse ? p.time - 1 - s : s) * B + b;
      if (p.ragged && !p.valid[row]) continue;
      vector<double> z(4 * H), m(H);
      for (long k = 0; k < 4 * H; k++) {
        z[k] = p.has_bias ? p.bias[k] : 0;
        for (long j = 0; j < I; j++) z[k] += double(widen(p.weight_ih[k * I + j])) * widen(p.x[row * I + j]);
        for (long j = 0; j < P; j++) z[k] += double(widen(p.weight_hh[k * P + j])) * h[b * P + j];
      }
      for (long j = 0; j < H; j++) {
        const double i = sigmoid(z[j]), f = sigmoid(z[H + j]), g = std::tanh(z[2 * H + j]), o = sigmoid(z[3 * H + j]);
        const double c_before = c[b * H + j], c_next = f * c_before + i * g, tanh_c = std::tanh(c_next);
        c[b * H + j] = c_next, m[j] = o * tanh_c;
        double* by_gates = &results.by_gates[row * 4 * H + j];
        by_gates[0] = g * i * (1 - i), by_gates[H] = c_before * f * (1 - f);
        by_gates[2 * H] = i * (1 - g * g), by_gates[3 * H] = tanh_c * o * (1 - o);
        results.f[row * H + j] = f, results.m[row * H + j] = m[j];
        results.m_by_c[row * H + j] = o * (1 - tanh_c * tanh_c);
      }
      for (long j = 0; j < P; j++) {
        double h_next = p.projected ? 0 : m[j];
        for (long k = 0; k < H && p.projected; k++) h_next += double(widen(p.weight_hr[j * H + k])) * m[k];
        h[b * P + j] = h_next, results.y[row * P + j] = h_next;
      }
    }
  std::copy(h.begin(), h.end(), results.h_n.begin()), std::copy(c.begin(), c.end(), results.c_n.begin());
}

// Reads the derivatives by_gates, f and m_by_c from `results`.
template <class T>
void naive_backward(const Problem<T>& p, Results<double>& results) {
  const long H = p.hidden_size, P = p.h_size, B = p.batch;
  vector<double> grad_h(p.grad_h_n.begin(), p.grad_h_n.end()), grad_c(p.grad_c_n.begin(), p.grad_c_n.end());
  for (long s = p.time - 1; s >= 0; s--)
    for (long b = 0; b < B; b++) {
      const long row = (p.reverse ? p.time - 1 - s : s) * B + b;
      if (p.ragged && !p.valid[row]) continue;
      vector<double> grad_y(P), grad_z(4 * H);
      for (long j = 0; j < P; j++) grad_y[j] = grad_h[b * P + j] + widen(p.grad_y[row * P + j]);
      for (long j = 0; j < P && p.projected; j++) results.grad_projected[row * P + j] = grad_y[j];
      for (long j = 0; j < H; j++) {
        double grad_m = p.projected ? 0 : grad_y[j];
        for (long k = 0; k < P && p.projected; k++) grad_m += widen(p.weight_hr[k * H + j]) * grad_y[k];
        const double* by_gates = &results.by_gates[row * 4 * H + j];
        const double grad_c_next = grad_c[b * H + j] + results.m_by_c[row * H + j] * grad_m;
        for (long g = 0; g < 4; g++) grad_z[g * H + j] = by_gates[g * H] * (g < 3 ? grad_c_next : grad_m);
        grad_c[b * H + j] = results.f[row * H + j] * grad_c_next;
      }
      for (long j = 0; j < P; j++) {
        grad_h[b * P + j] = 0;
        for (long k = 0; k < 4 * H; k++) grad_h[b * P + j] += grad_z[k] * widen(p.weight_hh[k * P + j]);
      }
      for (long k = 0; k < 4 * H; k++) results.grad_gates[row * 4 * H + k] = grad_z[k];
    }
  std::copy(grad_h.begin(), grad_h.end(), results.grad_h_0.begin());
  std::copy(grad_c.begin(), grad_c.end(), results.grad_c_0.begin());
}

// Reads grad_gates and y from `results`.
template <class T>
void naive_gradients(const Problem<T>& p, Results<double>& results) {
  const long I = p.input_size, P = p.h_size, B = p.batch, G = p.gates;
  vector<double> weight_ih(G * I), weight_hh(G * P), bias(G);
  for (long t = 0; t < p.time; t++)
    for (long b = 0; b < B; b++) {
      const long row = t * B + b, previous = p.reverse ? 1 : -1;
      // In the reverse direction a ragged sequence starts at its own last step. The value of h elsewhere is irrelevant,
      // because the gradients of invalid steps are zero.
      const bool starts = p.reverse && p.ragged && t + 1 < p.time && !p.valid[row + B];
      const bool has_previous = t + previous >= 0 && t + previous < p.time && !starts;
      const auto h = [&](long j) { return has_previous ? results.y[(row + previous * B) * P + j] : p.h_0[b * P + j]; };
      vector<double> x(I);
      for (long k = 0; k < G; k++) {
        const double grad = results.grad_gates[row * G + k];
        bias[k] += grad;
        for (long j = 0; j < I; j++) x[j] += grad * widen(p.weight_ih[k * I + j]);
        for (long j = 0; j < I; j++) weight_ih[k * I + j] += grad * widen(p.x[row * I + j]);
        for (long j = 0; j < P; j++) weight_hh[k * P + j] += grad * h(j);
      }
      std::copy(x.begin(), x.end(), results.grad_x.begin() + row * I);
    }
  std::copy(weight_ih.begin(), weight_ih.end(), results.grad_weight_ih.begin());
  std::copy(weight_hh.begin(), weight_hh.end(), results.grad_weight_hh.begin());
  std::copy(bias.begin(), bias.end(), results.grad_bias.begin());
}

template <class T>
Results<double> naive(const Problem<T>& p) {
  Results<double> results(p, 0);
  naive_forward(p, results);
  naive_backward(p, results);
  naive_gradients(p, results);
  return results;
}

}  // namespace jaxlstm
