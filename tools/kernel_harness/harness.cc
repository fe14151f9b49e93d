// Runs the kernels on random problems without XLA, and compares the results with a reference.
//
//   harness [problems] [seed] [max threads]
//
// Each problem runs on one of the instruction sets of this machine, in one of the dtypes. Within rounding, its results
// must agree with those of the baseline in float64 on one thread, and these with a naive forward pass. In addition,
// weights packed once and used by concurrent calls must give the same bits, and so must a batch with rows of padding,
// and a stack of layers in one call. Some calls share the helper threads of the process.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <thread>

#include "problem.h"
#include "stack.h"

using namespace jaxlstm;

// A naive forward pass in float64, which shares no code with the kernels.
static void naive_forward(const Problem<double>& p, Results<double>& results) {
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
        for (long j = 0; j < I; j++) z[k] += p.weight_ih[k * I + j] * p.x[row * I + j];
        for (long j = 0; j < P; j++) z[k] += p.weight_hh[k * P + j] * h[b * P + j];
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
        for (long k = 0; k < H && p.projected; k++) h_next += p.weight_hr[j * H + k] * m[k];
        h[b * P + j] = h_next, results.y[row * P + j] = h_next;
      }
    }
  std::copy(h.begin(), h.end(), results.h_n.begin()), std::copy(c.begin(), c.end(), results.c_n.begin());
}

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

// Returns the largest error of the forward pass, and of all results that the passes were asked for.
template <class T>
static double worst_error_forward(const Problem<T>& p, const Results<T>& a, const Results<double>& e) {
  return std::max({worst_error(a.y, e.y), worst_error(a.h_n, e.h_n), worst_error(a.c_n, e.c_n),
                   worst_error(a.by_gates, e.by_gates), worst_error(a.f, e.f), worst_error(a.m_by_c, e.m_by_c),
                   worst_error(a.m, e.m)});
}
template <class T>
static double worst_error(const Problem<T>& p, const Results<T>& a, const Results<double>& e) {
  return std::max({worst_error_forward(p, a, e), worst_error(a.grad_gates, e.grad_gates),
                   worst_error(a.grad_h_0, e.grad_h_0), worst_error(a.grad_c_0, e.grad_c_0),
                   p.projected ? worst_error(a.grad_projected, e.grad_projected) : 0,
                   p.requested & kGradX ? worst_error(a.grad_x, e.grad_x) : 0,
                   p.requested & kGradWeightIh ? worst_error(a.grad_weight_ih, e.grad_weight_ih) : 0,
                   p.requested & kGradWeightHh ? worst_error(a.grad_weight_hh, e.grad_weight_hh) : 0,
                   p.requested & kGradBias ? worst_error(a.grad_bias, e.grad_bias) : 0});
}

// A stack of two layers, whose directions have the same weights, and the results of its passes one after the other.
template <class T>
struct StackProblem {
  long directions = pick({1, 2});
  Problem<T> layers[2];
  vector<T> y;
  vector<Wide<T>> h_0, c_0, h_n, c_n;
  void* prepared[2];

  StackProblem(const InstructionSet& instruction_set, int threads) {
    Problem<T>& top = layers[1] = layers[0];
    top.input_size = directions * top.h_size;
    top.weight_ih = random_array<T>(top.gates * top.input_size, 1 / std::sqrt(double(top.hidden_size)));
    for (int layer = 0; layer < 2; layer++) {
      Problem<T> p = layers[layer];
      if (layer) p.x = y;
      y.assign(p.time * p.batch * directions * p.h_size, T());
      for (long d = 0; d < directions; d++) {
        p.reverse = d == 1;
        Results<T> r = unwritten(p);
        run(forward_arguments(p, r), instruction_set.passes<T>().forward, threads);
        for (size_t i = 0; i < r.y.size(); i++)
          y[(i / p.h_size * directions + d) * p.h_size + i % p.h_size] = r.y[i];
        for (const auto& [part, all] : {std::pair(&p.h_0, &h_0), {&p.c_0, &c_0}, {&r.h_n, &h_n}, {&r.c_n, &c_n}})
          all->insert(all->end(), part->begin(), part->end());
      }
      prepared[layer] = prepared_weights(instruction_set, p);
    }
  }
  ~StackProblem() { std::free(prepared[0]), std::free(prepared[1]); }
};

// Returns true if a stack in one call has the bits of its passes.
template <class T>
static bool stack_agrees(const InstructionSet& instruction_set, int threads) {
  use_instruction_set(instruction_set.name);
  const StackProblem<T> p(instruction_set, threads);
  const Problem<T>& first = p.layers[0];
  Layer layers[2];
  for (int i = 0; i < 2; i++) layers[i] = {p.layers[i].input_size, {p.prepared[i], p.prepared[i]}};
  vector<T> y(p.y.size(), rounded<T>(NAN));
  vector<Wide<T>> h_0 = p.h_0, c_0 = p.c_0, h_n(p.h_n.size(), NAN), c_n(p.c_n.size(), NAN);
  const Stack stack{0, 2, p.directions, first.batch, first.hidden_size, first.h_size, threads, 0, layers,
                    {h_0.data(), h_n.data()}, {c_0.data(), c_n.data()}, 0};
  const StackCall<T> call(stack, first.time, first.x.data(), valid_of(first), y.data());
  Helpers::of_process().run(threads, 0.01, std::chrono::microseconds(pick({0, 50})),
      [&](int thread, int size, Barrier& barrier) { call.run(thread, size, barrier); });
  const auto same = [](const auto& actual, const auto& expected) {
    return !std::memcmp(actual.data(), expected.data(), actual.size() * sizeof actual[0]);
  };
  return same(y, p.y) && same(h_n, p.h_n) && same(c_n, p.c_n);
}

template <class T>
static bool agrees(const InstructionSet& instruction_set, int threads, const char* dtype, double largest_error) {
  const Problem<T> p;
  const Passes<T>& passes = instruction_set.passes<T>();
  const Results<T> r = solve(p, passes, threads);
  const Problem<double> wide(p);
  const Results<double> reference = solve(wide, std::end(kInstructionSets)[-1]->passes<double>(), 1);
  Results<double> naive(wide, 0);
  naive_forward(wide, naive);
  double error = worst_error(p, r, reference);
  if (!(worst_error_forward(wide, reference, naive) < 1e-13)) error = HUGE_VAL;
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
