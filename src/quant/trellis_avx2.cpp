#if defined(__x86_64__)
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
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
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F gather(const float* base, I index) { return _mm256_i32gather_ps(base, index, 4); }
  static I iload(const int* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static I iset1(int x) { return _mm256_set1_epi32(x); }
  static I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
  static I scale(I a, int factor) { return _mm256_mullo_epi32(a, _mm256_set1_epi32(factor)); }
  static I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
  static I bit_or(I a, I b) { return _mm256_or_si256(a, b); }
  static I shift_left(I a, int bits) { return _mm256_slli_epi32(a, bits); }
  static I shift_right(I a, int bits) { return _mm256_srli_epi32(a, bits); }
  static I lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static I equal(F a, F b, I yes, I no) {
    return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)));
  }
  static void store_bytes(I x, uint8_t* p) {
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
};

}  // namespace

const TrellisSearch kAvx2Trellis = {"avx2", Lanes::kWidth, trellis_search<Lanes>};

}  // namespace hlwq
#endif
