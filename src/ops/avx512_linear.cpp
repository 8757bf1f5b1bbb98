// The HLWQ linear in AVX-512 with VBMI lookups and VNNI dot products. Table values are made unsigned by
// adding 128, which is taken back with the activations' sums; every integer stays exact.
#if defined(__x86_64__)
#include <cstddef>
#include <cstdint>

#include "ops/avx2_kernels.h"
#include "ops/avx512_kernels.h"
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")
// g++ 12's own AVX-512 headers pass variables that are deliberately not initialised.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "ops/avx512_unpack.h"

namespace hlwq::avx512 {
namespace {

// ---- one token

constexpr int kFactors = 8;  // blocks whose scales are worked out at once
constexpr int kMaxLags = 3;

/// out[i] = norms[i] * scales[i] * step for n <= 8 blocks.
inline void block_factors(const uint16_t* norms, const float* scales, float step, uint64_t n, float* out) {
  const __mmask8 valid = static_cast<__mmask8>((1u << n) - 1);
  const __m256 norm = _mm256_cvtph_ps(_mm_maskz_loadu_epi16(valid, norms));
  const __m256 scale = _mm256_maskz_loadu_ps(valid, scales);
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_mul_ps(norm, _mm256_set1_ps(step)), scale));
}

/// A whole number of row groups, at least 16 KB.
inline uint64_t prefetch_distance(uint64_t group_bytes) {
  return ceil_div(uint64_t{16384}, group_bytes) * group_bytes;
}

alignas(64) constexpr auto kLanes = [] {
  struct {
    uint8_t lane[64];
  } v{};
  for (int i = 0; i < 64; ++i) v.lane[i] = static_cast<uint8_t>(i);
  return v;
}();

template <int BITS>
struct LagTables {
  Table<BITS> hi[kMaxLags], lo[kMaxLags];
  explicit LagTables(const LookupTables& tables) {
    for (int lag = 0; lag < kMaxLags; ++lag)
      hi[lag] = Table<BITS>(tables.hi[lag]), lo[lag] = Table<BITS>(tables.lo[lag]);
  }
};

/// STEP activations; G = 32 reads 32.
template <int STEP>
inline __m512i activations(const int8_t* q) {
  return STEP == 64 ? load(q) : _mm512_maskz_loadu_epi8(0xffffffff, q);
}

