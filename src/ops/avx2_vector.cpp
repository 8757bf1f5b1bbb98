// Float kernels in AVX2 and FMA.
#if defined(__x86_64__)
#include <cstdint>

#include "base/half.h"
#include "ops/avx2_kernels.h"
#pragma GCC target("avx2,fma,f16c")
#include <immintrin.h>

namespace hlwq::avx2 {

static inline float horizontal_sum(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline __m256 load_bf16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline __m256 load_as_float(const float* p) { return _mm256_loadu_ps(p); }
static inline __m256 load_as_float(const uint16_t* p) { return load_bf16(p); }
static inline float one_as_float(float v) { return v; }
static inline float one_as_float(uint16_t v) { return bf16_to_float(v); }

template <typename B>
static inline float dot_any(const float* a, const B* b, uint64_t n) {
  __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  uint64_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (int k = 0; k < 4; ++k)
      s[k] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8 * k), load_as_float(b + i + 8 * k), s[k]);
  for (; i + 8 <= n; i += 8) s[0] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), load_as_float(b + i), s[0]);
  float sum = horizontal_sum(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
  for (; i < n; ++i) sum += a[i] * one_as_float(b[i]);
  return sum;
}

float dot(const float* a, const float* b, uint64_t n) { return dot_any(a, b, n); }
float dot_bf16(const float* a, const uint16_t* b, uint64_t n) { return dot_any(a, b, n); }
float sum_sq(const float* x, uint64_t n) { return dot_any(x, x, n); }

template <typename X>
static inline void axpy_any(float alpha, const X* x, float* y, uint64_t n) {
  const __m256 a = _mm256_set1_ps(alpha);
  uint64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(y + i, _mm256_fmadd_ps(a, load_as_float(x + i), _mm256_loadu_ps(y + i)));
  for (; i < n; ++i) y[i] += alpha * one_as_float(x[i]);
}

void axpy(float alpha, const float* x, float* y, uint64_t n) { axpy_any(alpha, x, y, n); }
void axpy_bf16(float alpha, const uint16_t* x, float* y, uint64_t n) { axpy_any(alpha, x, y, n); }

// ---- gemm

constexpr int kGemmRows = 4, kGemmTokens = 3;  // 12 accumulators, 3 activations, 1 weight: all 16 registers
constexpr uint64_t kGemmDepth = 1024;          // columns at a time: 4 rows of them fit L1
constexpr uint64_t kGemmTokenGroup = 48;       // tokens at a time: 192 KB of activations, in L2

/// y[t, r] (+)= <w_r, x_t> over n columns for R rows and T tokens.
template <int R, int T>
static inline void gemm_tile(const float* w, uint64_t w_stride, const float* x, uint64_t x_stride, uint64_t n,
                             bool first, float* y, uint64_t y_stride) {
  __m256 s[R][T];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) s[r][t] = _mm256_setzero_ps();
  uint64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 xv[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) xv[t] = _mm256_loadu_ps(x + t * x_stride + i);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256 wv = _mm256_loadu_ps(w + r * w_stride + i);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) s[r][t] = _mm256_fmadd_ps(wv, xv[t], s[r][t]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      float sum = horizontal_sum(s[r][t]);
      for (uint64_t k = i; k < n; ++k) sum += w[r * w_stride + k] * x[t * x_stride + k];
      float& out = y[t * y_stride + r];
      out = first ? sum : out + sum;
    }
}

template <int R>
static inline void gemm_rows(const float* w, uint64_t w_stride, const float* x, uint64_t x_stride,
                             uint64_t tokens, uint64_t n, bool first, float* y, uint64_t y_stride) {
  uint64_t t = 0;
  for (; t + kGemmTokens <= tokens; t += kGemmTokens)
    gemm_tile<R, kGemmTokens>(w, w_stride, x + t * x_stride, x_stride, n, first, y + t * y_stride, y_stride);
  for (; t < tokens; ++t)
    gemm_tile<R, 1>(w, w_stride, x + t * x_stride, x_stride, n, first, y + t * y_stride, y_stride);
}

void gemm(const float* w, uint64_t rows, uint64_t cols, const float* x, uint64_t x_stride, uint64_t tokens,
          float* y, uint64_t y_stride) {
  for (uint64_t t0 = 0; t0 < tokens; t0 += kGemmTokenGroup) {
    const uint64_t group = tokens - t0 < kGemmTokenGroup ? tokens - t0 : kGemmTokenGroup;
    for (uint64_t k = 0; k < cols || k == 0; k += kGemmDepth) {
      const uint64_t n = cols - k < kGemmDepth ? cols - k : kGemmDepth;
      const float* xk = x + t0 * x_stride + k;
      float* yk = y + t0 * y_stride;
      uint64_t r = 0;
      for (; r + kGemmRows <= rows; r += kGemmRows)
        gemm_rows<kGemmRows>(w + r * cols + k, cols, xk, x_stride, group, n, k == 0, yk + r, y_stride);
      for (; r < rows; ++r)
        gemm_rows<1>(w + r * cols + k, cols, xk, x_stride, group, n, k == 0, yk + r, y_stride);
    }
  }
}

