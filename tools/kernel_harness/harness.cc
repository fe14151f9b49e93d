// The kernels without XLA: random problems against a naive implementation, for the sanitizers of a compiler.
//
//   harness [problems] [seed] [most threads]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <thread>

#include "instruction_sets.h"
#include "naive.h"
#include "team.h"

using namespace jaxlstm;

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
static const T* weight_hr_of(const Case<T>& c) { return c.projected ? c.weight_hr.data() : nullptr; }
template <class T>
static const uint8_t* valid_of(const Case<T>& c) { return c.ragged ? c.valid.data() : nullptr; }

template <class T>
static Forward<T> forward_of(const Case<T>& c, Answer<T>& a) {
  return {c.time, c.batch, c.input_size, c.hidden_size, c.h_size, c.reverse, c.x.data(), c.weight_ih.data(),
          c.weight_hh.data(), c.bias ? c.b.data() : nullptr, weight_hr_of(c), c.h_0.data(), c.c_0.data(), valid_of(c),
          a.y.data(), a.h_n.data(), a.c_n.data(), a.by_gates.data(), a.f.data(), a.m_by_c.data(), a.m.data(), nullptr};
}
template <class T>
static Backward<T> backward_of(const Case<T>& c, Answer<T>& a) {
  return {c.time, c.batch, c.hidden_size, c.h_size, c.reverse, c.weight_hh.data(), weight_hr_of(c),
          a.by_gates.data(), a.f.data(), a.m_by_c.data(), valid_of(c), c.grad_y.data(), c.grad_h_n.data(),
          c.grad_c_n.data(), a.grad_gates.data(), a.grad_projected.data(), a.grad_h_0.data(), a.grad_c_0.data()};
}
template <class T>
static Gradients<T> gradients_of(const Case<T>& c, Answer<T>& a, int threads) {
  return {c.time, c.batch, c.input_size, c.hidden_size, c.h_size, c.reverse, threads, a.grad_gates.data(),
          c.x.data(), a.y.data(), c.h_0.data(), valid_of(c), c.weight_ih.data(),
          c.wants & 1 ? a.grad_x.data() : nullptr, c.wants & 2 ? a.grad_weight_ih.data() : nullptr,
          c.wants & 4 ? a.grad_weight_hh.data() : nullptr, c.wants & 8 ? a.grad_bias.data() : nullptr};
}

// Filled beforehand, so that what is not written is seen.
template <class T>
static Answer<T> nothing_yet(const Case<T>& c) { return {c, std::numeric_limits<T>::quiet_NaN()}; }

template <class T>
static Answer<T> answer(const Case<T>& c, const KernelsOf<T>& kernels, int threads) {
  Answer<T> a = nothing_yet(c);
  run(forward_of(c, a), kernels.forward, threads);
  run(backward_of(c, a), kernels.backward, threads);
  run(gradients_of(c, a, threads), kernels.gradients, threads);
  return a;
}

// The arrays of an answer by their axes, time and rows or rows alone, and by the pass that they are of.
template <class T>
using Arrays = vector<vector<T> Answer<T>::*>;
template <class T>
static const Arrays<T> kForwardSteps{&Answer<T>::y, &Answer<T>::by_gates, &Answer<T>::f, &Answer<T>::m_by_c,
                                     &Answer<T>::m};
template <class T>
static const Arrays<T> kForwardStates{&Answer<T>::h_n, &Answer<T>::c_n};
template <class T>
static const Arrays<T> kBackwardSteps{&Answer<T>::grad_gates, &Answer<T>::grad_projected};
template <class T>
static const Arrays<T> kBackwardStates{&Answer<T>::grad_h_0, &Answer<T>::grad_c_0};

// Whether rows behind those of `wanted`, as many as a batch of `batch` has more, left its bits as they are.
template <class T>
static bool same_rows(const Arrays<T>& arrays, const Answer<T>& found, const Answer<T>& wanted, long times,
                      long rows, long batch) {
  for (const auto array : arrays)
    for (long t = 0; t < times; t++) {
      const size_t row = (wanted.*array).size() / (times * rows);
      const T *a = (found.*array).data() + t * batch * row, *e = (wanted.*array).data() + t * rows * row;
      if (std::memcmp(a, e, rows * row * sizeof(T))) return false;
    }
  return true;
}

