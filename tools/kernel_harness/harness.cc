// Runs the kernels on random problems without XLA, and compares the results with a naive implementation.
//
//   harness [problems] [seed] [max threads]
//
// Each problem runs on one of the instruction sets of this machine, in one of the dtypes. Its results must agree
// within rounding. In addition, weights packed once and used by concurrent calls must give the same bits, and so must a
// batch with rows of padding, and a stack of layers in one call. Some calls share the helper threads of the process.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "naive.h"
#include "passes.h"
#include "stack_problem.h"

using namespace jaxlstm;

template <class T>
static Results<T> solve(const Problem<T>& p, const Passes<T>& passes, int threads) {
  Results<T> r = unwritten(p);
  run(forward_arguments(p, r), passes.forward, threads);
  run(backward_arguments(p, r), passes.backward, threads);
  run(gradients_arguments(p, r, threads), passes.gradients, threads);
  return r;
}

// Returns a comparison of two arrays of `times` steps: true if the first `rows` rows of `actual`, whose batch is
// `batch`, have the bits of `expected`.
static auto same_rows(long times, long rows, long batch) {
  return [=](const auto& actual, const auto& expected) {
    const size_t row = expected.size() / (times * rows);
    for (long t = 0; t < times; t++)
      if (std::memcmp(actual.data() + t * batch * row, expected.data() + t * rows * row, rows * row * sizeof actual[0]))
        return false;
    return true;
  };
}
// Compare the results of a pass: arrays with the axes (time, row, ...) by `steps`, and (row, ...) by `states`.
template <class T, class Steps, class States>
static bool same_forward(const Results<T>& a, const Results<T>& e, const Steps& steps, const States& states) {
  return steps(a.y, e.y) && steps(a.by_gates, e.by_gates) && steps(a.f, e.f) && steps(a.m_by_c, e.m_by_c) &&
         steps(a.m, e.m) && states(a.h_n, e.h_n) && states(a.c_n, e.c_n);
}
template <class T, class Steps, class States>
static bool same_backward(const Results<T>& a, const Results<T>& e, const Steps& steps, const States& states) {
  return steps(a.grad_gates, e.grad_gates) && steps(a.grad_projected, e.grad_projected) &&
         states(a.grad_h_0, e.grad_h_0) && states(a.grad_c_0, e.grad_c_0);
}

// Returns true if weights packed once give the bits of `expected` to several concurrent calls.
template <class T>
static bool prepared_agrees(const Problem<T>& p, const InstructionSet& instruction_set, int threads,
                            const Results<T>& expected) {
  constexpr int kCalls = 3;
  void* const prepared = prepared_weights(instruction_set, p);
  vector<Results<T>> actual(kCalls, unwritten(p));
  vector<std::thread> calls;
  for (Results<T>& r : actual)
    calls.emplace_back([&, arguments = forward_arguments(p, r), spin = int(pick({0, 50, 1000})),
                        is_long = pick({0, 1}) == 1]() mutable {
      arguments.prepared = prepared, arguments.weight_ih = arguments.weight_hh = nullptr, arguments.bias = nullptr;
      if (arguments.weight_hr) arguments.weight_hr = static_cast<const T*>(prepared);  // any non-null pointer
      run_with_helpers(arguments, instruction_set.passes<T>().forward, threads, spin, is_long);
    });
  for (std::thread& call : calls) call.join();
  std::free(prepared);
  const auto same = same_rows(1, p.batch, p.batch);
  return std::all_of(actual.begin(), actual.end(),
                     [&](const Results<T>& r) { return same_forward(r, expected, same, same); });
}

// Returns true if rows of padding do not change the bits of the others.
template <class T>
static bool padded_agrees(const Problem<T>& problem, const Passes<T>& passes, int threads, const Results<T>& expected) {
  const Problem<T> p = pad(problem, pick({1, 3, 7, 16}));
  Results<T> r = unwritten(p);
  run(forward_arguments(p, r), passes.forward, threads);
  run(backward_arguments(p, r), passes.backward, threads);
  const auto steps = same_rows(p.time, problem.batch, p.batch), states = same_rows(1, problem.batch, p.batch);
  return same_forward(r, expected, steps, states) && same_backward(r, expected, steps, states);
}

// Returns the largest error relative to the largest element (at least 1), or infinity if any element is NaN.
template <class T>
static double worst_error(const vector<T>& actual, const vector<double>& expected) {
  double largest = 1, worst = 0;
  for (size_t i = 0; i < actual.size(); i++) {
    largest = std::max(largest, std::fabs(expected[i]));
    const double error = std::fabs(double(widen(actual[i])) - expected[i]);
    worst = error <= worst ? worst : error == error ? error : HUGE_VAL;
  }
  return worst / largest;
}

