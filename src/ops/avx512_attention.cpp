// Weighted sums of cached values in AVX-512. Rows are read where they lie, as floats, BF16 or codes, 64
// columns at a time, and added to up to four queries' sums that stay in registers over a whole tile of keys.
#if defined(__x86_64__)
#include <cmath>
#include <cstdint>

#include "ops/avx512_kernels.h"
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "ops/avx512_unpack.h"
#include "ops/cache_formats.h"

namespace hlwq::avx512 {
namespace {

constexpr int kChunk = 64;  // columns, four registers
constexpr int kQueries = 4;

/// Rows of floats or BF16 from one column on.
template <typename E>
struct PlainRows {
  const E* data;
  uint64_t stride;

  static __m512 widen(__m256i v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
  }
  template <int V>
  void load(uint64_t r, __m512 (&v)[V]) const {
    const E* p = data + r * stride;
    for (int k = 0; k < V; ++k) {
      if constexpr (sizeof(E) == 4)
        v[k] = _mm512_loadu_ps(p + 16 * k);
      else
        v[k] = widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16 * k)));
    }
  }
  __m512 load_some(uint64_t r, __mmask16 mask) const {
    const E* p = data + r * stride;
    if constexpr (sizeof(E) == 4)
      return _mm512_maskz_loadu_ps(mask, p);
    else
      return widen(_mm256_maskz_loadu_epi16(mask, p));
  }
  float weight(uint64_t) const { return 1; }
};

/// One chunk of columns of coded rows; values without their norm, which weight() gives.
template <int BITS, int G>
struct CodedRows {
  static constexpr int kVectors = kStep<G> / 16;
  const uint8_t* data;  // the granule of the first row
  uint64_t stride;      // bytes from row to row
  int step;             // of the granule
  const uint16_t* norms;
  __m512 levels;

  template <int V>
  void load(uint64_t r, __m512 (&v)[V]) const {
    const __m512i code = codes<BITS, G>(data + r * stride, step);
    v[0] = level(_mm512_castsi512_si128(code));
    v[1] = level(_mm512_extracti32x4_epi32(code, 1));
    if constexpr (V == 4) {
      v[2] = level(_mm512_extracti32x4_epi32(code, 2));
      v[3] = level(_mm512_extracti32x4_epi32(code, 3));
    }
  }
  __m512 level(__m128i code) const { return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(code), levels); }
  float weight(uint64_t r) const { return _cvtsh_ss(norms[r]); }
};

/// y[t, 0..16V) += sum over n rows, for T queries.
template <int T, int V, typename Rows>
inline void add_rows(const Rows& rows, uint64_t n, const float* a, uint64_t a_stride, float* y,
                     uint64_t y_stride) {
  __m512 sum[T][V];
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) sum[t][k] = _mm512_loadu_ps(y + t * y_stride + 16 * k);
  for (uint64_t r = 0; r < n; ++r) {
    __m512 v[V];
    rows.load(r, v);
    const float weight = rows.weight(r);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      const __m512 factor = _mm512_set1_ps(a[t * a_stride + r] * weight);
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k) sum[t][k] = _mm512_fmadd_ps(factor, v[k], sum[t][k]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) _mm512_storeu_ps(y + t * y_stride + 16 * k, sum[t][k]);
}

template <int V, typename Rows>
inline void all_queries(const Rows& rows, uint64_t n, const float* a, uint64_t a_stride, uint64_t tokens,
                        float* y, uint64_t y_stride) {
  uint64_t t = 0;
  for (; t + kQueries <= tokens; t += kQueries)
    add_rows<kQueries, V>(rows, n, a + t * a_stride, a_stride, y + t * y_stride, y_stride);
  if (t + 2 <= tokens) {
    add_rows<2, V>(rows, n, a + t * a_stride, a_stride, y + t * y_stride, y_stride);
    t += 2;
  }
  if (t < tokens) add_rows<1, V>(rows, n, a + t * a_stride, a_stride, y + t * y_stride, y_stride);
}

template <typename E>
inline void plain(const E* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                  uint64_t tokens, float* y, uint64_t y_stride) {
  uint64_t c = 0;
  for (; c + kChunk <= cols; c += kChunk)
    all_queries<4>(PlainRows<E>{w + c, cols}, rows, a, a_stride, tokens, y + c, y_stride);
  for (; c < cols; c += 16) {
    const auto mask = static_cast<__mmask16>(cols - c >= 16 ? 0xffff : (1u << (cols - c)) - 1);
    const PlainRows<E> part{w + c, cols};
    for (uint64_t t = 0; t < tokens; ++t) {
      __m512 sum = _mm512_maskz_loadu_ps(mask, y + t * y_stride + c);
      for (uint64_t r = 0; r < rows; ++r)
        sum = _mm512_fmadd_ps(_mm512_set1_ps(a[t * a_stride + r]), part.load_some(r, mask), sum);
      _mm512_mask_storeu_ps(y + t * y_stride + c, mask, sum);
    }
  }
}

template <int BITS>
inline __m512 scaled_levels(const HlwqMatrix& w) {
  alignas(64) float levels[16];
  const float root = 1 / std::sqrt(static_cast<float>(w.cols));
  for (int i = 0; i < 16; ++i) levels[i] = w.codebook->values[static_cast<size_t>(i) % (1 << BITS)] * root;
  return _mm512_load_ps(levels);
}

/// fn(rows, first column) for every chunk of columns.
template <int BITS, int G, typename Fn>
inline void coded_chunks(const HlwqMatrix& w, Fn&& fn) {
  const __m512 levels = scaled_levels<BITS>(w);
  const uint64_t stride = w.format.block_bytes();
  for (uint64_t c = 0; c < w.cols; c += kStep<G>)
    fn(CodedRows<BITS, G>{w.codes + c / G * (G * BITS / 8), stride, static_cast<int>(c % G / kStep<G>),
                          w.norms, levels},
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
      all_queries<CodedRows<BITS, G>::kVectors>(rows, w.rows, a, a_stride, tokens, y + c, y_stride);
    });
  });
}

void decode_codes(const HlwqMatrix& w, float* out) {
  for_cache_format(w, [&]<int BITS, int G>() {
    coded_chunks<BITS, G>(w, [&](const CodedRows<BITS, G>& rows, uint64_t c) {
      constexpr int kVectors = CodedRows<BITS, G>::kVectors;
      for (uint64_t r = 0; r < w.rows; ++r) {
        __m512 v[kVectors];
        rows.load(r, v);
        const __m512 norm = _mm512_set1_ps(rows.weight(r));
        for (int k = 0; k < kVectors; ++k)
          _mm512_storeu_ps(out + r * w.cols + c + 16 * k, _mm512_mul_ps(v[k], norm));
      }
    });
  });
}

}  // namespace hlwq::avx512
#endif