// ---- exponentials

/// e^x to some 2e-7 relative; arguments are cut off at 88, results below e^-87.3 are zero, NaN stays NaN.
static inline __m256 exp8(__m256 x) {
  const __m256 log2e = _mm256_set1_ps(1.44269504f);
  const __m256 clamped = _mm256_max_ps(_mm256_set1_ps(-88.0f), _mm256_min_ps(_mm256_set1_ps(88.0f), x));
  const __m256 n =
      _mm256_round_ps(_mm256_mul_ps(clamped, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 in two parts, the first with few bits so that n times it is exact.
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), clamped);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  // Taylor to r^7 / 5040: the rest is below 0.3466^8 / 40320 = 5.2e-9.
  __m256 p = _mm256_set1_ps(1.0f / 5040);
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
  const __m256i exponent =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  const __m256 result = _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
  const __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.3f), _CMP_LT_OQ);
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  return _mm256_blendv_ps(_mm256_andnot_ps(tiny, result), x, nan);
}

/// Loads n <= 8 floats, the rest filled with `fill`; and stores n.
static inline __m256 load_some(const float* p, uint64_t n, float fill) {
  alignas(32) float buffer[8];
  _mm256_store_ps(buffer, _mm256_set1_ps(fill));
  __builtin_memcpy(buffer, p, n * sizeof(float));
  return _mm256_load_ps(buffer);
}
static inline void store_some(float* p, uint64_t n, __m256 v) {
  alignas(32) float buffer[8];
  _mm256_store_ps(buffer, v);
  __builtin_memcpy(p, buffer, n * sizeof(float));
}

float softmax_unnormalized(float* x, uint64_t n) {
  if (n == 0) return 0;
  float top = x[0];
  __m256 m = _mm256_set1_ps(top);
  uint64_t i = 0;
  for (; i + 8 <= n; i += 8) m = _mm256_max_ps(_mm256_loadu_ps(x + i), m);
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, m);
  for (float v : lanes) top = v > top ? v : top;
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;

  const __m256 shift = _mm256_set1_ps(top);
  __m256 sum = _mm256_setzero_ps();
  for (i = 0; i + 8 <= n; i += 8) {
    const __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), shift));
    _mm256_storeu_ps(x + i, e);
    sum = _mm256_add_ps(sum, e);
  }
  float total = horizontal_sum(sum);
  if (i < n) {
    store_some(x + i, n - i, exp8(_mm256_sub_ps(load_some(x + i, n - i, top), shift)));
    for (; i < n; ++i) total += x[i];
  }
  return total;
}

/// 1 / (1 + e^-z).
static inline __m256 sigmoid8(__m256 z) {
  const __m256 one = _mm256_set1_ps(1);
  return _mm256_div_ps(one, _mm256_add_ps(one, exp8(_mm256_sub_ps(_mm256_setzero_ps(), z))));
}

struct Gelu {
  /// 0.5 g (1 + tanh(u)) = g sigmoid(2 u): no cancellation where tanh is near -1.
  static __m256 apply(__m256 g) {
    const __m256 cubic = _mm256_fmadd_ps(_mm256_mul_ps(g, g), _mm256_set1_ps(2 * 0.7978845608f * 0.044715f),
                                         _mm256_set1_ps(2 * 0.7978845608f));
    return _mm256_mul_ps(g, sigmoid8(_mm256_mul_ps(g, cubic)));
  }
};
struct Silu {
  static __m256 apply(__m256 g) { return _mm256_mul_ps(g, sigmoid8(g)); }
};

template <typename Activation>
static inline void gated(const float* gate, const float* up, float* y, uint64_t n) {
  uint64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(y + i,
                     _mm256_mul_ps(Activation::apply(_mm256_loadu_ps(gate + i)), _mm256_loadu_ps(up + i)));
  if (i < n)
    store_some(y + i, n - i,
               _mm256_mul_ps(Activation::apply(load_some(gate + i, n - i, 0)), load_some(up + i, n - i, 0)));
}

void gelu_tanh_mul(const float* gate, const float* up, float* y, uint64_t n) { gated<Gelu>(gate, up, y, n); }
void silu_mul(const float* gate, const float* up, float* y, uint64_t n) { gated<Silu>(gate, up, y, n); }

// ---- conversions

void bf16_to_floats(const uint16_t* x, float* y, uint64_t n) {
  uint64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, load_bf16(x + i));
  for (; i < n; ++i) y[i] = bf16_to_float(x[i]);
}

void floats_to_bf16(const float* x, uint16_t* y, uint64_t n) {
  uint64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i half = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_castsi256_si128(packed));
  }
  for (; i < n; ++i) y[i] = float_to_bf16(x[i]);
}

}  // namespace hlwq::avx2

namespace hlwq {

constinit const Kernels kAvx2Kernels = {
    "avx2", {avx2::rotate_quantize, avx2::hlwq_rows}, avx2::kVectorKernels, avx2::kAttentionKernels};

}  // namespace hlwq
#endif
