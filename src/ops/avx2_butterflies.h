// The Walsh-Hadamard transform in AVX2. Included by files that target AVX2, after `#pragma GCC target`.
#pragma once

#include <immintrin.h>

namespace hlwq::avx2 {
namespace {

/// Strides 1, 2 and 4 inside a register: (a, b) -> (a + b, a - b).
inline __m256 butterfly8(__m256 v) {
  __m256 other = _mm256_permute_ps(v, 0xb1);
  v = _mm256_blend_ps(_mm256_add_ps(v, other), _mm256_sub_ps(other, v), 0xaa);
  other = _mm256_permute_ps(v, 0x4e);
  v = _mm256_blend_ps(_mm256_add_ps(v, other), _mm256_sub_ps(other, v), 0xcc);
  other = _mm256_permute2f128_ps(v, v, 1);
  return _mm256_blend_ps(_mm256_add_ps(v, other), _mm256_sub_ps(other, v), 0xf0);
}

/// The unnormalised transform of n = 8, 16, 32... floats, 32-byte aligned, in place.
inline void butterflies(float* x, int n) {
  for (int i = 0; i < n; i += 8) _mm256_store_ps(x + i, butterfly8(_mm256_load_ps(x + i)));
  for (int stride = 8; stride < n; stride *= 2)
    for (int i = 0; i < n; i += 2 * stride)
      for (int j = i; j < i + stride; j += 8) {
        const __m256 a = _mm256_load_ps(x + j), b = _mm256_load_ps(x + j + stride);
        _mm256_store_ps(x + j, _mm256_add_ps(a, b));
        _mm256_store_ps(x + j + stride, _mm256_sub_ps(a, b));
      }
}

}  // namespace
}  // namespace hlwq::avx2
