// The kernels without XLA: random problems against a naive implementation, for the sanitizers of a compiler.
//
//   harness [problems] [seed] [most threads]
//
// Every array is allocated to its exact size, so that AddressSanitizer sees each element too far.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "instruction_sets.h"
#include "team.h"

using namespace jaxlstm;
using std::vector;

static std::mt19937 engine;

static long pick(std::initializer_list<long> choices) {
  return *(choices.begin() + std::uniform_int_distribution<size_t>(0, choices.size() - 1)(engine));
}

template <class T>
static vector<T> random_array(long count, double scale = 1) {
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

// From a.grad_gates and a.y.
template <class T>
static void naive_gradients(const Case<T>& c, Answer<T>& a) {
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
static Answer<T> naive(const Case<T>& c) {
  Answer<T> a(c, 0);
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
  naive_gradients(c, a);
  return a;
}

template <class Problem>
static void run(const Problem& p, const Kernel<Problem>& kernel, int threads) {
  void* scratch = std::aligned_alloc(64, (kernel.scratch_bytes(p) + 63) / 64 * 64);
  vector<std::thread> helpers;
  run_as_team(threads, 0.01, [&](auto task) { helpers.emplace_back(task); },
              [&](int thread, int size, Barrier& barrier) { kernel.run(p, scratch, thread, size, barrier); });
  for (auto& helper : helpers) helper.join();
  std::free(scratch);
}

template <class T>
static Answer<T> answer(const Case<T>& c, const Kernels& kernels, int threads) {
  Answer<T> a(c, std::numeric_limits<T>::quiet_NaN());  // so that what is not written is seen
  const uint8_t* valid = c.ragged ? c.valid.data() : nullptr;
  const T* weight_hr = c.projected ? c.weight_hr.data() : nullptr;
  Forward<T> f{c.time, c.batch, c.input_size, c.hidden_size, c.h_size, c.reverse, c.x.data(), c.weight_ih.data(),
               c.weight_hh.data(), c.bias ? c.b.data() : nullptr, weight_hr, c.h_0.data(), c.c_0.data(), valid,
               a.y.data(), a.h_n.data(), a.c_n.data(), a.by_gates.data(), a.f.data(), a.m_by_c.data(), a.m.data()};
  Backward<T> b{c.time, c.batch, c.hidden_size, c.h_size, c.reverse, c.weight_hh.data(), weight_hr, a.by_gates.data(),
                a.f.data(), a.m_by_c.data(), valid, c.grad_y.data(), c.grad_h_n.data(), c.grad_c_n.data(),
                a.grad_gates.data(), a.grad_projected.data(), a.grad_h_0.data(), a.grad_c_0.data()};
  Gradients<T> g{c.time, c.batch, c.input_size, c.hidden_size, c.h_size, c.reverse, threads, a.grad_gates.data(),
                 c.x.data(), a.y.data(), c.h_0.data(), valid, c.weight_ih.data(),
                 c.wants & 1 ? a.grad_x.data() : nullptr, c.wants & 2 ? a.grad_weight_ih.data() : nullptr,
                 c.wants & 4 ? a.grad_weight_hh.data() : nullptr, c.wants & 8 ? a.grad_bias.data() : nullptr};
  const KernelsOf<T>& of = kernels.of<T>();
  run(f, of.forward, threads), run(b, of.backward, threads), run(g, of.gradients, threads);
  return a;
}

template <class T>
static double worst(const vector<T>& actual, const vector<T>& expected) {
  double largest = 1, error = 0;
  for (size_t i = 0; i < actual.size(); i++) {
    largest = std::max(largest, std::fabs(double(expected[i])));
    const double e = std::fabs(double(actual[i]) - double(expected[i]));
    error = e <= error ? error : e == e ? e : HUGE_VAL;
  }
  return error / largest;
}

template <class T>
static bool agrees(const Kernels& kernels, int threads) {
  const Case<T> c;
  const Answer<T> a = answer(c, kernels, threads), e = naive(c);
  const double error = std::max({worst(a.y, e.y), worst(a.h_n, e.h_n), worst(a.c_n, e.c_n),
                                 worst(a.by_gates, e.by_gates), worst(a.f, e.f), worst(a.m_by_c, e.m_by_c),
                                 worst(a.m, e.m), worst(a.grad_gates, e.grad_gates),
                                 c.projected ? worst(a.grad_projected, e.grad_projected) : 0,
                                 worst(a.grad_h_0, e.grad_h_0), worst(a.grad_c_0, e.grad_c_0),
                                 c.wants & 1 ? worst(a.grad_x, e.grad_x) : 0,
                                 c.wants & 2 ? worst(a.grad_weight_ih, e.grad_weight_ih) : 0,
                                 c.wants & 4 ? worst(a.grad_weight_hh, e.grad_weight_hh) : 0,
                                 c.wants & 8 ? worst(a.grad_bias, e.grad_bias) : 0});
  if (error < (sizeof(T) == 4 ? 2e-5 : 1e-13)) return true;
  std::printf("%s float%zu T=%ld B=%ld I=%ld H=%ld P=%ld reverse=%d bias=%d ragged=%d threads=%d: off by %.2e\n",
              kernels.name, 8 * sizeof(T), c.time, c.batch, c.input_size, c.hidden_size, c.h_size, c.reverse, c.bias,
              c.ragged, threads, error);
  return false;
}

int main(int count, char** words) {
  const int problems = count > 1 ? std::atoi(words[1]) : 200;
  engine.seed(count > 2 ? std::atoi(words[2]) : 0);
  const int most_threads = count > 3 ? std::atoi(words[3]) : 4;
  vector<const Kernels*> all;
  for (const Kernels* kernels : kAllKernels)
    if (runs_here(*kernels)) all.push_back(kernels);
  int wrong = 0;
  for (int i = 0; i < problems; i++) {
    const Kernels& kernels = *all[i % all.size()];
    const int threads = 1 + int(engine() % most_threads);
    wrong += !(i / all.size() % 2 ? agrees<double>(kernels, threads) : agrees<float>(kernels, threads));
  }
  std::printf("%d problems, %d wrong\n", problems, wrong);
  return wrong != 0;
}
