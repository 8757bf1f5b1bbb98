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

struct Lanes {
  static constexpr int kWidth = 8, kTile = 8;
  using F = __m256;
  using I = __m256i;
  static I load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(int32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static I set1(int x) { return _mm256_set1_epi32(x); }
  static I add(I a, I b) { return _mm256_add_epi32(a, b); }
  static I sub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I min(I a, I b) { return _mm256_min_epi32(a, b); }
  static I mul(I a, I b) { return _mm256_mullo_epi32(a, b); }
  static I madd(I a, I b, I c) { return _mm256_add_epi32(c, _mm256_madd_epi16(a, b)); }
  static I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
  static I bit_or(I a, I b) { return _mm256_or_si256(a, b); }
  static I shift_left(I a, int bits) { return _mm256_slli_epi32(a, bits); }
  static I shift_right(I a, int bits) { return _mm256_srli_epi32(a, bits); }
  static I lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static I gather(const int32_t* base, I index) { return _mm256_i32gather_epi32(base, index, 4); }
  static I equal(I a, I b, I yes, I no) { return _mm256_blendv_epi8(no, yes, _mm256_cmpeq_epi32(a, b)); }
  static void store_bytes(I x, uint8_t* p) {
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
  static F loadf(const float* p) { return _mm256_loadu_ps(p); }
  static void storef(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F set1f(float x) { return _mm256_set1_ps(x); }
  static F addf(F a, F b) { return _mm256_add_ps(a, b); }
  static F mulf(F a, F b) { return _mm256_mul_ps(a, b); }
  static F minf(F a, F b) { return _mm256_min_ps(a, b); }
  static F maxf(F a, F b) { return _mm256_max_ps(a, b); }
  static I round(F a) { return _mm256_cvtps_epi32(a); }
  static F fmaf(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  template <int LEVELS>
  static I lookup(const int32_t* table, I index) {
    if constexpr (LEVELS <= 8) return _mm256_permutevar8x32_epi32(load(table), index);
    return gather(table, index);
  }
  template <int LEVELS>
  static F lookup(const float* table, I index) {
    return _mm256_castsi256_ps(lookup<LEVELS>(reinterpret_cast<const int32_t*>(table), index));
  }
};

}  // namespace

const TrellisSearch kAvx2Trellis = {"avx2", Lanes::kWidth, trellis_search<Lanes>};

}  // namespace hlwq
#endif
