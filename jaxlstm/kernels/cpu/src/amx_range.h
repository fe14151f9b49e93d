// The range of numbers within which products on AMX are accurate.
#pragma once
#include "amx.h"
#include "half.h"
#include "pass.h"

namespace jaxlstm {
namespace {

// The largest magnitude in an operand, as the bits of a float. Parts represent a float32 only if neither the parts nor
// their products overflow or underflow, which excludes NaN and infinity too. A bfloat16 has no such limits, and its
// magnitude stays 0.
template <class T>
class Magnitude {
 public:
  JAXLSTM_INLINE void update(Floats v) {
    if constexpr (kIsHalf<T>) return;
    const __m512i bits = _mm512_and_si512((__m512i)v, _mm512_set1_epi32(0x7fffffff));
    largest_ = _mm512_max_epu32(largest_, bits);
  }
  __m512i lanes() const { return largest_; }
  uint32_t bits() const { return _mm512_reduce_max_epu32(largest_); }
  // Returns the magnitude divided by 2^exponent. If it is not zero, neither is the quotient.
  Magnitude over_power_of_two(int exponent) const {
    const __m512i divisor = _mm512_set1_epi32(exponent << 23);
    const __m512i least = _mm512_add_epi32(divisor, _mm512_set1_epi32(1));
    Magnitude quotient;
    quotient.largest_ = _mm512_maskz_sub_epi32(_mm512_test_epi32_mask(largest_, largest_),
                                               _mm512_max_epu32(largest_, least), divisor);
    return quotient;
  }
  // Returns the largest magnitudes, where infinity replaces any above `limit`.
  Floats limited_to(float limit) const {
    const __mmask16 above = _mm512_cmpgt_epu32_mask(largest_, (__m512i)_mm512_set1_ps(limit));
    return (Floats)_mm512_mask_mov_epi32(largest_, above, (__m512i)_mm512_set1_ps(INFINITY));
  }
  static bool in_range(uint32_t bits) {
    constexpr uint32_t k2To60 = (127 + 60) << 23, k2ToMinus60 = (127 - 60) << 23;
    return bits == 0 || (bits >= k2ToMinus60 && bits <= k2To60);
  }

 private:
  __m512i largest_ = _mm512_setzero_si512();
};

// The magnitudes that all threads of a call have found in its operands, in shared memory.
template <class T>
class Magnitudes {
 public:
  static constexpr int kMaxThreads = 1024;
  static constexpr long kOperands = 4, kSize = kOperands * kMaxThreads;
  explicit Magnitudes(uint32_t* magnitudes) : magnitudes_(magnitudes) {}
  void record(int thread, const Magnitude<T>& a, const Magnitude<T>& b, const Magnitude<T>& c = {},
              const Magnitude<T>& d = {}) {
    const Magnitude<T>* operands[kOperands] = {&a, &b, &c, &d};
    for (int i = 0; i < kOperands; i++) magnitudes_[kOperands * thread + i] = operands[i]->bits();
  }
  bool in_range(int threads) const {
    uint32_t largest[kOperands] = {};
    for (int i = 0; i < kOperands * threads; i++)
      if (magnitudes_[i] > largest[i % kOperands]) largest[i % kOperands] = magnitudes_[i];
    for (uint32_t bits : largest)
      if (!Magnitude<T>::in_range(bits)) return false;
    return true;
  }

 private:
  uint32_t* magnitudes_;
};

// Scales for operands of two float16 (amx.h), which are accurate for magnitudes from 2^-2 to 2^16.
//
// All scales are powers of two, so scaling does not round. W x is computed as (W / D) (D x). D holds a power of two for
// each column of W, its largest magnitude rounded down. So an element of D x is about as large as its largest effect on
// W x, whatever the units of x. Each row of D x is then scaled so that its largest magnitude is from 2^14 to 2^15, and
// W / D is scaled by 2^14. The error of an element is at most 2^-23 of it or, if that is more, 2^-39 of the largest
// element of its row of D x, or of W / D. The scale of h is fixed, so an element of D h has an error of up to 2^-35 of
// the largest of D.
//
// For the gradients of weights, a chunk of rows of x, h and grad_gates is scaled by columns.

constexpr float kLargestScaled = 0x1p14f, kLargestState = 16;

// Returns magnitudes rounded down to powers of two that are at least `least`.
JAXLSTM_INLINE Floats powers_of_two(const Magnitude<float>& magnitude, float least) {
  const __m512i exponents = _mm512_and_si512(magnitude.lanes(), _mm512_set1_epi32(0x7f800000));
  return (Floats)_mm512_max_epu32(exponents, (__m512i)_mm512_set1_ps(least));
}
// Smaller magnitudes count as this one, so that scales and their products neither overflow nor underflow.
constexpr float kLeast = 0x1p-90f;

// The scale of a row of D x, and the factor that removes both scales from its products with W / D.
struct RowScale {
  float scale = 1, unscale = 1;

