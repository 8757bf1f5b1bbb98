#if defined(__x86_64__)
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "quant/trellis_search.h"
#pragma GCC target("avx2,fma")
#include <immintrin.h>

#include "quant/trellis_lanes.h"

namespace hlwq {
namespace {

/// Two vectors of eight lanes, so that one broadcast of a table's value serves both.
struct Lanes {
  static constexpr int kWidth = 16, kTile = 4;
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };
  static __m256i half(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void half(int32_t* p, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }

  static I load(const int32_t* p) { return {half(p), half(p + 8)}; }
  static void store(int32_t* p, I x) { half(p, x.a), half(p + 8, x.b); }
  static I set1(int x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I add(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static I sub(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  static I min(I x, I y) { return {_mm256_min_epi32(x.a, y.a), _mm256_min_epi32(x.b, y.b)}; }
  static void keep(I& x) { asm("" : "+x"(x.a), "+x"(x.b)); }
  static I mul(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
  static I madd(I x, I y, I z) { return add(z, {_mm256_madd_epi16(x.a, y.a), _mm256_madd_epi16(x.b, y.b)}); }
  static I bit_and(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
  static I bit_or(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
  static I shift_left(I x, int bits) { return {_mm256_slli_epi32(x.a, bits), _mm256_slli_epi32(x.b, bits)}; }
  static I shift_right(I x, int bits) { return {_mm256_srli_epi32(x.a, bits), _mm256_srli_epi32(x.b, bits)}; }
  static I lanes() {
    const __m256i first = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {first, _mm256_add_epi32(first, _mm256_set1_epi32(8))};
  }
  static I gather(const int32_t* base, I index) {
    return {_mm256_i32gather_epi32(base, index.a, 4), _mm256_i32gather_epi32(base, index.b, 4)};
  }
  static I equal(I x, I y, I yes, I no) {
    return {_mm256_blendv_epi8(no.a, yes.a, _mm256_cmpeq_epi32(x.a, y.a)),
            _mm256_blendv_epi8(no.b, yes.b, _mm256_cmpeq_epi32(x.b, y.b))};
  }
  static void store_bytes(I x, uint8_t* p) {
    // Packs work within halves of 128 bits: words 0-3, 8-11, 4-7, 12-15.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(x.a, x.b), 0xd8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }
  static F loadf(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void storef(float* p, F x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
  static F set1f(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F addf(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F mulf(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F minf(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F maxf(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F fmaf(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static I round(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }

  template <int LEVELS>
  static __m256i lookup_half(const int32_t* table, __m256i index) {
    if constexpr (LEVELS <= 8) return _mm256_permutevar8x32_epi32(half(table), index);
    if constexpr (LEVELS > 16) return _mm256_i32gather_epi32(table, index, 4);
    const __m256i low = _mm256_permutevar8x32_epi32(half(table), index);
    const __m256i high = _mm256_permutevar8x32_epi32(half(table + 8), index);
    // Bit 3 of the index, as the sign that a blend of floats looks at.
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high),
                                                _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
  }
  template <int LEVELS>
  static I lookup(const int32_t* table, I index) {
    return {lookup_half<LEVELS>(table, index.a), lookup_half<LEVELS>(table, index.b)};
  }
  template <int LEVELS>
  static F lookup(const float* table, I index) {
    const I bits = lookup<LEVELS>(reinterpret_cast<const int32_t*>(table), index);
    return {_mm256_castsi256_ps(bits.a), _mm256_castsi256_ps(bits.b)};
  }
};

}  // namespace

const TrellisSearch kAvx2Trellis = {"avx2", Lanes::kWidth, trellis_search<Lanes>};

}  // namespace hlwq
#endif
