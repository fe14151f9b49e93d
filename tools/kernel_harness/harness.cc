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

#include "half_problem.h"
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

// The arrays of each pass, with the axes (time, row, ...) or (row, ...).
template <class T>
using Arrays = vector<vector<T> Results<T>::*>;
template <class T>
static const Arrays<T> kForwardSteps{&Results<T>::y, &Results<T>::by_gates, &Results<T>::f, &Results<T>::m_by_c,
                                     &Results<T>::m};
template <class T>
static const Arrays<T> kForwardStates{&Results<T>::h_n, &Results<T>::c_n};
template <class T>
static const Arrays<T> kBackwardSteps{&Results<T>::grad_gates, &Results<T>::grad_projected};
template <class T>
static const Arrays<T> kBackwardStates{&Results<T>::grad_h_0, &Results<T>::grad_c_0};

// Returns true if the first `rows` rows of `actual`, whose batch is `batch`, have the bits of `expected`.
template <class T>
static bool same_rows(const Arrays<T>& arrays, const Results<T>& actual, const Results<T>& expected, long times,
                      long rows, long batch) {
  for (const auto array : arrays)
    for (long t = 0; t < times; t++) {
      const size_t row = (expected.*array).size() / (times * rows);
      const T *a = (actual.*array).data() + t * batch * row, *e = (expected.*array).data() + t * rows * row;
      if (std::memcmp(a, e, rows * row * sizeof(T))) return false;
    }
  return true;
}

// Returns true if weights packed once give the bits of `expected` to several concurrent calls.
template <class T>
static bool prepared_agrees(const Problem<T>& p, const Passes<T>& passes, int threads, Results<T>& expected) {
  constexpr int kCalls = 3;
  const ForwardArguments<T> unprepared = forward_arguments(p, expected);
  T* prepared = static_cast<T*>(std::aligned_alloc(64, passes.prepared_bytes(unprepared)));
  passes.prepare_weights(unprepared, prepared);
  vector<Results<T>> actual(kCalls, unwritten(p));
  vector<std::thread> calls;
  for (Results<T>& r : actual)
    calls.emplace_back([&, arguments = forward_arguments(p, r), spin = int(pick({0, 50, 1000})),
                        is_long = pick({0, 1}) == 1]() mutable {
      arguments.prepared = prepared, arguments.weight_ih = arguments.weight_hh = arguments.bias = nullptr;
      if (arguments.weight_hr) arguments.weight_hr = prepared;  // any non-null pointer
      run_with_helpers(arguments, passes.forward, threads, spin, is_long);
    });
  for (std::thread& call : calls) call.join();
  std::free(prepared);
  return std::all_of(actual.begin(), actual.end(), [&](const Results<T>& r) {
    return same_rows(kForwardSteps<T>, r, expected, 1, p.batch, p.batch) &&
           same_rows(kForwardStates<T>, r, expected, 1, p.batch, p.batch);
  });
}

// Returns true if rows of padding do not change the bits of the others.
template <class T>
static bool padded_agrees(const Problem<T>& problem, const Passes<T>& passes, int threads, const Results<T>& expected) {
  const Problem<T> p = pad(problem, pick({1, 3, 7, 16}));
  Results<T> r = unwritten(p);
  run(forward_arguments(p, r), passes.forward, threads);
  run(backward_arguments(p, r), passes.backward, threads);
  return same_rows(kForwardSteps<T>, r, expected, p.time, problem.batch, p.batch) &&
         same_rows(kForwardStates<T>, r, expected, 1, problem.batch, p.batch) &&
         same_rows(kBackwardSteps<T>, r, expected, p.time, problem.batch, p.batch) &&
         same_rows(kBackwardStates<T>, r, expected, 1, problem.batch, p.batch);
}