  static RowScale of(const Magnitude<float>& row) {
    const float power = _mm512_reduce_max_ps((__m512)powers_of_two(row, kLeast));
    return {kLargestScaled / power, power / (kLargestScaled * kLargestScaled)};
  }
};

// The scales of 16 columns, and the factors that remove them.
struct LaneScales {
  Floats scale, unscale;

  static LaneScales of(const Magnitude<float>& columns) {
    const Floats powers = powers_of_two(columns, kLeast);
    return {kLargestScaled / powers, powers / kLargestScaled};
  }
};

// The scales of the columns of W, padded to whole k tiles.
struct ColumnScales {
  float *of_x, *of_weights;  // D and 2^14 / D
  static ColumnScales take(Arena& arena, long K) {
    const long size = ceil_divide(K, kTileDepth) * kTileDepth;
    return {arena.take<float>(size), arena.take<float>(size)};
  }

  // Finds the scales of a share of the columns of W, [rows][K].
  void find(const float* weights, long rows, long K, int thread, int threads) const {
    constexpr long kVectors = 8;
    const Range mine = share_of({0, ceil_divide(K, kTileDepth) * 2}, thread, threads);
    for (long first = mine.begin; first < mine.end; first += kVectors) {
      const long count = minimum(kVectors, mine.end - first);
      Magnitude<float> largest[kVectors];
      for (long row = 0; row < rows; row++)
        for (long i = 0, k = 16 * first; i < count; i++, k += 16)
          largest[i].update(load_masked(weights + row * K + k, K - k));
      for (long i = 0; i < count; i++) set(16 * (first + i), largest[i]);
    }
  }
  // As find, of weights that are packed as panels of vectors (panel.h).
  void find_in_panels(const float* weights, long panels, long K, int thread, int threads) const {
    find_each(K, thread, threads, [&](long k, Magnitude<float>& largest) {
      for (long panel = 0; panel < panels; panel++)
        for (int v = 0; v < 4; v++) largest.update(load(weights + ((panel * K + k) * 4 + v) * 16));
    });
  }
  // As find, of the columns of the transpose of `weights`, [K][columns].
  void find_of_rows(const float* weights, long K, long columns, int thread, int threads) const {
    find_each(K, thread, threads, [&](long k, Magnitude<float>& largest) {
      for (long i = 0; i < columns; i += 16) largest.update(load_masked(weights + k * columns + i, columns - i));
    });
  }

  // Returns the scale of a row of D x, and updates the magnitude of x.
  RowScale of_row(const float* row, long K, Magnitude<float>& magnitude) const {
    Magnitude<float> scaled;
    for (long k = 0; k < K; k += 16) {
      const Floats x = load_masked(row + k, K - k);
      magnitude.update(x);
      scaled.update(x * load(of_x + k));
    }
    return RowScale::of(scaled);
  }
  // Returns the scale of rows of h, whose numbers are at most 1 or, in h_0, kLargestState.
  RowScale of_states(long K) const {
    Magnitude<float> largest;
    for (long k = 0; k < K; k += 16) largest.update(kLargestState * load_masked(of_x + k, K - k));
    return RowScale::of(largest);
  }

 private:
  // update(k, largest) finds the largest magnitude of column k.
  template <class Update>
  void find_each(long K, int thread, int threads, Update&& update) const {
    const Range mine = share_of({0, ceil_divide(K, kTileDepth) * 2}, thread, threads);
    for (long vector = mine.begin; vector < mine.end; vector++) {
      alignas(64) float magnitudes[16] = {};
      for (long k = 16 * vector; k < minimum(K, 16 * vector + 16); k++) {
        Magnitude<float> largest;
        update(k, largest);
        magnitudes[k % 16] = same_bits<float>(largest.bits());
      }
      Magnitude<float> largest;
      largest.update(load(magnitudes));
      set(16 * vector, largest);
    }
  }
  void set(long k, const Magnitude<float>& columns) const {
    const Floats powers = powers_of_two(columns, 0x1p-60f);
    store(of_x + k, powers), store(of_weights + k, kLargestScaled / powers);
  }
};

}  // namespace
}  // namespace jaxlstm
