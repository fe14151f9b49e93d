// AMX in software, for processors with AVX-512 but without AMX.
//
// With the compiler option `-include amx_in_software.h`, the AMX kernels call these functions instead of the
// intrinsics, and run on any processor with AVX-512. Every tile has 16 rows of 64 bytes. Sums are added and rounded in
// the order of Intel's definition of TDPBF16PS and TDPFP16PS. Subnormal bfloat16 flush to zero, but subnormal float16
// and subnormal sums do not. To build the library for its own tests this way:
//
//   CXXFLAGS="-include $PWD/tools/kernel_harness/amx_in_software.h" python setup.py build_ext --inplace --force
#pragma once
#define JAXLSTM_AMX_IN_SOFTWARE 1

#if defined(__AMX_BF16__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

alignas(64) thread_local uint32_t software_tiles[8][16][16];  // words of two bfloat16 or one float32

inline void software_zero(int tile) { std::memset(software_tiles[tile], 0, sizeof software_tiles[tile]); }
inline void software_load(int tile, const void* from, long stride) {
  for (int r = 0; r < 16; r++) std::memcpy(software_tiles[tile][r], static_cast<const char*>(from) + r * stride, 64);
}
inline void software_store(int tile, void* to, long stride) {
  for (int r = 0; r < 16; r++) std::memcpy(static_cast<char*>(to) + r * stride, software_tiles[tile][r], 64);
}

// Widens the first or the second numbers of pairs.
struct SoftwareBfloat16 {
  static __m512 first(__m512i pairs) { return (__m512)_mm512_slli_epi32(pairs, 16); }
  static __m512 second(__m512i pairs) {
    return (__m512)_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000)));
  }
};
struct SoftwareFloat16 {
  static __m512 first(__m512i pairs) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs)); }
  static __m512 second(__m512i pairs) { return first(_mm512_srli_epi32(pairs, 16)); }
};

// Adds the product of a and b to tile `to`: row r += sum over k of a[r][k] b[k], where a[r][k] and b[k] are pairs. The
// first and second numbers of the pairs have separate sums.
template <class Format>
inline void software_multiply(int to, int a, int b) {
  for (int r = 0; r < 16; r++) {
    __m512 first = _mm512_setzero_ps(), second = first;
    for (int k = 0; k < 16; k++) {
      const __m512i left = _mm512_set1_epi32(int(software_tiles[a][r][k]));
      const __m512i right = _mm512_load_si512(software_tiles[b][k]);
      first = _mm512_fmadd_ps(Format::first(left), Format::first(right), first);
      second = _mm512_fmadd_ps(Format::second(left), Format::second(right), second);
    }
    const __m512 sum = _mm512_add_ps(first, second);
    _mm512_store_ps(software_tiles[to][r], _mm512_add_ps(_mm512_load_ps(software_tiles[to][r]), sum));
  }
}

// Rounds to the nearest bfloat16, with ties to even. NaN stays NaN.
inline __m256i software_bfloat16(__m512 values) {
  const __m512i bits = (__m512i)values, odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i sign = _mm512_and_si512(bits, _mm512_set1_epi32(int(0x80000000)));
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __mmask16 tiny = _mm512_cmplt_ps_mask(_mm512_abs_ps(values), _mm512_set1_ps(0x1p-126f));
  const __m512i normal = _mm512_mask_mov_epi32(rounded, nan, quiet);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(normal, tiny, sign), 16));
}

}  // namespace

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) ((void)(config))
#define _tile_release() ((void)0)
#define _tile_zero software_zero
#define _tile_loadd software_load
#define _tile_stored software_store
#define _tile_dpbf16ps software_multiply<SoftwareBfloat16>
#define JAXLSTM_DPFP16PS software_multiply<SoftwareFloat16>
#define _mm512_cvtneps_pbh software_bfloat16
#endif
