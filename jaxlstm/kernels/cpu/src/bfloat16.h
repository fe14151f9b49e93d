// Products of bfloat16 by AVX-512's vdpbf16ps, which adds the products of two adjacent k to a sum in float32.
//
// Packed weights have the layout [panel][pair of k][4][lanes][2], with a zero after an odd number of k. h is rounded to
// bfloat16 after each step, since the next step multiplies it; c, the gates and all sums are float32.
#pragma once
#include <immintrin.h>

#include "panel.h"

namespace jaxlstm {
namespace {

constexpr long kPair = 2;
JAXLSTM_INLINE __mmask32 first_elements(long n) { return n >= 32 ? ~0u : (1u << n) - 1; }

JAXLSTM_INLINE Floats load(const Bfloat16* p, long n = kLanes<Bfloat16>) {
  const __m256i bits = _mm256_maskz_loadu_epi16(__mmask16(first_elements(n)), p);
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
JAXLSTM_INLINE void store(Bfloat16* p, Floats v, long n = kLanes<Bfloat16>) {
  _mm256_mask_storeu_epi16(p, __mmask16(first_elements(n)), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
inline void copy_rounded(const float* from, Bfloat16* to, long count) {
  for (long i = 0; i < count; i += 16) {
    const long n = count - i < 16 ? count - i : 16;
    store(to + i, load(from + i, n), n);
  }
}
inline void copy_widened(const Bfloat16* from, float* to, long count) {
  for (long i = 0; i < count; i += 16) {
    const long n = count - i < 16 ? count - i : 16;
    store(to + i, load(from + i, n), n);
  }
}

// As multiply in panel.h. An instruction adds two products, so the sums need no partial sums for half their length.
template <int M, int N>
JAXLSTM_INLINE void multiply(const Bfloat16* rows, long row_stride, const Bfloat16* weights, long K,
                             Floats (&sums)[M][4 * N]) {
  const long pairs = padded_depth<Bfloat16>(K) / kPair, panel_stride = pairs * 4 * 32;
  const auto add_pair = [&](long pair, auto&& elements) __attribute__((always_inline)) {
    __m512i a[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) a[m] = opaque(_mm512_set1_epi32(elements(rows + m * row_stride + pair * kPair)));
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

// As pack in panel.h, for a k_stride of 1: transposes squares of 16 columns by 16 pairs.
template <class Columns>
void pack(const Bfloat16* source, long K, long, long column_stride, Columns columns, long begin, long end,
          Bfloat16* packed) {
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
        for (long j = 0; j < (depth + 1) / kPair; j++)
          _mm512_storeu_si512(packed + ((panel * pairs + k / kPair + j) * 4 + v) * kDepth, (__m512i)square[j]);
      }
}

}  // namespace
}  // namespace jaxlstm