// Returns the largest error of all results that the passes were asked for.
template <class T>
static double worst_error(const Problem<T>& p, const Results<T>& a, const Results<double>& e) {
  return std::max({worst_error(a.y, e.y), worst_error(a.h_n, e.h_n), worst_error(a.c_n, e.c_n),
                   worst_error(a.by_gates, e.by_gates), worst_error(a.f, e.f), worst_error(a.m_by_c, e.m_by_c),
                   worst_error(a.m, e.m), worst_error(a.grad_gates, e.grad_gates),
                   worst_error(a.grad_h_0, e.grad_h_0), worst_error(a.grad_c_0, e.grad_c_0),
                   p.projected ? worst_error(a.grad_projected, e.grad_projected) : 0,
                   p.requested & kGradX ? worst_error(a.grad_x, e.grad_x) : 0,
                   p.requested & kGradWeightIh ? worst_error(a.grad_weight_ih, e.grad_weight_ih) : 0,
                   p.requested & kGradWeightHh ? worst_error(a.grad_weight_hh, e.grad_weight_hh) : 0,
                   p.requested & kGradBias ? worst_error(a.grad_bias, e.grad_bias) : 0});
}

template <class T>
static bool agrees(const InstructionSet& instruction_set, int threads, const char* dtype, double largest_error) {
  const Problem<T> p;
  const Passes<T>& passes = instruction_set.passes<T>();
  const Results<T> r = solve(p, passes, threads);
  const double error = worst_error(p, r, naive(p));
  const bool prepared = prepared_agrees(p, instruction_set, threads, r), padded = padded_agrees(p, passes, threads, r);
  const bool stack = stack_agrees<T>(instruction_set, threads);
  if (error < largest_error && prepared && padded && stack) return true;
  std::printf("%s %s T=%ld B=%ld I=%ld H=%ld P=%ld reverse=%d bias=%d ragged=%d threads=%d: error %.2e%s%s%s\n",
              instruction_set.name, dtype, p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse,
              p.has_bias, p.ragged, threads, error, prepared ? "" : ", other bits with prepared weights",
              padded ? "" : ", other bits with padding", stack ? "" : ", other bits in a stack");
  return false;
}

// Returns the number of a half with `fraction_bits`, by arithmetic instead of bits.
static double number_of(uint32_t bits, int fraction_bits) {
  const int bias = (1 << (14 - fraction_bits)) - 1, fraction = bits & ((1 << fraction_bits) - 1);
  const int exponent = (bits & 0x7fff) >> fraction_bits;
  const double size = exponent == 2 * bias + 1 ? (fraction ? NAN : HUGE_VAL)
                      : exponent ? std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits)
                                 : std::ldexp(fraction, 1 - bias - fraction_bits);
  return bits & 0x8000 ? -size : size;
}
// Converts every half, and the floats around the middle between neighbours, which must round to even.
template <class T>
static bool conversions_agree(int fraction_bits) {
  const auto narrowed = [](float value) { T half; narrow(value, half); return half.bits; };
  for (uint32_t bits = 0; bits < 0x10000; bits++) {
    const double number = number_of(bits, fraction_bits);
    const float wide = widen(T{uint16_t(bits)});
    if (number != number ? wide == wide || !std::isnan(widen(T{narrowed(wide)})) : wide != float(number)) return false;
    if (number != number) continue;
    if (std::signbit(wide) != std::signbit(number) || narrowed(wide) != bits) return false;
    const uint32_t largest = ((1u << (15 - fraction_bits)) - 1) * (1u << fraction_bits) - 1;
    if ((bits & 0x7fff) > largest) continue;
    const double next = (bits & 0x7fff) == largest ? number + (number - number_of(bits - 1, fraction_bits))
                                                   : number_of(bits + 1, fraction_bits);
    const float middle = float((number + next) / 2);
    if (double(middle) != (number + next) / 2) continue;  // between subnormal bfloat16, which no kernel relies on
    const uint32_t even = bits & 1 ? bits + 1 : bits;
    const float below = std::nextafter(middle, wide), above = std::nextafter(middle, float(2 * next - number));
    if (narrowed(middle) != even || narrowed(below) != bits || narrowed(above) != bits + 1) return false;
  }
  return true;
}

int main(int count, char** arguments) {
  const int problems = count > 1 ? std::atoi(arguments[1]) : 200;
  engine.seed(count > 2 ? std::atoi(arguments[2]) : 0);
  const int max_threads = count > 3 ? std::atoi(arguments[3]) : 4;
  vector<const InstructionSet*> available;
  for (const InstructionSet* instruction_set : kInstructionSets)
    if (runs_here(*instruction_set)) available.push_back(instruction_set);
  int wrong = !conversions_agree<Bfloat16>(7) + !conversions_agree<Float16>(10);
  if (wrong) std::printf("wrong conversions of half precision\n");
  for (int i = 0; i < problems; i++) {
    const InstructionSet& instruction_set = *available[i % available.size()];
    const int threads = 1 + int(engine() % max_threads);
    switch (i / available.size() % 4) {
      case 0: wrong += !agrees<float>(instruction_set, threads, "float32", 2e-5); break;
      case 1: wrong += !agrees<double>(instruction_set, threads, "float64", 1e-13); break;
      case 2: wrong += !agrees<Bfloat16>(instruction_set, threads, "bfloat16", 3e-2); break;
      case 3: wrong += !agrees<Float16>(instruction_set, threads, "float16", 4e-3); break;
    }
  }
  std::printf("%d problems, %d wrong\n", problems, wrong);
  return wrong != 0;
}
