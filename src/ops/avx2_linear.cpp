// The HLWQ linear in AVX2: one token streams the codes past the activations; many tokens expand a tile of
// weights to INT16 in L1 and multiply it with all of them.
#if defined(__x86_64__)
#include <cstddef>
#include <cstdint>

#include "ops/avx2_kernels.h"
#pragma GCC target("avx2,fma,f16c")
#include "ops/avx2_unpack.h"

namespace hlwq::avx2 {
namespace {

inline float half_to_float(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }

inline float horizontal_sum(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// ---- one token

constexpr int kFactors = 8;  // blocks whose scales are worked out at once

/// out[i] = norms[i] * scales[i] * step for n <= 8 blocks.
inline void block_factors(const uint16_t* norms, const float* scales, float step, uint64_t n, float* out) {
  if (n == kFactors) {
    const __m256 norm = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(norms)));
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_mul_ps(norm, _mm256_set1_ps(step)), _mm256_loadu_ps(scales)));
    return;
  }
  for (uint64_t i = 0; i < n; ++i) out[i] = half_to_float(norms[i]) * step * scales[i];
}

/// A whole number of row groups, at least 16 KB.
inline uint64_t prefetch_distance(uint64_t group_bytes) {
  return ceil_div(uint64_t{16384}, group_bytes) * group_bytes;
}

/// dot plus the products of 32 codes' values with the activations xv[0] of lag 0, xv[1] of lag 1...
template <int G, int BITS>
inline __m256i add_products(__m256i dot, const uint8_t* codes, int j, const Tables<BITS>& tables,
                            const __m256i* xv) {
  const Values v = values<BITS, G>(codes, j, tables);
  const __m256i signed_x = _mm256_sign_epi8(xv[0], v.sign);
  // |value| <= 127 and |x| <= 127: a pair sums to at most 32258, inside INT16.
  const __m256i hi = _mm256_maddubs_epi16(v.hi, signed_x);
  if constexpr (!Tables<BITS>::kHasLo)
    return _mm256_add_epi32(dot, _mm256_madd_epi16(hi, _mm256_set1_epi16(1)));
  const __m256i lo = _mm256_maddubs_epi16(v.lo, signed_x);
  dot = _mm256_add_epi32(dot, _mm256_madd_epi16(hi, _mm256_set1_epi16(128)));
  return _mm256_add_epi32(dot, _mm256_madd_epi16(lo, _mm256_set1_epi16(1)));
}

template <int G, int BITS, int LAGS, bool FITS>
inline __m256i add_products(__m256i dot, const uint8_t* codes, int j,
                            const LagTables<BITS, LAGS, FITS>& tables, const __m256i* xv) {
  const Codes code = unpack<BITS, G>(codes, j);
  const __m256i one = _mm256_set1_epi16(1);
  __m256i pairs = _mm256_setzero_si256();
#pragma GCC unroll 3
  for (int lag = 0; lag < LAGS; ++lag) {
    const __m256i v = tables.value(code, lag);
    const __m256i product = _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(xv[lag], v));
    // The lags' |values| sum to at most 127 + 1/2 each, so that their pairs still fit INT16 together.
    if constexpr (FITS)
      pairs = _mm256_add_epi16(pairs, product);
    else
      dot = _mm256_add_epi32(dot, _mm256_madd_epi16(product, one));
  }
  return FITS ? _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, one)) : dot;
}

