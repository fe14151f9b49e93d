// Convolutions with the channels last, in float32: weights times the windows, then bias, residual and activation.
//
// Neither windows nor padding are copied. For each row of the kernel, the elements of a window lie next to each other,
// and the windows of adjacent outputs lie `stride * channels` elements apart, which is all that `multiply` (panel.h)
// needs. Windows at the borders are computed one by one, from the elements inside of the image.
#pragma once
#include <algorithm>

#include "activations.h"
#include "arguments.h"
#include "panel.h"
#include "pass.h"

namespace jaxlstm {
namespace {

// Each activation passes NaN on, as torch's functions do.
template <Activation kActivation>
JAXLSTM_INLINE Floats activated(Floats x) {
  switch (kActivation) {
    case Activation::kRelu: return clip(x, 0.0f, INFINITY);
    case Activation::kRelu6: return clip(x, 0.0f, 6.0f);
    case Activation::kHardswish: return x * clip(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f);
    case Activation::kSilu: return x * sigmoid(x);
    default: return x;
  }
}

class Convolution {
 public:
  explicit Convolution(const ConvolutionArguments& arguments)
      : p(arguments), tiles_per_row_(ceil_divide(p.out_width, kTile)) {}

  void run(int thread, int threads, Barrier& barrier) const {
    if (p.gate) {
      multiply_weights(share_of({0, p.batch * p.channels * p.kernel[0] * p.kernel[1]}, thread, threads));
      barrier.wait();
    }
    const Range all = {0, p.batch * p.out_height * tiles_per_row_}, mine = share_of(all, thread, threads);
    if (p.groups == p.channels && p.groups == p.outputs) {
      for (long tile = mine.begin; tile < mine.end; tile++) depthwise(tile);
      return;
    }
    const long panels = PlainColumns{p.outputs / p.groups}.panels<float>();
    // Threads that share the tiles read all weights each, and threads that share the panels all images.
    const long images = p.batch * p.height * p.width, weights = p.kernel[0] * p.kernel[1] * p.outputs / p.groups;
    const bool shares_tiles = panels < threads || (images >= weights && all.size() >= threads);
    const Range tiles = shares_tiles ? mine : all;
    // Few weights stay in the cache for all tiles, and otherwise a panel does.
    const long length = weights * p.channels <= kDepth * 4 * L ? 1 : tiles.size();
    for (long group = 0; group < p.groups; group++)
      for (long begin = tiles.begin; begin < tiles.end; begin += length)
        for (long panel = 0; panel < panels; panel++)
          if (shares_tiles || panel % threads == thread) product(group, panel, {begin, begin + length});
  }

 private:
  static constexpr long L = kLanes<float>;
  // The largest number of adjacent windows in a tile, the unit of work.
  static constexpr long kTile = 8 * kMaxBlockRows;
  // This many rows of a panel of weights stay in the second-level cache for all windows.
  static constexpr long kDepth = 1024;

  // The elements of a kernel, along one axis, that lie inside of the image, for a window that starts at `start`.
  Range inside(int axis, long start) const {
    const long size = axis ? p.width : p.height, step = p.dilation[axis];
    const long begin = start < 0 ? ceil_divide(-start, step) : 0;
    const long end = start < size ? ceil_divide(size - start, step) : 0;
    return {begin, std::min(end, p.kernel[axis])};
  }
  long start(int axis, long window) const { return window * p.stride[axis] - p.pad[axis]; }

  // Calls f(first column, Rows<M>, elements of the kernel) for the windows of a tile: one by one at the borders.
  template <class F>
  void for_blocks(long tile, F&& f) const {
    const Range columns = share_of({0, p.out_width}, int(tile % tiles_per_row_), int(tiles_per_row_));
    const long room = p.width - (p.kernel[1] - 1) * p.dilation[1] + p.pad[1];  // windows that start before it fit
    const long first = std::min(columns.end, std::max(columns.begin, ceil_divide(p.pad[1], p.stride[1])));
    const long last = std::max(first, std::min(columns.end, room > 0 ? ceil_divide(room, p.stride[1]) : 0));
    for (long column = columns.begin; column < first; column++) f(column, Rows<1>(), inside(1, start(1, column)));
    for_row_blocks(first, last, [&](long column, auto block) { f(column, block, Range{0, p.kernel[1]}); });
    for (long column = last; column < columns.end; column++) f(column, Rows<1>(), inside(1, start(1, column)));
  }
  // Returns an element of the first window of a block.
  const float* element(long row, long column, long i, long j) const {
    const long y = start(0, row % p.out_height) + i * p.dilation[0], x = start(1, column) + j * p.dilation[1];
    return p.x + ((row / p.out_height * p.height + y) * p.width + x) * p.channels;
  }

  // Adds the residual to the sums of adjacent windows, from the address y on, and applies the activation. A separate
  // step, so that the products need no registers for it.
  void finish(float* y, long windows, long outputs) const {
    switch (p.activation) {
      case Activation::kRelu: return finish<Activation::kRelu>(y, windows, outputs);
      case Activation::kRelu6: return finish<Activation::kRelu6>(y, windows, outputs);
      case Activation::kHardswish: return finish<Activation::kHardswish>(y, windows, outputs);
      case Activation::kSilu: return finish<Activation::kSilu>(y, windows, outputs);
      default:
        if (p.residual) finish<Activation::kNone>(y, windows, outputs);
    }
  }
  template <Activation kActivation>
  __attribute__((noinline)) void finish(float* y, long windows, long outputs) const {
    const float* const residual = p.residual ? p.residual + (y - p.y) : nullptr;
    const long stride = p.outputs;
    for (long at = 0; at < windows * stride; at += stride)
      for (long i = at; i < at + outputs; i += L) {
        const long count = std::min(L, at + outputs - i);
        Vector<float> sums = load(y + i, count);
        if (residual) sums += load(residual + i, count);
        store(y + i, activated<kActivation>(sums), count);
      }
  }

