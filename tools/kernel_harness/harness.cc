// Runs the kernels on random problems without XLA, and compares the results with a reference.
//
//   harness [problems] [seed] [max threads]
//
// Each problem has sizes that are awkward for the kernels, and runs on one of the instruction sets of this machine, in
// one of the dtypes. Within rounding, its results must agree with those of the baseline in float64 on one thread, and
// these with a naive forward pass. In addition, weights packed once and used by concurrent calls must give the same
// bits, and so must a batch with rows of padding, and a stack of layers in one call. Some calls share the helper
// threads of the process.
//
// Every array is allocated at its exact size, so that AddressSanitizer detects any access past its end.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <random>
#include <thread>

#include "stack.h"

using namespace jaxlstm;
using std::vector;
using Doubles = vector<double>;

static std::mt19937 engine;

static long pick(std::initializer_list<long> choices) {
  return *(choices.begin() + std::uniform_int_distribution<size_t>(0, choices.size() - 1)(engine));
}

template <class T>
static T rounded(double value) {
  T result;
  if constexpr (kIsHalf<T>) narrow(float(value), result);
  else result = T(value);
  return result;
}
template <class T>
static vector<T> converted(const Doubles& array) {
  vector<T> result(array.size());
  std::transform(array.begin(), array.end(), result.begin(), rounded<T>);
  return result;
}
template <class T>
static Doubles widened(const vector<T>& array) {
  Doubles wide(array.size());
  std::transform(array.begin(), array.end(), wide.begin(), [](T value) { return double(widen(value)); });
  return wide;
}
// Draws numbers that T holds exactly.
template <class T>
static Doubles random_array(long count, double scale = 1) {
  std::normal_distribution<double> normal(0, scale);
  Doubles array(count);
  for (double& x : array) x = normal(engine);
  return widened(converted<T>(array));
}

// Bits of Sizes::requested.
constexpr long kGradX = 1, kGradWeightIh = 2, kGradWeightHh = 4, kGradBias = 8, kAllGradients = 15;

struct Sizes {
  long time, batch, input_size, hidden_size, h_size;
  bool projected, reverse;
  long requested;  // results of the gradients pass
  vector<uint8_t> valid;
};

// The inputs of all three passes, named as in arguments.h. An array that a problem does without is empty.
template <class T>
struct Problem : Sizes {
  vector<T> x, weight_ih, weight_hh, weight_hr, rounded_h_0, grad_y;
  vector<Wide<T>> bias, h_0, c_0, grad_h_n, grad_c_n;

  Problem() = default;
  template <class S>
  explicit Problem(const Problem<S>& p)
      : Sizes(p), x(converted<T>(p.x)), weight_ih(converted<T>(p.weight_ih)), weight_hh(converted<T>(p.weight_hh)),
        weight_hr(converted<T>(p.weight_hr)), rounded_h_0(converted<T>(p.rounded_h_0)), grad_y(converted<T>(p.grad_y)),
        bias(converted<Wide<T>>(p.bias)), h_0(converted<Wide<T>>(p.h_0)), c_0(converted<Wide<T>>(p.c_0)),
        grad_h_n(converted<Wide<T>>(p.grad_h_n)), grad_c_n(converted<Wide<T>>(p.grad_c_n)) {}
};