/// y[r] for R neighbouring rows from `row` and token t. R rows at once hide each other's latency and
/// share the loads of the activations.
template <int G, int R, class T>
inline void one_token(const HlwqMatrix& w, const QuantizedActivations& x, const T& tables, uint64_t row,
                      uint64_t t, float* y) {
  constexpr bool kHasLo = T::kHasLo;
  constexpr int kLags = T::kLags;
  const uint64_t blocks = x.blocks, row_bytes = w.format.row_bytes(w.cols);
  const int granules = w.format.block / G;
  constexpr int kGranuleBytes = G * T::kBits / 8;
  const int8_t* q[kLags];  // lag l's activations, turned by l inside each block
  for (int lag = 0; lag < kLags; ++lag)
    q[lag] = (lag == 0 ? x.q : x.turned[lag - 1]).data() + t * blocks * w.format.block;
  const float* scales = x.scale.data() + t * blocks;
  const int32_t* sums = x.sum.data() + t * blocks;
  const uint8_t* codes[R];
  __m256 total[R];
  for (int r = 0; r < R; ++r) codes[r] = w.codes + (row + r) * row_bytes, total[r] = _mm256_setzero_ps();
  const float step = kHasLo ? w.tables->step * 0x1p-7f : w.tables->step;
  const float offset = kLags * w.tables->offset * 0.125f;  // spread over the 8 lanes
  // The rows after these follow in memory; the hardware's prefetchers give up at every page and change of
  // row.
  const uint64_t ahead = prefetch_distance(R * row_bytes);

  for (uint64_t b0 = 0; b0 < blocks; b0 += kFactors) {
    const uint64_t n = blocks - b0 < kFactors ? blocks - b0 : kFactors;
    float factors[R][kFactors];
    for (int r = 0; r < R; ++r)
      block_factors(w.norms + (row + r) * blocks + b0, scales + b0, step, n, factors[r]);
    for (uint64_t b = 0; b < n; ++b) {
      __m256i dot[R];
      for (int r = 0; r < R; ++r) dot[r] = _mm256_setzero_si256();
      for (int g = 0; g < granules; ++g) {
#pragma GCC unroll 4
        for (int j = 0; j < G / 32; ++j) {
          __m256i xv[kLags];
          for (int lag = 0; lag < kLags; ++lag) xv[lag] = load(q[lag] + 32 * j);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) dot[r] = add_products<G>(dot[r], codes[r], j, tables, xv);
        }
        for (int lag = 0; lag < kLags; ++lag) q[lag] += G;
        for (int r = 0; r < R; ++r) {
          for (int line = 0; line < kGranuleBytes; line += 64)
            _mm_prefetch(reinterpret_cast<const char*>(codes[r] + ahead + line), _MM_HINT_T0);
          codes[r] += kGranuleBytes;
        }
      }
      const __m256 shift = _mm256_set1_ps(static_cast<float>(sums[b0 + b]) * offset);
      for (int r = 0; r < R; ++r) {
        __m256 value = _mm256_cvtepi32_ps(dot[r]);
        if constexpr (!kHasLo) value = _mm256_add_ps(value, shift);
        total[r] = _mm256_fmadd_ps(value, _mm256_set1_ps(factors[r][b]), total[r]);
      }
    }
  }
  for (int r = 0; r < R; ++r) y[r] = horizontal_sum(total[r]);
}

template <class T, int G>
void few_tokens(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
                float* y, uint64_t y_stride) {
  const T tables(*w.tables);
  uint64_t r = row_begin;
  for (; r + 4 <= row_end; r += 4)
    for (uint64_t t = 0; t < x.tokens; ++t) one_token<G, 4>(w, x, tables, r, t, y + t * y_stride + r);
  for (; r < row_end; ++r)
    for (uint64_t t = 0; t < x.tokens; ++t) one_token<G, 1>(w, x, tables, r, t, y + t * y_stride + r);
}

// ---- many tokens

constexpr int kTileRows = 16;      // two registers of 8 rows
constexpr int kTileTokens = 6;     // 12 accumulators, 2 weights, 1 activation: 15 of 16 registers
constexpr int kGroupTokens = 252;  // tokens that share one expansion of a weight tile
constexpr int kMaxBlock = 512;
constexpr uint64_t kGroupValues = 32256;  // of activations in a group: 63 KB of INT16, in L2

/// Working memory of one call.
struct Scratch {
  alignas(64) int16_t rows[8 * kMaxBlock];                // 8 expanded rows, before interleaving
  alignas(64) int32_t weights[kMaxBlock / 2][kTileRows];  // pairs of INT16 weights, rows side by side
  alignas(64) int16_t x[kGroupValues];                    // [tokens, block] widened activations
  alignas(64) float sums[kGroupTokens][kTileRows];
};
struct ScratchOwner {
  Scratch* scratch = new Scratch;
  ~ScratchOwner() { delete scratch; }
};

