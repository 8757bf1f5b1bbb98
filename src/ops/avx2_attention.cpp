// Weighted sums of cached values in AVX2: 32 columns at a time, for up to two queries in registers.
#if defined(__x86_64__)
#include <cmath>
#include <cstdint>

#include "base/half.h"
#include "ops/avx2_kernels.h"
#include "ops/scalar_kernels.h"
#pragma GCC target("avx2,fma,f16c")
#include "ops/avx2_butterflies.h"
#include "ops/avx2_unpack.h"
#include "ops/cache_formats.h"

namespace hlwq::avx2 {
namespace {

constexpr int kChunk = 32, kVectors = 4;  // columns; registers of 8
constexpr int kQueries = 2;               // 8 sums, 4 values, levels and a factor: all 16 registers

inline __m256 widen(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 widen(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline float one(float v) { return v; }
inline float one(uint16_t v) { return bf16_to_float(v); }

/// Rows of floats or BF16 from one column on.
template <typename E>
struct PlainRows {
  const E* data;
  uint64_t stride;
  void load(uint64_t r, __m256 (&v)[kVectors]) const {
    for (int k = 0; k < kVectors; ++k) v[k] = widen(data + r * stride + 8 * k);
  }
  float weight(uint64_t) const { return 1; }
};

/// Stored codes 32j .. 32j + 31 of the granule of G codes at `p`, one a byte.
template <int BITS, int G>
inline __m256i codes(const uint8_t* p, int j) {
  if constexpr (BITS == 4) return nibbles<G>(p, j);
  const __m256i low = _mm256_and_si256(pairs<G>(p, j), _mm256_set1_epi8(3));
  if constexpr (BITS == 2) return low;
  return _mm256_or_si256(low, _mm256_and_si256(bit_mask(p + G / 4, j), _mm256_set1_epi8(4)));
}

/// One chunk of columns of coded rows; values without their norm, which weight() gives.
template <int BITS, int G>
struct CodedRows {
  const uint8_t* data;  // the granule of the first row
  uint64_t stride;      // bytes from row to row
  int step;             // of the granule
  const uint16_t* norms;
  __m256 low, high;  // levels 0..7 and 8..15

  void load(uint64_t r, __m256 (&v)[kVectors]) const {
    const __m256i code = codes<BITS, G>(data + r * stride, step);
    const __m128i half[2] = {_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1)};
    for (int k = 0; k < kVectors; ++k)
      v[k] = level(_mm256_cvtepu8_epi32(k % 2 ? _mm_srli_si128(half[k / 2], 8) : half[k / 2]));
  }
  __m256 level(__m256i index) const {
    const __m256 first = _mm256_permutevar8x32_ps(low, index);
    if constexpr (BITS < 4) return first;
    const __m256 select = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 becomes the sign
    return _mm256_blendv_ps(first, _mm256_permutevar8x32_ps(high, index), select);
  }
  float weight(uint64_t r) const { return _cvtsh_ss(norms[r]); }
};

/// y[t, 0..32) += sum over n rows, for T queries.
template <int T, typename Rows>
inline void add_rows(const Rows& rows, uint64_t n, const float* a, uint64_t a_stride, float* y,
                     uint64_t y_stride) {
  __m256 sum[T][kVectors];
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) sum[t][k] = _mm256_loadu_ps(y + t * y_stride + 8 * k);
  for (uint64_t r = 0; r < n; ++r) {
    __m256 v[kVectors];
    rows.load(r, v);
    const float weight = rows.weight(r);
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) {
      const __m256 factor = _mm256_set1_ps(a[t * a_stride + r] * weight);
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) sum[t][k] = _mm256_fmadd_ps(factor, v[k], sum[t][k]);
    }
  }
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) _mm256_storeu_ps(y + t * y_stride + 8 * k, sum[t][k]);
}

template <typename Rows>
inline void all_queries(const Rows& rows, uint64_t n, const float* a, uint64_t a_stride, uint64_t tokens,
                        float* y, uint64_t y_stride) {
  uint64_t t = 0;
  for (; t + kQueries <= tokens; t += kQueries)
    add_rows<kQueries>(rows, n, a + t * a_stride, a_stride, y + t * y_stride, y_stride);
  if (t < tokens) add_rows<1>(rows, n, a + t * a_stride, a_stride, y + t * y_stride, y_stride);
}

