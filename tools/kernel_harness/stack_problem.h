// A stack of layers in one call, compared with its passes one after the other.
#pragma once
#include <cstring>

#include "passes.h"
#include "stack.h"

namespace jaxlstm {

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

}  // namespace jaxlstm