/// Weights as integers that stand for 2 (hi + 0.5), or 128 hi + lo, so that no correction is left for later.
template <int G, int BITS>
inline void expand_row(const uint8_t* codes, int granules, const Tables<BITS>& tables, int16_t* out) {
  for (int g = 0; g < granules; ++g, codes += G * BITS / 8)
#pragma GCC unroll 4
    for (int j = 0; j < G / 32; ++j, out += 32) {
      const Values v = values<BITS, G>(codes, j, tables);
      const __m256i hi = _mm256_sign_epi8(v.hi, v.sign);
      __m256i first = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(hi));
      __m256i second = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(hi, 1));
      if constexpr (Tables<BITS>::kHasLo) {
        const __m256i lo = _mm256_sign_epi8(v.lo, v.sign);
        first =
            _mm256_add_epi16(_mm256_slli_epi16(first, 7), _mm256_cvtepi8_epi16(_mm256_castsi256_si128(lo)));
        second = _mm256_add_epi16(_mm256_slli_epi16(second, 7),
                                  _mm256_cvtepi8_epi16(_mm256_extracti128_si256(lo, 1)));
      } else {
        const __m256i one = _mm256_set1_epi16(1);
        first = _mm256_add_epi16(_mm256_add_epi16(first, first), one);
        second = _mm256_add_epi16(_mm256_add_epi16(second, second), one);
      }
      _mm256_store_si256(reinterpret_cast<__m256i*>(out), first);
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + 16), second);
    }
}

/// The same for the sum over lags, lag l's values turned right by l inside the block.
template <int G, int BITS, int LAGS, bool FITS>
inline void expand_row(const uint8_t* codes, int granules, const LagTables<BITS, LAGS, FITS>& tables,
                       int16_t* out) {
  constexpr int kBefore = 16;  // room for what comes around from the block's end
  alignas(32) int16_t lagged[LAGS - 1][kBefore + kMaxBlock];
  const int block = granules * G;
  for (int g = 0; g < granules; ++g, codes += G * BITS / 8)
#pragma GCC unroll 4
    for (int j = 0; j < G / 32; ++j) {
      const Codes code = unpack<BITS, G>(codes, j);
      for (int lag = 0; lag < LAGS; ++lag) {
        const __m256i v = tables.value(code, lag), one = _mm256_set1_epi16(1);
        const __m256i first = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v));
        const __m256i second = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1));
        int16_t* to = (lag == 0 ? out : lagged[lag - 1] + kBefore) + g * G + 32 * j;
        _mm256_store_si256(reinterpret_cast<__m256i*>(to),
                           _mm256_add_epi16(_mm256_add_epi16(first, first), one));
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + 16),
                           _mm256_add_epi16(_mm256_add_epi16(second, second), one));
      }
    }
  for (int lag = 1; lag < LAGS; ++lag) {
    int16_t* from = lagged[lag - 1] + kBefore;
    for (int i = 1; i <= lag; ++i) from[-i] = from[block - i];
    for (int i = 0; i < block; i += 16)
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + i),
                         _mm256_add_epi16(load(out + i), load(from + i - lag)));
  }
}

/// 8 rows of 8 32-bit values become 8 columns, stored kTileRows apart.
inline void transpose8(const int16_t* rows, int stride, int32_t* out) {
  __m256i a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(rows + i * stride));
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + i * kTileRows),
                       _mm256_permute2x128_si256(a[i], a[i + 4], 0x20));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + (i + 4) * kTileRows),
                       _mm256_permute2x128_si256(a[i], a[i + 4], 0x31));
  }
}

