// Layer, group and instance norms in float32: groups of channels minus their mean, divided by their standard deviation,
// times a weight plus a bias for each channel.
//
// An image has a channel at several outer positions (channels last), at several inner ones (channels first), or at one
// (a layer norm). It has parts, which threads share: of the outer positions, at most 16, and otherwise each channel
// or, in a layer norm, each group. A part is summed up on its own, so the bits do not depend on the number of threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "arguments.h"
#include "pass.h"
#include "vector.h"

namespace jaxlstm {
namespace {

class Norm {
 public:
  explicit Norm(const NormArguments& arguments)
      : p(arguments),
        each_(p.channels / p.groups),
        parts_(p.outer > 1 ? p.slots() : p.inner > 1 ? p.channels : p.groups) {}

  void run(int thread, int threads, Barrier& barrier) const {
    const bool shares_images = p.batch >= threads;
    const Range images = shares_images ? share_of({0, p.batch}, thread, threads) : Range{0, p.batch};
    const Range parts = shares_images ? Range{0, parts_} : share_of({0, parts_}, thread, threads);
    float *const own = p.room + thread * p.room_floats(), *const sums = shares_images ? own : p.room;
    float* const squares = sums + p.slots() * p.channels;
    float *const mean = own + 2 * p.slots() * p.channels, *const factor = mean + p.channels;
    const auto wait = [&] {
      if (!shares_images) barrier.wait();
    };
    for (long image = images.begin; image < images.end; image++) {
      const float* const x = p.x + image * p.outer * p.channels * p.inner;
      std::fill_n(mean, p.channels, 0.0f);
      for (long part = parts.begin; part < parts.end; part++) add<false>(x, part, mean, sums);
      wait();
      for_groups(sums, [&](float average, long begin, long end) { std::fill(mean + begin, mean + end, average); });
      for (long part = parts.begin; part < parts.end; part++) add<true>(x, part, mean, squares);
      wait();
      for_groups(squares, [&](float variance, long begin, long end) {
        const float scale = 1.0f / std::sqrt(variance + p.eps);
        for (long c = begin; c < end; c++) factor[c] = p.weight ? p.weight[c] * scale : scale;
      });
      for (long part = parts.begin; part < parts.end; part++) normalize(x, part, mean, factor, p.y + (x - p.x));
    }
  }

 private:
  static constexpr long L = kLanes<float>, kColumns = 4 * L;

  // Returns the sum of n numbers, or of the squares of what exceeds the mean.
  template <bool kSquares>
  static float sum(const float* x, long n, float mean) {
    if (n == 1) return kSquares ? (x[0] - mean) * (x[0] - mean) : x[0] - mean;
    const auto term = [&](Vector<float> d) { return kSquares ? d * d : d; };
    Vector<float> all[4] = {}, index;
    for (long l = 0; l < L; l++) index[l] = float(l);
    const long whole = n / kColumns * kColumns;
    for (long i = 0; i < whole; i += kColumns)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) all[v] += term(load(x + i + v * L) - mean);
    for (long i = whole; i < n; i += L) {
      const long count = std::min(L, n - i);
      all[0] += index < float(count) ? term(load(x + i, count) - mean) : Vector<float>{};
    }
    return total<L / 2>((all[0] + all[1]) + (all[2] + all[3]));
  }
  // Adds to each lane the one at a distance of S, and so on.
  template <int S>
  static float total(Vector<float> v) {
    if constexpr (S == 0) return v[0];
    else {
      Vector<float> other = v;
      exchange_lanes<S, float>(v, other);
      return total<S / 2>(v + other);
    }
  }

  // Calls f(first element, rows, stride, first channel, count) for matrices of at most kColumns columns that are a
  // part of an image. count(v) is the number of columns in vector v.
  template <class F>
  void for_blocks(long part, F&& f) const {
    const auto call = [&](long first, long rows, long stride, long channel, long columns) {
      if (columns == kColumns) return f(first, rows, stride, channel, [](int) { return L; });
      f(first, rows, stride, channel, [&](int v) { return std::max(0L, std::min(L, columns - v * L)); });
    };
    if (p.inner > 1) {
      const long rows = p.inner / kColumns, begin = part * p.inner;
      call(begin, rows, kColumns, part, kColumns);
      return call(begin + rows * kColumns, 1, 0, part, p.inner % kColumns);
    }
    const Range rows = p.outer > 1 ? share_of({0, p.outer}, int(part), int(parts_)) : Range{0, 1};
    const Range channels = p.outer > 1 ? Range{0, p.channels} : Range{part * each_, (part + 1) * each_};
    for (long c = channels.begin; c < channels.end; c += kColumns)
      call(rows.begin * p.channels + c, rows.size(), p.channels, c, std::min(kColumns, channels.end - c));
  }
  // Returns the values of the channels in vector v of a block.
  Vector<float> column(const float* values, long channel, int v, long count) const {
    return p.inner > 1 ? Vector<float>{} + values[channel] : load(values + channel + v * L, count);
  }

  // Sums up a part of an image: by channel in channels last, and otherwise to one number.
  template <bool kSquares>
  void add(const float* x, long part, const float* mean, float* sums) const {
    if (p.outer == 1) {
      const long length = p.inner > 1 ? p.inner : each_;
      sums[part] = sum<kSquares>(x + part * length, length, mean[p.inner > 1 ? part : part * each_]);
      return;
    }
    for_blocks(part, [&](long first, long rows, long stride, long channel, auto count) {
      Vector<float> all[4] = {}, means[4];
      for (int v = 0; v < 4; v++) means[v] = column(mean, channel, v, count(v));
      for (long row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
          const Vector<float> d = load(x + first + row * stride + v * L, count(v)) - means[v];
          all[v] += kSquares ? d * d : d;
        }
      for (int v = 0; v < 4; v++) store(sums + part * p.channels + channel + v * L, all[v], count(v));
    });
  }

  // Calls f(average of a group's elements, its first channel, its end) for each group.
  template <class F>
  void for_groups(const float* sums, F&& f) const {
    const long width = p.outer > 1 ? p.channels : parts_, n = width / p.groups;
    for (long group = 0; group < p.groups; group++) {
      float all = 0;
      for (long slot = 0; slot < p.slots(); slot++) all += sum<false>(sums + slot * width + group * n, n, 0);
      f(all / float(p.outer * each_ * p.inner), group * each_, (group + 1) * each_);
    }
  }

  void normalize(const float* x, long part, const float* mean, const float* factor, float* y) const {
    for_blocks(part, [&](long first, long rows, long stride, long channel, auto count) {
      Vector<float> means[4], factors[4], shifts[4] = {};
      for (int v = 0; v < 4; v++) {
        means[v] = column(mean, channel, v, count(v)), factors[v] = column(factor, channel, v, count(v));
        if (p.bias) shifts[v] = column(p.bias, channel, v, count(v));
      }
      for (long row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
          const long at = first + row * stride + v * L;
          store(y + at, (load(x + at, count(v)) - means[v]) * factors[v] + shifts[v], count(v));
        }
    });
  }

  const NormArguments& p;
  const long each_, parts_;
};

}  // namespace
}  // namespace jaxlstm
