// Products of bfloat16 by AVX-512's vdpbf16ps, which adds the products of two adjacent k to a sum in float32.
//
// Packed weights have the layout [panel][pair of k][4][lanes][2], with zeros after the last k. h is rounded to bfloat16
// after each step, since the next step multiplies it; c, the gates and all sums are float32. In the backward pass, the
// gradients of the gates are rounded when they are multiplied, by W_hh, W_ih, x and h, except for the product that is
// the gradient of h_0. All other gradients are float32 until they are results.
#pragma once
#include <immintrin.h>

#include "panel.h"

namespace jaxlstm {
namespace {

JAXLSTM_INLINE __mmask32 first_elements(long n) { return n >= 32 ? ~0u : (1u << n) - 1; }

JAXLSTM_INLINE Floats load(const Bfloat16* p, long n = kLanes<Bfloat16>) {
  const __m256i bits = _mm256_maskz_loadu_epi16(__mmask16(first_elements(n)), p);
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
JAXLSTM_INLINE void store(Bfloat16* p, Floats v, long n = kLanes<Bfloat16>) {
  _mm256_mask_storeu_epi16(p, __mmask16(first_elements(n)), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
template <class From, class To>
inline void copy_numbers(const From* from, To* to, long count) {
  for (long i = 0; i < count; i += 16) {
    const long n = count - i < 16 ? count - i : 16;
    store(to + i, load(from + i, n), n);
  }
}

// As multiply in panel.h, where k_stride is the distance from one pair of k to the next. An instruction adds two
// products, so the sums need no partial sums for half their length.
template <int M, int N>
JAXLSTM_INLINE void multiply(const Bfloat16* rows, long row_stride, const Bfloat16* weights, long K,
                             Floats (&sums)[M][4 * N], long k_stride = kPair) {
  const long pairs = padded_depth<Bfloat16>(K) / kPair, panel_stride = pairs * 4 * 32;
  const auto add_pair = [&](long pair, auto&& elements) __attribute__((always_inline)) {
    __m512i a[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) a[m] = opaque(_mm512_set1_epi32(elements(rows + m * row_stride + pair * k_stride)));
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      const Bfloat16* w = weights + n * panel_stride + pair * 4 * 32;
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        if (M > 1) __builtin_prefetch((const char*)(w + v * 32) + kPrefetchBytes);
        const __m512i b = _mm512_loadu_si512(w + v * 32);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++)
          sums[m][4 * n + v] = (Floats)_mm512_dpbf16_ps((__m512)sums[m][4 * n + v], (__m512bh)a[m], (__m512bh)b);
      }
    }
  };
  for (long pair = 0; pair < K / kPair; pair++)
    add_pair(pair, [](const Bfloat16* p) { int both; std::memcpy(&both, p, sizeof both); return both; });
  if (K % kPair) add_pair(K / kPair, [](const Bfloat16* p) { return int(p->bits); });
}

// Returns lanes of two bfloat16: one of the first vector, then one of the second.
JAXLSTM_INLINE Floats interleave(__m256i first, __m256i second) {
  return (Floats)_mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

// As pack_rows in gradients.h: two rows are a pair of k.
template <class Row, class Columns>
void pack_rows(Row&& row_at, long K, Columns columns, long begin, long end, Bfloat16* packed) {
  constexpr long kColumns = kLanes<Bfloat16>, kDepth = kPair * kColumns;
  const long pairs = padded_depth<Bfloat16>(K) / kPair;
  for (long pair = 0; pair < pairs; pair++) {
    const long k = kPair * pair;
    const Bfloat16 *first = row_at(k < K ? k : 0), *second = k + 1 < K ? row_at(k + 1) : first;
    for (long panel = begin; panel < end; panel++)
      for (int v = 0; v < 4; v++) {
        const long column = columns.template first<Bfloat16>(panel, v);
        const __mmask16 used = first_elements(columns.template count<Bfloat16>(panel, v));
        const Floats elements = interleave(_mm256_maskz_loadu_epi16(k < K ? used : 0, first + column),
                                           _mm256_maskz_loadu_epi16(k + 1 < K ? used : 0, second + column));
        _mm512_storeu_si512(packed + ((panel * pairs + pair) * 4 + v) * kDepth, (__m512i)elements);
      }
  }
}

// As pack_block in gradients.h, for an even k.
template <int M>
JAXLSTM_INLINE void pack_block(const Bfloat16* rows, long stride, long width, long k, long k_end, long K,
                               Bfloat16* packed) {
  const __mmask16 used = first_elements(width < 16 ? width : 16);
  for (; k < k_end; k += kPair) {
    const Bfloat16* row = rows + k * stride;
    const Floats elements = interleave(_mm256_maskz_loadu_epi16(used, row),
                                       _mm256_maskz_loadu_epi16(k + 1 < K ? used : 0, row + stride));
    const __mmask16 stored = first_elements((padded_depth<Bfloat16>(K) - k) / kPair * M >= 16 ? 16 : M);
    _mm512_mask_storeu_epi32(packed + k * M, stored, (__m512i)elements);
  }
}

// As pack in panel.h. For a k_stride of 1 it transposes squares of 16 columns by 16 pairs.
template <class Columns>
void pack(const Bfloat16* source, long K, long k_stride, long column_stride, Columns columns, long begin, long end,
          Bfloat16* packed) {
  if (column_stride == 1)
    return pack_rows([&](long k) { return source + k * k_stride; }, K, columns, begin, end, packed);
  constexpr long kColumns = kLanes<Bfloat16>, kDepth = kPair * kColumns;
  const long pairs = padded_depth<Bfloat16>(K) / kPair;
  for (long panel = begin; panel < end; panel++)
    for (int v = 0; v < 4; v++)
      for (long k = 0; k < K; k += kDepth) {
        const long count = columns.template count<Bfloat16>(panel, v), depth = K - k < kDepth ? K - k : kDepth;
        const Bfloat16* from = source + columns.template first<Bfloat16>(panel, v) * column_stride + k;
        Floats square[kColumns];  // each lane holds the bits of a pair
        for (long l = 0; l < kColumns; l++)
          square[l] = (Floats)_mm512_maskz_loadu_epi16(l < count ? first_elements(depth) : 0, from + l * column_stride);
        transpose<float>(square);
        for (long j = 0; j < kColumns && k / kPair + j < pairs; j++)
          _mm512_storeu_si512(packed + ((panel * pairs + k / kPair + j) * 4 + v) * kDepth, (__m512i)square[j]);
      }
}

}  // namespace
}  // namespace jaxlstm