/// sums[t][rows] += norms[rows] * scale[t] * (integer dot of a block), for T tokens.
template <int T>
[[gnu::noinline]] void multiply_tile(const int32_t (*weights)[kTileRows], const int16_t* x, int block,
                                     __m256 norm0, __m256 norm1, const float* scales, uint64_t scale_stride,
                                     float (*sums)[kTileRows]) {
  __m256i dot[T][2];
#pragma GCC unroll 6
  for (int t = 0; t < T; ++t) dot[t][0] = dot[t][1] = _mm256_setzero_si256();
  for (int p = 0; p < block / 2; ++p) {
    const __m256i w0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights[p]));
    const __m256i w1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights[p] + 8));
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
      int32_t pair;
      __builtin_memcpy(&pair, x + t * block + 2 * p, 4);
      const __m256i xv = _mm256_set1_epi32(pair);
      dot[t][0] = _mm256_add_epi32(dot[t][0], _mm256_madd_epi16(w0, xv));
      dot[t][1] = _mm256_add_epi32(dot[t][1], _mm256_madd_epi16(w1, xv));
      // Keeps the compiler from starting every product first, for which it would spill all the sums.
      asm volatile("" : "+x"(dot[t][0]), "+x"(dot[t][1]));
    }
  }
#pragma GCC unroll 6
  for (int t = 0; t < T; ++t) {
    const __m256 scale = _mm256_set1_ps(scales[t * scale_stride]);
    float* s = sums[t];
    _mm256_store_ps(
        s, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t][0]), _mm256_mul_ps(norm0, scale), _mm256_load_ps(s)));
    _mm256_store_ps(s + 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t][1]), _mm256_mul_ps(norm1, scale),
                                           _mm256_load_ps(s + 8)));
  }
}

inline void widen(const int8_t* x, int n, int16_t* out) {
  for (int i = 0; i < n; i += 16)
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + i),
                       _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
}

/// Rows [row, row + n), n <= kTileRows, times tokens [t0, t0 + tokens). Missing rows repeat the last and are
/// dropped.
template <int G, class T>
void tile_rows(const HlwqMatrix& w, const QuantizedActivations& x, const T& tables, uint64_t row, uint64_t n,
               uint64_t t0, int tokens, Scratch& s, float* y, uint64_t y_stride) {
  const int block = w.format.block, granules = block / G;
  const uint64_t blocks = x.blocks, row_bytes = w.format.row_bytes(w.cols),
                 block_bytes = w.format.block_bytes();
  const __m256 step = _mm256_set1_ps(w.tables->step * (T::kHasLo ? 0x1p-7f : 0.5f));
  uint64_t source[kTileRows];
  for (uint64_t i = 0; i < kTileRows; ++i) source[i] = row + (i < n ? i : n - 1);
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < kTileRows; i += 8) _mm256_store_ps(s.sums[t] + i, _mm256_setzero_ps());

  for (uint64_t b = 0; b < blocks; ++b) {
    alignas(32) uint16_t norms[kTileRows];
    for (int half = 0; half < kTileRows; half += 8) {
      for (int i = 0; i < 8; ++i) {
        const uint64_t r = source[half + i];
        norms[half + i] = w.norms[r * blocks + b];
        expand_row<G>(w.codes + r * row_bytes + b * block_bytes, granules, tables, s.rows + i * block);
      }
      for (int k = 0; k < block; k += 16) transpose8(s.rows + k, block, &s.weights[k / 2][half]);
    }
    const __m256 norm0 = _mm256_mul_ps(step, _mm256_cvtph_ps(*reinterpret_cast<const __m128i*>(norms)));
    const __m256 norm1 = _mm256_mul_ps(step, _mm256_cvtph_ps(*reinterpret_cast<const __m128i*>(norms + 8)));
    for (int t = 0; t < tokens; ++t)
      widen(x.q.data() + ((t0 + t) * blocks + b) * block, block, s.x + t * block);
    const float* scales = x.scale.data() + t0 * blocks + b;
    int t = 0;
    for (; t + kTileTokens <= tokens; t += kTileTokens)
      multiply_tile<kTileTokens>(s.weights, s.x + t * block, block, norm0, norm1, scales + t * blocks, blocks,
                                 s.sums + t);
    const auto rest = [&]<int N>() {
      multiply_tile<N>(s.weights, s.x + t * block, block, norm0, norm1, scales + t * blocks, blocks,
                       s.sums + t);
    };
    switch (tokens - t) {
      case 1:
        rest.template operator()<1>();
        break;
      case 2:
        rest.template operator()<2>();
        break;
      case 3:
        rest.template operator()<3>();
        break;
      case 4:
        rest.template operator()<4>();
        break;
      case 5:
        rest.template operator()<5>();
        break;
      default:
        break;
    }
  }
  for (int t = 0; t < tokens; ++t)
    for (uint64_t i = 0; i < n; ++i) y[(t0 + t) * y_stride + row + i] = s.sums[t][i];
}