template <typename E>
inline void plain(const E* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                  uint64_t tokens, float* y, uint64_t y_stride) {
  uint64_t c = 0;
  for (; c + kChunk <= cols; c += kChunk)
    all_queries(PlainRows<E>{w + c, cols}, rows, a, a_stride, tokens, y + c, y_stride);
  for (; c < cols; ++c)
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t r = 0; r < rows; ++r) y[t * y_stride + c] += a[t * a_stride + r] * one(w[r * cols + c]);
}

/// fn(rows, first column) for every chunk of columns.
template <int BITS, int G, typename Fn>
inline void coded_chunks(const HlwqMatrix& w, Fn&& fn) {
  alignas(32) float levels[16];
  const float root = 1 / std::sqrt(static_cast<float>(w.cols));
  for (int i = 0; i < 16; ++i) levels[i] = w.codebook->values[static_cast<size_t>(i) % (1 << BITS)] * root;
  const __m256 low = _mm256_load_ps(levels), high = _mm256_load_ps(levels + 8);
  for (uint64_t c = 0; c < w.cols; c += kChunk)
    fn(CodedRows<BITS, G>{w.codes + c / G * (G * BITS / 8), w.format.block_bytes(),
                          static_cast<int>(c % G / kChunk), w.norms, low, high},
       c);
}

}  // namespace

void accumulate(const float* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                uint64_t tokens, float* y, uint64_t y_stride) {
  plain(w, rows, cols, a, a_stride, tokens, y, y_stride);
}

void accumulate_bf16(const uint16_t* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                     uint64_t tokens, float* y, uint64_t y_stride) {
  plain(w, rows, cols, a, a_stride, tokens, y, y_stride);
}

void accumulate_codes(const HlwqMatrix& w, const float* a, uint64_t a_stride, uint64_t tokens, float* y,
                      uint64_t y_stride) {
  for_cache_format(w, [&]<int BITS, int G>() {
    coded_chunks<BITS, G>(w, [&](const CodedRows<BITS, G>& rows, uint64_t c) {
      all_queries(rows, w.rows, a, a_stride, tokens, y + c, y_stride);
    });
  });
}

void decode_codes(const HlwqMatrix& w, float* out) {
  for_cache_format(w, [&]<int BITS, int G>() {
    coded_chunks<BITS, G>(w, [&](const CodedRows<BITS, G>& rows, uint64_t c) {
      for (uint64_t r = 0; r < w.rows; ++r) {
        __m256 v[kVectors];
        rows.load(r, v);
        const __m256 norm = _mm256_set1_ps(rows.weight(r));
        for (int k = 0; k < kVectors; ++k)
          _mm256_storeu_ps(out + r * w.cols + c + 8 * k, _mm256_mul_ps(v[k], norm));
      }
    });
  });
}

void turn_pairs(const float* rotated, uint64_t n, uint64_t d, uint64_t pairs, const float* weight,
                const float* rope, float* out) {
  if (pairs < 8) return scalar::turn_pairs(rotated, n, d, pairs, weight, rope, out);
  alignas(32) float v[512];
  const uint64_t half = d / 2;
  const __m256 scale = _mm256_set1_ps(1 / std::sqrt(static_cast<float>(d)));
  const __m256 one = _mm256_set1_ps(1);
  for (uint64_t j = 0; j < n; ++j, rotated += d, rope += 2 * pairs, out += 2 * pairs) {
    for (uint64_t top = 0; top < 2; ++top)
      for (uint64_t i = 0; i < pairs; i += 8) {
        __m256 sum = _mm256_setzero_ps();
        for (uint64_t k = 0; k < half; k += pairs)
          sum = _mm256_add_ps(sum, _mm256_loadu_ps(rotated + top * half + k + i));
        _mm256_store_ps(v + top * pairs + i, _mm256_mul_ps(sum, scale));
      }
    butterflies(v, static_cast<int>(2 * pairs));
    for (uint64_t i = 0; i < pairs; i += 8) {
      const __m256 a = _mm256_mul_ps(_mm256_load_ps(v + i), _mm256_loadu_ps(weight + i));
      const __m256 b = _mm256_mul_ps(_mm256_load_ps(v + pairs + i), _mm256_loadu_ps(weight + half + i));
      const __m256 c = _mm256_sub_ps(_mm256_loadu_ps(rope + i), one), s = _mm256_loadu_ps(rope + pairs + i);
      _mm256_storeu_ps(out + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
      _mm256_storeu_ps(out + pairs + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
  }
}

}  // namespace hlwq::avx2
#endif