// Returns the largest error relative to the largest element (at least 1), or infinity if any element is NaN.
template <class T>
static double worst_error(const vector<T>& actual, const vector<T>& expected) {
  double largest = 1, worst = 0;
  for (size_t i = 0; i < actual.size(); i++) {
    largest = std::max(largest, std::fabs(double(expected[i])));
    const double error = std::fabs(double(actual[i]) - double(expected[i]));
    worst = error <= worst ? worst : error == error ? error : HUGE_VAL;
  }
  return worst / largest;
}

// Returns the largest error of all results that the passes were asked for.
template <class T>
static double worst_error(const Problem<T>& p, const Results<T>& a, const Results<T>& e) {
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
static bool agrees(const InstructionSet& instruction_set, int threads) {
  const Problem<T> p;
  const Passes<T>& passes = instruction_set.passes<T>();
  Results<T> r = solve(p, passes, threads);
  const double error = worst_error(p, r, naive(p));
  const bool prepared = prepared_agrees(p, passes, threads, r), padded = padded_agrees(p, passes, threads, r);
  if (!stack_agrees<T>(instruction_set, threads)) return false;
  if (error < (sizeof(T) == 4 ? 2e-5 : 1e-13) && prepared && padded) return true;
  std::printf("%s float%zu T=%ld B=%ld I=%ld H=%ld P=%ld reverse=%d bias=%d ragged=%d threads=%d: error %.2e%s%s\n",
              instruction_set.name, 8 * sizeof(T), p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse,
              p.has_bias, p.ragged, threads, error, prepared ? "" : ", other bits with prepared weights",
              padded ? "" : ", other bits with padding");
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

// As agrees, in half precision.
template <class T>
static bool half_agrees(const InstructionSet& instruction_set, int threads, const char* name) {
  const Problem<float> p;
  HalfProblem<T> plain{p}, prepared{p}, padded{pad(p, pick({1, 3, 7, 16}))};
  const Passes<T>& passes = instruction_set.passes<T>();
  plain.solve(passes, threads);
  padded.solve(passes, threads);
  ForwardArguments<T> arguments = prepared.forward_arguments();
  void* const weights = prepared_weights(instruction_set, prepared);
  arguments.prepared = weights, arguments.weight_ih = arguments.weight_hh = nullptr, arguments.bias = nullptr;
  run(arguments, passes.forward, threads);
  prepared.widen_results();
  std::free(weights);
  const auto same = [&](const Arrays<float>& arrays, const HalfProblem<T>& other, long times) {
    return same_rows(arrays, other.results, plain.results, times, p.batch, times == 1 ? p.batch : other.wide.batch);
  };
  const double error = worst_error(plain.wide, plain.results, naive(plain.wide));
  const bool right = error < (std::is_same_v<T, Bfloat16> ? 3e-2 : 4e-3);
  const bool bits = same(kForwardSteps<float>, prepared, 1) && same(kForwardStates<float>, prepared, 1);
  const bool rows = same(kForwardSteps<float>, padded, p.time) && same(kBackwardSteps<float>, padded, p.time) &&
                    same_rows(kForwardStates<float>, padded.results, plain.results, 1, p.batch, padded.wide.batch) &&
                    same_rows(kBackwardStates<float>, padded.results, plain.results, 1, p.batch, padded.wide.batch);
  if (right && bits && rows) return true;
  std::printf("%s %s T=%ld B=%ld I=%ld H=%ld P=%ld reverse=%d bias=%d ragged=%d threads=%d: error %.2e%s%s\n",
              instruction_set.name, name, p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse,
              p.has_bias, p.ragged, threads, error, bits ? "" : ", other bits with prepared weights",
              rows ? "" : ", other bits with padding");
  return false;
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
      case 0: wrong += !agrees<float>(instruction_set, threads); break;
      case 1: wrong += !agrees<double>(instruction_set, threads); break;
      case 2: wrong += !half_agrees<Bfloat16>(instruction_set, threads, "bfloat16"); break;
      case 3: wrong += !half_agrees<Float16>(instruction_set, threads, "float16"); break;
    }
  }
  std::printf("%d problems, %d wrong\n", problems, wrong);
  return wrong != 0;
}