/// y[r] for R neighbouring rows from `row` and token t.
template <int BITS, int G, int R, int LAGS>
inline void one_token(const HlwqMatrix& w, const QuantizedActivations& x, const LagTables<BITS>& tables,
                      uint64_t row, uint64_t t, float* y) {
  constexpr bool kHasLo = BITS >= 6 && LAGS == 1;
  constexpr int kGranuleBytes = G * BITS / 8, kSteps = G / kStep<G>;
  const uint64_t blocks = x.blocks, row_bytes = w.format.row_bytes(w.cols);
  const int block = w.format.block;
  const int8_t* q[LAGS];  // lag l's activations, turned by l inside each block
  for (int lag = 0; lag < LAGS; ++lag)
    q[lag] = (lag == 0 ? x.q : x.turned[lag - 1]).data() + t * blocks * block;
  const float* scales = x.scale.data() + t * blocks;
  const int32_t* sums = x.sum.data() + t * blocks;
  const uint8_t* p[R];
  __m512 total[R];
  for (int r = 0; r < R; ++r) p[r] = w.codes + (row + r) * row_bytes, total[r] = _mm512_setzero_ps();
  const float step = kHasLo ? w.tables->step * 0x1p-7f : w.tables->step;
  const float offset = LAGS * w.tables->offset * 0x1p-4f;  // spread over the 16 lanes
  const uint64_t ahead = prefetch_distance(R * row_bytes);

  for (uint64_t b0 = 0; b0 < blocks; b0 += kFactors) {
    const uint64_t n = blocks - b0 < kFactors ? blocks - b0 : kFactors;
    float factors[R][kFactors];
    for (int r = 0; r < R; ++r)
      block_factors(w.norms + (row + r) * blocks + b0, scales + b0, step, n, factors[r]);
    for (uint64_t b = 0; b < n; ++b) {
      // 128 for every table value, over the 16 lanes, or the 8 that a step of 32 codes uses.
      const int32_t sum = sums[b0 + b];
      const __m512i minus128 =
          G == 32 ? _mm512_maskz_set1_epi32(0x00ff, -16 * LAGS * sum) : _mm512_set1_epi32(-8 * LAGS * sum);
      __m512i hi[R], lo[R];
      for (int r = 0; r < R; ++r) hi[r] = minus128, lo[r] = minus128;
      for (int i = 0; i < block; i += G) {
#pragma GCC unroll 2
        for (int j = 0; j < kSteps; ++j) {
          __m512i xv[LAGS];
          for (int lag = 0; lag < LAGS; ++lag) xv[lag] = activations<kStep<G>>(q[lag] + j * kStep<G>);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            const __m512i code = codes<BITS, G>(p[r], j);
#pragma GCC unroll 3
            for (int lag = 0; lag < LAGS; ++lag) {
              hi[r] = _mm512_dpbusd_epi32(hi[r], tables.hi[lag](code), xv[lag]);
              if constexpr (kHasLo) lo[r] = _mm512_dpbusd_epi32(lo[r], tables.lo[lag](code), xv[lag]);
            }
          }
        }
        for (int lag = 0; lag < LAGS; ++lag) q[lag] += G;
        for (int r = 0; r < R; ++r) {
          for (int line = 0; line < kGranuleBytes; line += 64)
            _mm_prefetch(reinterpret_cast<const char*>(p[r] + ahead + line), _MM_HINT_T0);
          p[r] += kGranuleBytes;
        }
      }
      const __m512 shift = _mm512_set1_ps(static_cast<float>(sum) * offset);
      for (int r = 0; r < R; ++r) {
        const __m512i dot = kHasLo ? _mm512_add_epi32(_mm512_slli_epi32(hi[r], 7), lo[r]) : hi[r];
        __m512 value = _mm512_cvtepi32_ps(dot);
        if constexpr (!kHasLo) value = _mm512_add_ps(value, shift);
        total[r] = _mm512_fmadd_ps(value, _mm512_set1_ps(factors[r][b]), total[r]);
      }
    }
  }
  for (int r = 0; r < R; ++r) y[r] = _mm512_reduce_add_ps(total[r]);
}

template <int BITS, int G, int LAGS>
void few_tokens(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
                float* y, uint64_t y_stride) {
  const LagTables<BITS> tables(*w.tables);
  uint64_t r = row_begin;
  for (; r + 4 <= row_end; r += 4)
    for (uint64_t t = 0; t < x.tokens; ++t)
      one_token<BITS, G, 4, LAGS>(w, x, tables, r, t, y + t * y_stride + r);
  for (; r < row_end; ++r)
    for (uint64_t t = 0; t < x.tokens; ++t)
      one_token<BITS, G, 1, LAGS>(w, x, tables, r, t, y + t * y_stride + r);
}

// ---- many tokens

constexpr int kTileRows = 32;      // two registers of 16 rows
constexpr int kTileTokens = 12;    // 24 accumulators, 2 weights, activations
constexpr int kGroupTokens = 240;  // tokens that share one expansion of a weight tile
constexpr int kMaxBlock = 512;

/// How a tile holds its weights: as one part, as hi and lo, or as one part a lag.
enum class Form { kWhole, kHiLo, kByLag };
constexpr int kMaxParts = 3;
template <Form FORM, int LAGS>
constexpr int kParts = FORM == Form::kWhole  ? 1
                       : FORM == Form::kHiLo ? 2
                                             : LAGS;

/// Working memory of one call: weights in groups of four along a row, rows side by side.
struct Scratch {
  alignas(64) uint8_t rows[kMaxParts][16 * kMaxBlock];  // 16 rows, before interleaving
  alignas(64) int32_t weights[kMaxParts][kMaxBlock / 4][kTileRows];
  alignas(64) float sums[kGroupTokens][kTileRows];
};
struct ScratchOwner {
  Scratch* scratch = new Scratch;
  ~ScratchOwner() { delete scratch; }
};