// Whether weights that are packed once give the bits of `wanted` to several calls at the same time.
template <class T>
static bool prepared_agrees(const Case<T>& c, const KernelsOf<T>& kernels, int threads, Answer<T>& wanted) {
  constexpr int kCalls = 3;
  const Forward<T> unprepared = forward_of(c, wanted);
  T* prepared = static_cast<T*>(std::aligned_alloc(64, kernels.prepared_bytes(unprepared)));
  kernels.prepare_weights(unprepared, prepared);
  vector<Answer<T>> found(kCalls, nothing_yet(c));
  vector<std::thread> calls;
  for (Answer<T>& a : found)
    calls.emplace_back([&, p = forward_of(c, a)]() mutable {
      p.prepared = prepared, p.weight_ih = p.weight_hh = p.bias = nullptr;
      if (p.weight_hr) p.weight_hr = prepared;  // that there is a projection
      run(p, kernels.forward, threads);
    });
  for (std::thread& call : calls) call.join();
  std::free(prepared);
  return std::all_of(found.begin(), found.end(), [&](const Answer<T>& a) {
    return same_rows(kForwardSteps<T>, a, wanted, 1, c.batch, c.batch) &&
           same_rows(kForwardStates<T>, a, wanted, 1, c.batch, c.batch);
  });
}

// Whether rows of padding leave the others the bits of `wanted`.
template <class T>
static bool padded_agrees(const Case<T>& c, const KernelsOf<T>& kernels, int threads, const Answer<T>& wanted) {
  const Case<T> p = padded(c, pick({1, 3, 7, 16}));
  Answer<T> a = nothing_yet(p);
  run(forward_of(p, a), kernels.forward, threads);
  run(backward_of(p, a), kernels.backward, threads);
  return same_rows(kForwardSteps<T>, a, wanted, c.time, c.batch, p.batch) &&
         same_rows(kForwardStates<T>, a, wanted, 1, c.batch, p.batch) &&
         same_rows(kBackwardSteps<T>, a, wanted, c.time, c.batch, p.batch) &&
         same_rows(kBackwardStates<T>, a, wanted, 1, c.batch, p.batch);
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

// The largest error of all that the passes give and were asked for.
template <class T>
static double worst(const Case<T>& c, const Answer<T>& a, const Answer<T>& e) {
  return std::max({worst(a.y, e.y), worst(a.h_n, e.h_n), worst(a.c_n, e.c_n), worst(a.by_gates, e.by_gates),
                   worst(a.f, e.f), worst(a.m_by_c, e.m_by_c), worst(a.m, e.m), worst(a.grad_gates, e.grad_gates),
                   worst(a.grad_h_0, e.grad_h_0), worst(a.grad_c_0, e.grad_c_0),
                   c.projected ? worst(a.grad_projected, e.grad_projected) : 0,
                   c.wants & 1 ? worst(a.grad_x, e.grad_x) : 0,
                   c.wants & 2 ? worst(a.grad_weight_ih, e.grad_weight_ih) : 0,
                   c.wants & 4 ? worst(a.grad_weight_hh, e.grad_weight_hh) : 0,
                   c.wants & 8 ? worst(a.grad_bias, e.grad_bias) : 0});
}

template <class T>
static bool agrees(const Kernels& kernels, int threads) {
  const Case<T> c;
  const KernelsOf<T>& of = kernels.of<T>();
  Answer<T> a = answer(c, of, threads);
  const double error = worst(c, a, naive(c));
  const bool prepared = prepared_agrees(c, of, threads, a), padded = padded_agrees(c, of, threads, a);
  if (error < (sizeof(T) == 4 ? 2e-5 : 1e-13) && prepared && padded) return true;
  std::printf("%s float%zu T=%ld B=%ld I=%ld H=%ld P=%ld reverse=%d bias=%d ragged=%d threads=%d: off by %.2e%s%s\n",
              kernels.name, 8 * sizeof(T), c.time, c.batch, c.input_size, c.hidden_size, c.h_size, c.reverse, c.bias,
              c.ragged, threads, error, prepared ? "" : ", other bits with prepared weights",
              padded ? "" : ", other bits with padding");
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
