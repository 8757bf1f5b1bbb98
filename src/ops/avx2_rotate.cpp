// Rotation and INT8 rounding of activations in AVX2; the same bits as the scalar one, since the additions are
// the same.
#if defined(__x86_64__)
#include <cstdint>

#include "ops/avx2_kernels.h"
#pragma GCC target("avx2,fma,f16c")
#include "ops/avx2_butterflies.h"

namespace hlwq::avx2 {
namespace {

constexpr int kMaxBlock = 512;

float largest_magnitude(const float* x, int n) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 m = _mm256_setzero_ps();
  for (int i = 0; i < n; i += 8) m = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_load_ps(x + i)), m);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/// q = round(x * factor); returns the sum of q.
int32_t round_to_int8(const float* x, float factor, int n, int8_t* q) {
  const __m256 f = _mm256_set1_ps(factor);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // undoes what packing per 128 bits mixes
  __m256i total = _mm256_setzero_si256();
  for (int i = 0; i < n; i += 32) {
    __m256i v[4];
    for (int k = 0; k < 4; ++k) v[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(x + i + 8 * k), f));
    total =
        _mm256_add_epi32(total, _mm256_add_epi32(_mm256_add_epi32(v[0], v[1]), _mm256_add_epi32(v[2], v[3])));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), _mm256_permutevar8x32_epi32(bytes, order));
  }
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

}  // namespace

void rotate_quantize(const float* x, uint64_t cols, int block, int8_t* q, float* scale, int32_t* sum) {
  alignas(32) float h[kMaxBlock];
  const uint64_t blocks = ceil_div(cols, static_cast<uint64_t>(block));
  for (uint64_t b = 0; b < blocks; ++b, q += block) {
    const uint64_t begin = b * block, left = cols - begin, width = static_cast<uint64_t>(block);
    const uint64_t n = left < width ? left : width;
    __builtin_memcpy(h, x + begin, n * sizeof(float));
    __builtin_memset(h + n, 0, (width - n) * sizeof(float));
    butterflies(h, block);
    const float absmax = largest_magnitude(h, block);
    const bool finite = __builtin_isfinite(h[0]) && __builtin_isfinite(absmax);
    const float to_q = finite && absmax > 0 ? 127 / absmax : 0;
    const bool zero = !(__builtin_isfinite(to_q) && to_q > 0);
    if (zero) __builtin_memset(q, 0, width);
    sum[b] = zero ? 0 : round_to_int8(h, to_q, block, q);
    scale[b] = finite ? absmax * (1.0f / (127.0f * static_cast<float>(block))) : __builtin_nanf("");
  }
}

}  // namespace hlwq::avx2
#endif