/// 16 rows of 16 32-bit values become columns, the first `columns` of which are stored kTileRows apart.
inline void transpose16(const uint8_t* rows, int stride, int columns, int32_t* out) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = load(rows + i * stride);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // a[i + c]: column 4l + c of rows i..i+3 in 128-bit lane l
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i low0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x44),
                  high0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xee);
    const __m512i low1 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x44);
    const __m512i high1 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xee);
    b[c] = _mm512_shuffle_i32x4(low0, low1, 0x88);
    b[4 + c] = _mm512_shuffle_i32x4(low0, low1, 0xdd);
    b[8 + c] = _mm512_shuffle_i32x4(high0, high1, 0x88);
    b[12 + c] = _mm512_shuffle_i32x4(high0, high1, 0xdd);
  }
  for (int c = 0; c < columns; ++c) _mm512_store_si512(out + c * kTileRows, b[c]);
}

/// sums[t][rows] += norms[rows] * scale[t] * (integer dot of a block), for T tokens `stride` bytes apart.
template <int T, Form FORM, int PARTS>
[[gnu::noinline]] void multiply_tile(const Scratch& s, const int8_t* x, uint64_t stride, int block,
                                     __m512 norm0, __m512 norm1, const float* scales, const int32_t* x_sums,
                                     uint64_t blocks, float offset, float (*sums)[kTileRows]) {
  __m512i dot[T][2];
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t) dot[t][0] = dot[t][1] = _mm512_set1_epi32(-128 * x_sums[t * blocks]);
  for (int part = 0; part < PARTS; ++part) {
    if (part > 0)
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        const __m512i minus128 = _mm512_set1_epi32(-128 * x_sums[t * blocks]);
        for (int h = 0; h < 2; ++h)
          dot[t][h] =
              _mm512_add_epi32(FORM == Form::kHiLo ? _mm512_slli_epi32(dot[t][h], 7) : dot[t][h], minus128);
      }
    for (int k = 0; k < block / 4; ++k) {
      const __m512i w0 = _mm512_load_si512(s.weights[part][k]),
                    w1 = _mm512_load_si512(s.weights[part][k] + 16);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        int32_t four;
        __builtin_memcpy(&four, x + static_cast<uint64_t>(t) * stride + 4 * k, 4);
        const __m512i xv = _mm512_set1_epi32(four);
        dot[t][0] = _mm512_dpbusd_epi32(dot[t][0], w0, xv);
        dot[t][1] = _mm512_dpbusd_epi32(dot[t][1], w1, xv);
        // Pins the order: the compiler would otherwise load every activation first and spill the sums.
        asm volatile("" : "+v"(dot[t][0]), "+v"(dot[t][1]));
      }
    }
  }
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t) {
    const __m512 scale = _mm512_set1_ps(scales[t * blocks]);
    const __m512 shift = _mm512_set1_ps(offset * static_cast<float>(x_sums[t * blocks]));
    for (int h = 0; h < 2; ++h) {
      __m512 value = _mm512_cvtepi32_ps(dot[t][h]);
      if constexpr (FORM != Form::kHiLo) value = _mm512_add_ps(value, shift);
      float* out = sums[t] + 16 * h;
      _mm512_store_ps(
          out, _mm512_fmadd_ps(value, _mm512_mul_ps(h == 0 ? norm0 : norm1, scale), _mm512_load_ps(out)));
    }
  }
}