template <class T, int G>
void many_tokens(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
                 float* y, uint64_t y_stride) {
  const T tables(*w.tables);
  const ScratchOwner owner;
  // Groups of equal size, so that none is a small rest that still pays for expanding every weight.
  const uint64_t fits = kGroupValues / w.format.block, largest = fits < kGroupTokens ? fits : kGroupTokens;
  const uint64_t groups = ceil_div(x.tokens, largest / kTileTokens * kTileTokens);
  const uint64_t group = ceil_div(ceil_div(x.tokens, groups), uint64_t{kTileTokens}) * kTileTokens;
  for (uint64_t t = 0; t < x.tokens; t += group) {
    const int tokens = static_cast<int>(x.tokens - t < group ? x.tokens - t : group);
    for (uint64_t r = row_begin; r < row_end; r += kTileRows)
      tile_rows<G>(w, x, tables, r, row_end - r < kTileRows ? row_end - r : kTileRows, t, tokens,
                   *owner.scratch, y, y_stride);
  }
}

// From here expanding and interleaving a tile of weights costs less than decoding it again for each token.
template <int BITS>
constexpr uint64_t kManyTokens = BITS >= 7 ? 4 : 7;

template <class T, int G>
inline void rows(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
                 float* y, uint64_t y_stride) {
  if (x.tokens < kManyTokens<T::kBits>)
    few_tokens<T, G>(w, x, row_begin, row_end, y, y_stride);
  else
    many_tokens<T, G>(w, x, row_begin, row_end, y, y_stride);
}

template <class T>
inline void rows_by_granule(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin,
                            uint64_t row_end, float* y, uint64_t y_stride) {
  switch (w.format.granule()) {
    case 32:
      return rows<T, 32>(w, x, row_begin, row_end, y, y_stride);
    case 64:
      return rows<T, 64>(w, x, row_begin, row_end, y, y_stride);
    default:
      return rows<T, 128>(w, x, row_begin, row_end, y, y_stride);
  }
}

template <int BITS>
inline void rows_of_width(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin,
                          uint64_t row_end, float* y, uint64_t y_stride) {
  if constexpr (BITS <= 6) {
    const bool fits = w.tables->largest_sum <= 127;
    const auto coupled = [&]<int LAGS>() {
      if (fits)
        rows_by_granule<LagTables<BITS, LAGS, true>>(w, x, row_begin, row_end, y, y_stride);
      else
        rows_by_granule<LagTables<BITS, LAGS, false>>(w, x, row_begin, row_end, y, y_stride);
    };
    if (w.format.lags == 2) return coupled.template operator()<2>();
    if (w.format.lags == 3) return coupled.template operator()<3>();
  }
  rows_by_granule<Tables<BITS>>(w, x, row_begin, row_end, y, y_stride);
}

}  // namespace

void hlwq_rows(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
               float* y, uint64_t y_stride) {
  switch (w.format.bits) {
    case 2:
      return rows_of_width<2>(w, x, row_begin, row_end, y, y_stride);
    case 3:
      return rows_of_width<3>(w, x, row_begin, row_end, y, y_stride);
    case 4:
      return rows_of_width<4>(w, x, row_begin, row_end, y, y_stride);
    case 5:
      return rows_of_width<5>(w, x, row_begin, row_end, y, y_stride);
    case 6:
      return rows_of_width<6>(w, x, row_begin, row_end, y, y_stride);
    case 7:
      return rows_of_width<7>(w, x, row_begin, row_end, y, y_stride);
    default:
      return rows_of_width<8>(w, x, row_begin, row_end, y, y_stride);
  }
}

}  // namespace hlwq::avx2
#endif
