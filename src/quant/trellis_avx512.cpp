#if defined(__x86_64__)
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "quant/trellis_search.h"
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
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
  static I load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, I x) { _mm512_storeu_si512(p, x); }
  static I set1(int x) { return _mm512_set1_epi32(x); }
  static I add(I a, I b) { return _mm512_add_epi32(a, b); }
  static I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I min(I a, I b) { return _mm512_min_epi32(a, b); }
  static void keep(I& x) { asm("" : "+v"(x)); }
  static I mul(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static I madd(I a, I b, I c) { return _mm512_dpwssd_epi32(c, a, b); }
  static I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
  static I bit_or(I a, I b) { return _mm512_or_si512(a, b); }
  static I shift_left(I a, int bits) { return _mm512_slli_epi32(a, static_cast<unsigned>(bits)); }
  static I shift_right(I a, int bits) { return _mm512_srli_epi32(a, static_cast<unsigned>(bits)); }
  static I lanes() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static I gather(const int32_t* base, I index) { return _mm512_i32gather_epi32(index, base, 4); }
  static I equal(I a, I b, I yes, I no) {
    return _mm512_mask_mov_epi32(no, _mm512_cmpeq_epi32_mask(a, b), yes);
  }
  static void store_bytes(I x, uint8_t* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
  }
  static F loadf(const float* p) { return _mm512_loadu_ps(p); }
  static void storef(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F set1f(float x) { return _mm512_set1_ps(x); }
  static F addf(F a, F b) { return _mm512_add_ps(a, b); }
  static F mulf(F a, F b) { return _mm512_mul_ps(a, b); }
  static F minf(F a, F b) { return _mm512_min_ps(a, b); }
  static F maxf(F a, F b) { return _mm512_max_ps(a, b); }
  static I round(F a) { return _mm512_cvtps_epi32(a); }
  static F fmaf(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  template <int LEVELS>
  static I lookup(const int32_t* table, I index) {
    if constexpr (LEVELS <= 16) return _mm512_permutexvar_epi32(index, load(table));
    const I low = _mm512_permutex2var_epi32(load(table), index, load(table + 16));
    if constexpr (LEVELS <= 32) return low;
    const I high = _mm512_permutex2var_epi32(load(table + 32), index, load(table + 48));
    return _mm512_mask_mov_epi32(low, _mm512_test_epi32_mask(index, set1(32)), high);
  }
  template <int LEVELS>
  static F lookup(const float* table, I index) {
    return _mm512_castsi512_ps(lookup<LEVELS>(reinterpret_cast<const int32_t*>(table), index));
  }
};

}  // namespace

const TrellisSearch kAvx512Trellis = {"avx512", Lanes::kWidth, trellis_search<Lanes>};

}  // namespace hlwq
#endif