/// Bytes of a block's codes become the bytes of `part` of one row: table values plus 128, lag l's turned
/// right by l, so that they meet the activations where they lie. kWhole adds the lags up, with 1/2 for every
/// two.
template <int BITS, int G, int LAGS, Form FORM>
inline void expand_row(const uint8_t* p, int block, const LagTables<BITS>& tables, int at, Scratch& s) {
  constexpr int S = kStep<G>;
  __m512i turned[LAGS > 1 ? LAGS - 1 : 1][kMaxBlock / S];
  int steps = 0;
  for (int k = 0; k < block; k += G, p += G * BITS / 8)
#pragma GCC unroll 2
    for (int j = 0; j < G / S; ++j, ++steps) {
      const __m512i code = codes<BITS, G>(p, j);
      _mm512_storeu_si512(s.rows[0] + at + steps * S, tables.hi[0](code));
      if constexpr (FORM == Form::kHiLo) _mm512_storeu_si512(s.rows[1] + at + steps * S, tables.lo[0](code));
      for (int lag = 1; lag < LAGS; ++lag) turned[lag - 1][steps] = tables.hi[lag](code);
    }
  if constexpr (LAGS > 1) {
    const __m512i lane = load(kLanes.lane);
    // 128 times LAGS is to become 128, plus the whole part of the offsets; all modulo 256.
    const __m512i correction = _mm512_set1_epi8(static_cast<char>(128 - 128 * LAGS + LAGS / 2));
    for (int j = 0; j < steps; ++j) {
      const int before = j == 0 ? steps - 1 : j - 1;
      __m512i sum = _mm512_add_epi8(load(s.rows[0] + at + j * S), correction);
      for (int lag = 1; lag < LAGS; ++lag) {
        // Lane i takes value i - lag: of this step, or of the end of the one before.
        const __m512i from = _mm512_and_si512(_mm512_sub_epi8(lane, _mm512_set1_epi8(static_cast<char>(lag))),
                                              _mm512_set1_epi8(S - 1));
        const __mmask64 first = (uint64_t{1} << lag) - 1;
        const __m512i here = _mm512_permutexvar_epi8(from, turned[lag - 1][j]);
        const __m512i value = _mm512_mask_permutexvar_epi8(here, first, from, turned[lag - 1][before]);
        if constexpr (FORM == Form::kWhole)
          sum = _mm512_add_epi8(sum, value);
        else
          _mm512_storeu_si512(s.rows[lag] + at + j * S, value);
      }
      if constexpr (FORM == Form::kWhole) _mm512_storeu_si512(s.rows[0] + at + j * S, sum);
    }
  }
}

/// Rows [row, row + n), n <= kTileRows, times tokens [t0, t0 + tokens). Missing rows repeat the last and are
/// dropped.
template <int BITS, int G, int LAGS, Form FORM>
void tile_rows(const HlwqMatrix& w, const QuantizedActivations& x, const LagTables<BITS>& tables,
               uint64_t row, uint64_t n, uint64_t t0, int tokens, Scratch& s, float* y, uint64_t y_stride) {
  const int block = w.format.block, row_stride = block < 64 ? 64 : block;
  const uint64_t blocks = x.blocks, row_bytes = w.format.row_bytes(w.cols),
                 block_bytes = w.format.block_bytes();
  const __m512 step = _mm512_set1_ps(FORM == Form::kHiLo ? w.tables->step * 0x1p-7f : w.tables->step);
  const float offset = w.tables->offset * (FORM == Form::kWhole ? LAGS % 2 : LAGS);
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < kTileRows; i += 16) _mm512_store_ps(s.sums[t] + i, _mm512_setzero_ps());

  for (uint64_t b = 0; b < blocks; ++b) {
    alignas(64) uint16_t norms[kTileRows];
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 16; ++i) {
        const uint64_t tile_row = static_cast<uint64_t>(half * 16 + i),
                       r = row + (tile_row < n ? tile_row : n - 1);
        norms[tile_row] = w.norms[r * blocks + b];
        const uint8_t* p = w.codes + r * row_bytes + b * block_bytes;
        expand_row<BITS, G, LAGS, FORM>(p, block, tables, i * row_stride, s);
      }
      for (int part = 0; part < kParts<FORM, LAGS>; ++part)
        for (int k = 0; k < block; k += 64)
          transpose16(s.rows[part] + k, row_stride, block - k < 64 ? (block - k) / 4 : 16,
                      &s.weights[part][k / 4][half * 16]);
    }
    const __m512 norm0 =
        _mm512_mul_ps(step, _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<__m256i*>(norms))));
    const __m512 norm1 =
        _mm512_mul_ps(step, _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<__m256i*>(norms + 16))));
    const uint64_t stride = blocks * block;
    const auto multiply = [&]<int T>(int t) {
      const uint64_t at = (t0 + static_cast<uint64_t>(t)) * blocks + b;
      multiply_tile<T, FORM, kParts<FORM, LAGS>>(s, x.q.data() + at * block, stride, block, norm0, norm1,
                                                 x.scale.data() + at, x.sum.data() + at, blocks, offset,
                                                 s.sums + t);
    };
    int t = 0;
    for (; t + kTileTokens <= tokens; t += kTileTokens) multiply.template operator()<kTileTokens>(t);
    for (; t + 4 <= tokens; t += 4) multiply.template operator()<4>(t);
    for (; t < tokens; ++t) multiply.template operator()<1>(t);
  }
  for (int t = 0; t < tokens; ++t)
    __builtin_memcpy(y + (t0 + t) * y_stride + row, s.sums[t], n * sizeof(float));
}