// Draws lengths in random or descending order, or valid steps that are scattered over time.
static vector<uint8_t> random_valid(long time, long batch) {
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

template <class T>
static Problem<double> draw() {
  Problem<double> p;
  const long steps = p.time = pick({1, 2, 3, 9, 20}), I = p.input_size = pick({1, 3, 8, 40, 40});
  const long B = p.batch = pick({1, 2, 3, 4, 5, 7, 13, 16, 29, 33, 48, 67, 100});
  const long H = p.hidden_size = pick({1, 2, 7, 8, 16, 17, 33, 65, 130, 130});
  p.projected = pick({0, 0, 1}) && H > 2;  // as in torch, h_size is then smaller than hidden_size
  const long P = p.h_size = p.projected ? 1 + H / 2 : H;
  p.reverse = pick({0, 1});
  p.requested = pick({kAllGradients, kAllGradients, kAllGradients, kGradX, kGradWeightIh, kGradWeightHh, kGradBias,
                      kGradX | kGradWeightIh | kGradBias, kAllGradients & ~kGradX});
  const double scale = 1 / std::sqrt(double(H));
  p.x = random_array<T>(steps * B * I), p.weight_ih = random_array<T>(4 * H * I, scale);
  p.weight_hh = random_array<T>(4 * H * P, scale), p.bias = random_array<Wide<T>>(pick({0, 4 * H}), scale);
  p.weight_hr = random_array<T>(p.projected ? P * H : 0, scale);
  p.rounded_h_0 = p.h_0 = random_array<T>(B * P), p.c_0 = random_array<Wide<T>>(B * H);
  p.grad_y = random_array<T>(steps * B * P), p.grad_h_n = random_array<Wide<T>>(B * P);
  p.grad_c_n = random_array<Wide<T>>(B * H);
  if (pick({0, 1})) p.valid = random_valid(steps, B);
  return p;
}

// Appends rows without valid steps. Their inputs are zero or NaN, since no pass may read them.
static Problem<double> padded(Problem<double> p, long padding) {
  const auto pad = [rows = p.batch, padding](auto& array, long times, double fill) {
    const long step = array.size() / times;
    for (long t = times; t > 0; t--) array.insert(array.begin() + t * step, step / rows * padding, fill);
  };
  const double fill = pick({0, 1}) ? NAN : 0;
  if (p.valid.empty()) p.valid.assign(p.time * p.batch, 1);
  pad(p.valid, p.time, 0), pad(p.x, p.time, fill), pad(p.grad_y, p.time, 0);
  for (Doubles* state : {&p.rounded_h_0, &p.h_0, &p.c_0}) pad(*state, 1, fill);
  for (Doubles* gradient : {&p.grad_h_n, &p.grad_c_n}) pad(*gradient, 1, 0);
  p.batch += padding;
  return p;
}

// A result in float64, with the axes (times, rows, ...).
struct Array {
  long times;
  Doubles values;
};

// The results of all three passes. NaN reveals elements that a kernel does not write. Those not asked for are empty.
template <class T>
struct Results {
  long time;
  vector<T> y, m, grad_projected, grad_x, grad_weight_ih, grad_weight_hh;
  vector<Wide<T>> h_n, c_n, by_gates, f, m_by_c, grad_gates, grad_h_0, grad_c_0, grad_bias;

  explicit Results(const Problem<T>& p, double fill = NAN) : time(p.time) {
    const T none = rounded<T>(fill);
    const long rows = p.time * p.batch, H = p.hidden_size;
    y.assign(rows * p.h_size, none), m.assign(rows * H, none), grad_projected.assign(p.projected ? y.size() : 0, none);
    h_n.assign(p.h_0.size(), fill), c_n.assign(p.c_0.size(), fill), grad_h_0 = h_n, grad_c_0 = c_n;
    by_gates.assign(rows * 4 * H, fill), f.assign(rows * H, fill), m_by_c = f, grad_gates = by_gates;
    grad_x.assign(p.requested & kGradX ? p.x.size() : 0, none);
    grad_weight_ih.assign(p.requested & kGradWeightIh ? p.weight_ih.size() : 0, none);
    grad_weight_hh.assign(p.requested & kGradWeightHh ? p.weight_hh.size() : 0, none);
    grad_bias.assign(p.requested & kGradBias ? 4 * H : 0, fill);
  }
  vector<Array> forward() const {
    return {{time, widened(y)}, {1, widened(h_n)}, {1, widened(c_n)}, {time, widened(m)}, {time, widened(by_gates)},
            {time, widened(f)}, {time, widened(m_by_c)}};
  }
  vector<Array> backward() const {
    return {{time, widened(grad_gates)}, {time, widened(grad_projected)}, {1, widened(grad_h_0)},
            {1, widened(grad_c_0)}};
  }
  vector<Array> gradients() const {
    return {{1, widened(grad_x)}, {1, widened(grad_weight_ih)}, {1, widened(grad_weight_hh)}, {1, widened(grad_bias)}};
  }
};

// Returns null for an empty array.
template <class Vector>
static auto at(Vector& array) { return array.empty() ? nullptr : array.data(); }

template <class T>
static ForwardArguments<T> forward_arguments(const Problem<T>& p, Results<T>& r) {
  return {p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse, at(p.x), at(p.weight_ih), at(p.weight_hh),
          at(p.bias), at(p.weight_hr), at(p.h_0), at(p.c_0), at(p.valid), at(r.y), at(r.h_n), at(r.c_n),
          at(r.by_gates), at(r.f), at(r.m_by_c), at(r.m), nullptr};
}
template <class T>
static BackwardArguments<T> backward_arguments(const Problem<T>& p, Results<T>& r) {
  return {p.time, p.batch, p.hidden_size, p.h_size, p.reverse, at(p.weight_hh), at(p.weight_hr), at(r.by_gates),
          at(r.f), at(r.m_by_c), at(p.valid), at(p.grad_y), at(p.grad_h_n), at(p.grad_c_n), at(r.grad_gates),
          at(r.grad_projected), at(r.grad_h_0), at(r.grad_c_0)};
}
template <class T>
static GradientsArguments<T> gradients_arguments(const Problem<T>& p, Results<T>& r, int threads) {
  return {p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse, threads, at(r.grad_gates), at(p.x),
          at(r.y), at(p.rounded_h_0), at(p.valid), at(p.weight_ih), at(r.grad_x), at(r.grad_weight_ih),
          at(r.grad_weight_hh), at(r.grad_bias)};
}

template <class Arguments>
static void run(const Arguments& arguments, const Pass<Arguments>& pass, int threads) {
  void* scratch = std::aligned_alloc(64, (pass.scratch_bytes(arguments) + 63) / 64 * 64);
  vector<std::thread> helpers;
  run_as_team(threads, 1.0, [&](auto task) { helpers.emplace_back(task); },
              [&](int thread, int size, Barrier& barrier) { pass.run(arguments, scratch, thread, size, barrier); });
  for (auto& helper : helpers) helper.join();
  std::free(scratch);
}

template <class T>
static Results<T> solve(const Problem<T>& p, const Passes<T>& passes, int threads) {
  Results<T> r(p);
  run(forward_arguments(p, r), passes.forward, threads);
  run(backward_arguments(p, r), passes.backward, threads);
  run(gradients_arguments(p, r, threads), passes.gradients, threads);
  return r;
}

// A naive forward pass in float64, which shares no code with the kernels.
static vector<Array> naive_forward(const Problem<double>& p) {
  Results<double> results(p, 0);
  Doubles h = p.h_0, c = p.c_0;
  const long I = p.input_size, H = p.hidden_size, P = p.h_size, B = p.batch;
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  for (long s = 0; s < p.time; s++)
    for (long b = 0; b < B; b++) {
      const long row = (p.reverse ? p.time - 1 - s : s) * B + b;
      if (!p.valid.empty() && !p.valid[row]) continue;
      Doubles z(4 * H), m(H);
      for (long k = 0; k < 4 * H; k++) {
        z[k] = p.bias.empty() ? 0 : p.bias[k];
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
  results.h_n = h, results.c_n = c;
  return results.forward();
}

// Returns true if the first `rows` of the `batch` rows of each array have the bits of `expected`.
static bool same_rows(const vector<Array>& actual, const vector<Array>& expected, long rows, long batch) {
  for (size_t i = 0; i < expected.size(); i++) {
    const Doubles &ours = actual[i].values, &right = expected[i].values;
    const long times = expected[i].times, step = right.size() / times, stride = step / rows * batch;
    for (long t = 0; t < times && step; t++)
      if (std::memcmp(&ours[t * stride], &right[t * step], step * sizeof(double))) return false;
  }
  return true;
}

// Returns the largest error relative to the largest element of its array (at least 1), or infinity for NaN.
static double worst_error(const vector<Array>& actual, const vector<Array>& expected) {
  double worst = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    double largest = 1;
    for (double value : expected[i].values) largest = std::max(largest, std::fabs(value));
    for (size_t j = 0; j < expected[i].values.size(); j++) {
      const double error = std::fabs(actual[i].values[j] - expected[i].values[j]) / largest;
      worst = error <= worst ? worst : error == error ? error : HUGE_VAL;
    }
  }
  return worst;
}

// Packs the weights as the instruction set takes them: in T, or widened to float32.
template <class T>
static void* prepared_weights(const InstructionSet& instruction_set, const Problem<double>& problem) {
  const auto pack = [](const auto& passes, const auto& p) {
    Results r(p);
    void* prepared = std::aligned_alloc(64, passes.prepared_bytes(forward_arguments(p, r)));
    passes.prepare_weights(forward_arguments(p, r), prepared);
    return prepared;
  };
  if (instruction_set.multiplies<T>()) return pack(instruction_set.passes<T>(), Problem<T>(problem));
  return pack(instruction_set.passes<Wide<T>>(), Problem<Wide<T>>(problem));
}

// Returns true if weights packed once give the bits of `expected` to several concurrent calls, on the helper threads of
// the process. A call with a long estimate waits for sleeping helpers.
template <class T>
static bool prepared_agrees(const InstructionSet& instruction_set, const Problem<double>& problem, int threads,
                            const vector<Array>& expected) {
  const Problem<T> p(problem);
  const auto& pass = instruction_set.passes<T>().forward;
  void* const prepared = prepared_weights<T>(instruction_set, problem);
  vector<Results<T>> actual(3, Results<T>(p));
  vector<std::thread> calls;
  for (Results<T>& r : actual)
    calls.emplace_back([&, arguments = forward_arguments(p, r), spin = int(pick({0, 50, 1000})),
                        seconds = pick({0, 1}) ? 0.01 : 1e-6]() mutable {
      arguments.prepared = prepared, arguments.weight_ih = arguments.weight_hh = nullptr, arguments.bias = nullptr;
      if (arguments.weight_hr) arguments.weight_hr = static_cast<const T*>(prepared);  // any non-null pointer
      void* scratch = std::aligned_alloc(64, (pass.scratch_bytes(arguments) + 63) / 64 * 64);
      Helpers::of_process().run(threads, seconds, std::chrono::microseconds(spin),
          [&](int thread, int size, Barrier& barrier) { pass.run(arguments, scratch, thread, size, barrier); });
      std::free(scratch);
    });
  for (std::thread& call : calls) call.join();
  std::free(prepared);
  return std::all_of(actual.begin(), actual.end(), [&](const Results<T>& r) {
    return same_rows(r.forward(), expected, p.batch, p.batch);
  });
}

// Returns true if rows of padding do not change the bits of the others.
template <class T>
static bool padded_agrees(const Problem<double>& problem, const Passes<T>& passes, int threads,
                          const Results<T>& expected) {
  const Problem<T> p(padded(problem, pick({1, 3, 7, 16})));
  const Results<T> r = solve(p, passes, threads);
  return same_rows(r.forward(), expected.forward(), problem.batch, p.batch) &&
         same_rows(r.backward(), expected.backward(), problem.batch, p.batch);
}

// Returns true if a stack of two layers, whose directions have the same weights, has the bits of its passes.
template <class T>
static bool stack_agrees(const InstructionSet& instruction_set, Problem<double> p, int threads) {
  use_instruction_set(instruction_set.name);
  const vector<T> x = converted<T>(p.x);
  const long directions = pick({1, 2}), P = p.h_size;
  Layer layers[2];
  Doubles y, h_0, c_0, h_n, c_n;
  for (Layer& layer : layers) {
    layer = {p.input_size, {prepared_weights<T>(instruction_set, p)}}, layer.prepared[1] = layer.prepared[0];
    y.assign(p.time * p.batch * directions * P, 0);
    for (long d = 0; d < directions; d++) {
      p.reverse = d == 1;
      const Problem<T> one(p);
      Results<T> r(one);
      run(forward_arguments(one, r), instruction_set.passes<T>().forward, threads);
      const vector<Array> results = r.forward();
      for (size_t i = 0; i < r.y.size(); i++) y[(i / P * directions + d) * P + i % P] = results[0].values[i];
      const auto append = [](Doubles& all, const Doubles& part) { all.insert(all.end(), part.begin(), part.end()); };
      append(h_0, p.h_0), append(c_0, p.c_0), append(h_n, results[1].values), append(c_n, results[2].values);
    }
    p.x = y, p.input_size = directions * P;
    p.weight_ih = random_array<T>(4 * p.hidden_size * p.input_size, 1 / std::sqrt(double(p.hidden_size)));
  }
  vector<T> outputs(y.size(), rounded<T>(NAN));
  vector<Wide<T>> h[] = {converted<Wide<T>>(h_0), vector<Wide<T>>(h_n.size(), NAN)};
  vector<Wide<T>> c[] = {converted<Wide<T>>(c_0), vector<Wide<T>>(c_n.size(), NAN)};
  const Stack stack{0, 2, directions, p.batch, p.hidden_size, P, threads, 0, layers,
                    {at(h[0]), at(h[1])}, {at(c[0]), at(c[1])}, 0};
  const StackCall<T> call(stack, p.time, x.data(), at(p.valid), outputs.data());
  Helpers::of_process().run(threads, 0.01, std::chrono::microseconds(pick({0, 50})),
      [&](int thread, int size, Barrier& barrier) { call.run(thread, size, barrier); });
  for (const Layer& layer : layers) std::free(const_cast<void*>(layer.prepared[0]));
  return widened(outputs) == y && widened(h[1]) == h_n && widened(c[1]) == c_n;
}

template <class T>
static bool agrees(const InstructionSet& instruction_set, int threads, const char* dtype, double largest_error) {
  const Problem<double> p = draw<T>();
  const Passes<T>& passes = instruction_set.passes<T>();
  const Results<T> r = solve(Problem<T>(p), passes, threads);
  const Results<double> reference = solve(p, std::end(kInstructionSets)[-1]->passes<double>(), 1);
  double error = std::max({worst_error(r.forward(), reference.forward()),
                           worst_error(r.backward(), reference.backward()),
                           worst_error(r.gradients(), reference.gradients())});
  if (!(worst_error(reference.forward(), naive_forward(p)) < 1e-13)) error = HUGE_VAL;
  const bool prepared = prepared_agrees<T>(instruction_set, p, threads, r.forward());
  const bool padding = padded_agrees(p, passes, threads, r), stack = stack_agrees<T>(instruction_set, p, threads);
  if (error < largest_error && prepared && padding && stack) return true;
  std::printf("%s %s T=%ld B=%ld I=%ld H=%ld P=%ld reverse=%d bias=%d ragged=%d threads=%d: error %.2e%s%s%s\n",
              instruction_set.name, dtype, p.time, p.batch, p.input_size, p.hidden_size, p.h_size, p.reverse,
              !p.bias.empty(), !p.valid.empty(), threads, error, prepared ? "" : ", other bits with prepared weights",
              padding ? "" : ", other bits with padding", stack ? "" : ", other bits in a stack");
  return false;
}

// Returns true if floats become the nearest half and back: all halves, the middle between neighbours, which must round
// to even, and the floats beside both. No kernel relies on subnormal bfloat16.
template <class T>
static bool conversions_agree(int fraction_bits, int smallest_exponent) {
  const double overflow = kIsHalf<T> && fraction_bits == 10 ? 65520 : HUGE_VAL;
  for (uint32_t bits = 0; bits < 0x7f800000; bits += 1u << (22 - fraction_bits))
    for (uint32_t near : {bits - 1, bits, bits + 1}) {
      const float value = same_bits<float>(near & 0x7fffffff);
      const double unit = std::ldexp(1, std::max(std::ilogb(value), smallest_exponent) - fraction_bits);
      if (fraction_bits == 7 && value < 0x1p-126f) continue;
      const double nearest = value >= overflow ? HUGE_VAL : std::nearbyint(value / unit) * unit;
      for (double sign : {1.0, -1.0}) {
        const float found = widen(rounded<T>(sign * value));
        if (value == value ? found != float(sign * nearest) : found == found) return false;
      }
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
  int wrong = !conversions_agree<Bfloat16>(7, -126) + !conversions_agree<Float16>(10, -14);
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
