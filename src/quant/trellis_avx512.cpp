#if defined(__x86_64__)
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "quant/trellis_search.h"
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
// g++ 12's own AVX-512 headers pass variables that are deliberately not initialised.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "quant/trellis_lanes.h"

namespace hlwq {
namespace {

struct Lanes {
  static constexpr int kWidth = 16, kTile = 16;
  using F = __m512;
  using I = __m512i;
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F gather(const float* base, I index) { return _mm512_i32gather_ps(index, base, 4); }
  static I iload(const int* p) { return _mm512_loadu_si512(p); }
  static I iset1(int x) { return _mm512_set1_epi32(x); }
  static I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
  static I scale(I a, int factor) { return _mm512_mullo_epi32(a, _mm512_set1_epi32(factor)); }
  static I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
  static I bit_or(I a, I b) { return _mm512_or_si512(a, b); }
  static I shift_left(I a, int bits) { return _mm512_slli_epi32(a, static_cast<unsigned>(bits)); }
  static I shift_right(I a, int bits) { return _mm512_srli_epi32(a, static_cast<unsigned>(bits)); }
  static I lanes() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static I equal(F a, F b, I yes, I no) {
    return _mm512_mask_mov_epi32(no, _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), yes);
  }
  static void store_bytes(I x, uint8_t* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
  }
};

}  // namespace

const TrellisSearch kAvx512Trellis = {"avx512", Lanes::kWidth, trellis_search<Lanes>};

}  // namespace hlwq
#endif