template <int BITS, int G, int LAGS, Form FORM>
void many_tokens(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
                 float* y, uint64_t y_stride) {
  const LagTables<BITS> tables(*w.tables);
  const ScratchOwner owner;
  // Groups of equal size, so that none is a small rest that still pays for expanding every weight.
  const uint64_t groups = ceil_div(x.tokens, uint64_t{kGroupTokens});
  const uint64_t group = ceil_div(ceil_div(x.tokens, groups), uint64_t{kTileTokens}) * kTileTokens;
  for (uint64_t t = 0; t < x.tokens; t += group) {
    const int tokens = static_cast<int>(x.tokens - t < group ? x.tokens - t : group);
    for (uint64_t r = row_begin; r < row_end; r += kTileRows)
      tile_rows<BITS, G, LAGS, FORM>(w, x, tables, r, row_end - r < kTileRows ? row_end - r : kTileRows, t,
                                     tokens, *owner.scratch, y, y_stride);
  }
}

// From here expanding and interleaving a tile of weights costs less than decoding it again for each token.
constexpr uint64_t kManyTokens = 5;

template <int BITS, int G, int LAGS>
inline void rows_of_lags(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin,
                         uint64_t row_end, float* y, uint64_t y_stride) {
  if (x.tokens < kManyTokens)
    few_tokens<BITS, G, LAGS>(w, x, row_begin, row_end, y, y_stride);
  else if constexpr (LAGS == 1)
    many_tokens<BITS, G, LAGS, BITS >= 6 ? Form::kHiLo : Form::kWhole>(w, x, row_begin, row_end, y, y_stride);
  else if (w.tables->largest_sum <= 127)
    many_tokens<BITS, G, LAGS, Form::kWhole>(w, x, row_begin, row_end, y, y_stride);
  else
    many_tokens<BITS, G, LAGS, Form::kByLag>(w, x, row_begin, row_end, y, y_stride);
}

template <int BITS, int G>
inline void rows(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
                 float* y, uint64_t y_stride) {
  if constexpr (BITS <= 6) {
    if (w.format.lags == 2) return rows_of_lags<BITS, G, 2>(w, x, row_begin, row_end, y, y_stride);
    if (w.format.lags == 3) return rows_of_lags<BITS, G, 3>(w, x, row_begin, row_end, y, y_stride);
  }
  rows_of_lags<BITS, G, 1>(w, x, row_begin, row_end, y, y_stride);
}

template <int BITS>
inline void rows_of_width(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin,
                          uint64_t row_end, float* y, uint64_t y_stride) {
  switch (w.format.granule()) {
    case 32:
      return rows<BITS, 32>(w, x, row_begin, row_end, y, y_stride);
    case 64:
      return rows<BITS, 64>(w, x, row_begin, row_end, y, y_stride);
    default:
      return rows<BITS, 128>(w, x, row_begin, row_end, y, y_stride);
  }
}

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

}  // namespace
}  // namespace hlwq::avx512

namespace hlwq {

// The rotation is a small part of a step and the float kernels are bound by memory: both are AVX2's.
constinit const Kernels kAvx512Kernels = {
    "avx512", {avx2::rotate_quantize, avx512::hlwq_rows}, avx2::kVectorKernels, avx512::kAttentionKernels};

}  // namespace hlwq
#endif
