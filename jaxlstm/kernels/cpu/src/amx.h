// The tile registers of AMX, which multiply numbers of 16 bits ten times as fast as vectors multiply float32, and the
// range of numbers within which products on AMX are accurate.
//
// A tile register holds 16 rows of 64 bytes. A left operand is stored as tiles of 16 rows by 32 k. A right operand is
// stored as tiles of 16 pairs of k by 16 columns, since a tile product sums pairs of adjacent k; a panel (panel.h) has
// four tiles for every 32 k. A result tile has 16 by 16 float32. A "row tile" is 16 rows of a left operand, a "k tile"
// 32 k of either operand. Tiles at the edge are filled with zeros.
#pragma once
#include <immintrin.h>

#include "bfloat16.h"
#include "half.h"
#include "pass.h"

namespace jaxlstm {
namespace {

typedef uint16_t TileBits;  // a bfloat16 or float16
constexpr long kTileDepth = 32;                     // k per tile
constexpr long kTileSize = 512, kResultSize = 256;  // elements per operand tile and per result tile

// Not std::min, since this header is compiled for several instruction sets (vector.h).
JAXLSTM_INLINE long minimum(long a, long b) { return a < b ? a : b; }

// Configures the tile registers of this thread as eight tiles of 64 bytes per row, for the lifetime of the object.
class TileRegisters {
 public:
  TileRegisters() { set_rows(16); }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;

  // Sets the number of rows of left operands and results, which may be less than 16 for products of one row tile
  // (multiply_1_by_4). A product of few rows takes less time. All tiles become zero.
  static void set_rows(long rows) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    for (int tile = 0; tile < 7 && rows < 16; tile++) config.rows[tile] = uint8_t(rows);
    _tile_loadconfig(&config);
  }
};

// Sets all lanes but the first n to zero: products with the zeros that fill a tile would turn NaN into more NaN.
JAXLSTM_INLINE Floats first_lanes(Floats v, long n) {
  return n == 16 ? v : (Floats)_mm512_maskz_mov_ps(__mmask16((1 << n) - 1), (__m512)v);
}

// Loads the first `count` lanes and sets the others to zero. `count` may be negative or larger than 16.
JAXLSTM_INLINE Floats load_masked(const float* p, long count) {
  return (Floats)_mm512_maskz_loadu_ps(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1, p);
}
JAXLSTM_INLINE Floats load_masked(const Bfloat16* p, long count) { return load(p, count < 0 ? 0 : count); }

// The numbers of 16 bits, called parts, that represent a number in an operand of a product.

// A bfloat16 is its only part. A number of another type is rounded.
struct OneBfloat16 {
  typedef Bfloat16 Number;
  static constexpr int kCount = 1, kTerms = 1;
};
// A float32 is the exact sum of three bfloat16: a = a_1 + a_2 + a_3, of decreasing magnitude.
struct ThreeBfloat16 {
  typedef float Number;
  static constexpr int kCount = 3, kTerms = 6;
};
// A float32 is the sum of two float16 with an error of at most 2^-23 |a|, if |a| is between 2^-2 and 65504. Below, the
// error is at most 2^-25.
struct TwoFloat16 {
  typedef float Number;
  static constexpr int kCount = 2, kTerms = 3;
};
template <class T>
using Bfloat16Parts = std::conditional_t<kIsHalf<T>, OneBfloat16, ThreeBfloat16>;

template <class P>
constexpr bool kIsFloat16 = std::is_same_v<P, TwoFloat16>;

// Splits 16 numbers into their parts, largest first.
template <class P>
JAXLSTM_INLINE void split(Floats remainder, __m256i (&parts)[P::kCount]) {
#pragma GCC unroll 3
  for (int p = 0; p < P::kCount; p++) {
    if constexpr (kIsFloat16<P>) {
      parts[p] = _mm512_cvtps_ph((__m512)remainder, _MM_FROUND_TO_NEAREST_INT);
      remainder -= (Floats)_mm512_cvtph_ps(parts[p]);
    } else {
      parts[p] = (__m256i)_mm512_cvtneps_pbh((__m512)remainder);
      remainder -= (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(parts[p]), 16);
    }
  }
}
template <class T>
JAXLSTM_INLINE Floats rounded(Floats v) {
  if constexpr (!kIsHalf<T>) return v;
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v)), 16);
}
// Splits 32 adjacent numbers: one row of a left tile.
template <class P>
JAXLSTM_INLINE void split_row(Floats first, Floats second, __m512i (&parts)[P::kCount]) {
  __m256i low[P::kCount], high[P::kCount];
  split<P>(first, low), split<P>(second, high);
#pragma GCC unroll 3
  for (int p = 0; p < P::kCount; p++) parts[p] = _mm512_inserti64x4(_mm512_castsi256_si512(low[p]), high[p], 1);
}
// Splits two rows of 16 numbers, and interleaves them: one row of a right tile.
template <class P>
JAXLSTM_INLINE void split_pairs(Floats above, Floats below, __m512i (&parts)[P::kCount]) {
  __m256i low[P::kCount], high[P::kCount];
  split<P>(above, low), split<P>(below, high);
#pragma GCC unroll 3
  for (int p = 0; p < P::kCount; p++) parts[p] = (__m512i)interleave(low[p], high[p]);
}

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