  // Multiplies weights by the gate instead of images, which are larger. `rows` counts the inputs of the weights of all
  // images.
  void multiply_weights(Range rows) const {
    const long K = p.channels * p.kernel[0] * p.kernel[1], columns = ceil_divide(p.outputs, L) * L;
    for (long row = rows.begin; row < rows.end; row++) {
      const long image = row / K, k = row % K;
      const float factor = p.gate[image * p.channels + k % p.channels];
      for (long first = 0; first < columns; first += 4 * L) {
        const long width = std::min(4 * L, columns - first), from = first * K + k * width;
        for (long i = from; i < from + width; i += L)
          store(p.gated + image * K * columns + i, load(p.weights + i, L) * factor, L);
      }
    }
  }

  void product(long group, long panel, Range tiles) const {
    const long first = panel * 4 * L;
    switch (std::min(4L, ceil_divide(p.outputs / p.groups - first, L))) {
      case 1: return product<1>(group, first, tiles);
      case 2: return product<2>(group, first, tiles);
      case 3: return product<3>(group, first, tiles);
      default: return product<4>(group, first, tiles);
    }
  }

  // Computes V vectors of outputs, from `first` on, of a group.
  template <int V>
  void product(long group, long first, Range tiles) const {
    const long outputs = p.outputs / p.groups, inputs = p.channels / p.groups, K = inputs * p.kernel[0] * p.kernel[1];
    const long image_weights = K * ceil_divide(outputs, L) * L;
    const float* const bias = p.bias + group * outputs + first;
    const long step = p.stride[1] * p.channels, last = std::min(L, outputs - first - (V - 1) * L);
    const auto get = [&](const float* from, int v) {
      return v < V - 1 ? load(from + v * L) : load(from + v * L, last);
    };
    const bool adjacent = p.groups == 1 && p.dilation[1] == 1;  // the elements of a row of the kernel
    const long at_once = std::max(1L, kDepth / (inputs * p.kernel[1]));
    for (long begin = 0; begin < p.kernel[0]; begin += at_once)
      for (long tile = tiles.begin; tile < tiles.end; tile++) {
        const long row = tile / tiles_per_row_;
        const float* const weights =
            first * K + (p.gate ? p.gated + row / p.out_height * image_weights : p.weights + group * image_weights);
        const Range all = inside(0, start(0, row % p.out_height));
        const Range lines = {std::max(all.begin, begin), std::min(all.end, begin + at_once)};
        for_blocks(tile, [&](long column, auto block, Range elements) {
          constexpr int M = decltype(block)::count;
          float* const to = p.y + (row * p.out_width + column) * p.outputs + group * outputs + first;
          Vector<float> sums[M][V];
#pragma GCC unroll 8
          for (int m = 0; m < M; m++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
              sums[m][v] = get(begin ? to + m * p.outputs : bias, v);
          const long together = adjacent ? elements.size() : 1;
          for (long i = lines.begin; i < lines.end; i++)
            for (long j = elements.begin; j < elements.end; j += together)
              multiply<M, 1, float, V>(element(row, column, i, j) + group * inputs, step,
                                       weights + (i * p.kernel[1] + j) * inputs * V * L, together * inputs, sums);
#pragma GCC unroll 8
          for (int m = 0; m < M; m++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
              float* const result = to + m * p.outputs + v * L;
              v < V - 1 ? store(result, sums[m][v]) : store(result, sums[m][v], last);
            }
          if (begin + at_once >= p.kernel[0]) finish(to, M, (V - 1) * L + last);
        });
      }
  }

  // One input channel for each output channel; weights[element of the kernel][channel].
  void depthwise(long tile) const {
    // Local copies: for the compiler, each store might change the arguments.
    const long C = p.channels, row = tile / tiles_per_row_, step = p.stride[1] * C, next = p.dilation[1] * C;
    const long next_line = p.dilation[0] * p.width * C, weights_line = p.kernel[1] * C;
    const Range lines = inside(0, start(0, row % p.out_height));
    for_blocks(tile, [&](long column, auto block, Range elements) {
      constexpr int M = decltype(block)::count;
      const float* const x = element(row, column, lines.begin, elements.begin);
      const float* const all_weights = p.weights + lines.begin * weights_line + elements.begin * C;
      float* const y = p.y + (row * p.out_width + column) * C;
      for (long channel = 0; channel < C; channel += L) {
        const long n = std::min(L, C - channel);
        const Vector<float> bias = load(p.bias + channel, n);
        Vector<float> sums[M];
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) sums[m] = bias;
        for (long i = 0; i < lines.size(); i++) {
          const float *from = x + i * next_line + channel, *weights = all_weights + i * weights_line + channel;
          for (long j = 0; j < elements.size(); j++, from += next, weights += C) {
            const Vector<float> weight = load(weights, n);
#pragma GCC unroll 8
            for (int m = 0; m < M; m++) sums[m] += load(from + m * step, n) * weight;
          }
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) store(y + channel + m * C, sums[m], n);
      }
      finish(y, M, C);
    });
  }

  const ConvolutionArguments& p;
  const long tiles_per_row_;
};

}  // namespace
}  // namespace jaxlstm
