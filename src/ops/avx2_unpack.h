// AVX2: 32 consecutive HLWQ codes at a time become table values. Included by files that target AVX2, after
// `#pragma GCC target`, so that everything here is compiled for it.
#pragma once

#include <immintrin.h>

#include "ops/hlwq_matrix.h"

namespace hlwq::avx2 {
namespace {

/// Values of 32 codes as sign and magnitude, the form that vpmaddubsw wants: |values| unsigned, signs on the
/// other factor.
struct Values {
  __m256i hi, lo;  // magnitudes 0..127; lo only when the tables have it
  __m256i sign;    // bit 7: negative. Not zero where the magnitude is not (vpsignb clears on zero)
};

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i low_nibbles(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }

/// The 4-bit plane's values of codes 32j..32j+31 of a granule of G codes.
template <int G>
inline __m256i nibbles(const uint8_t* plane, int j) {
  if constexpr (G == 128) {
    const __m256i v = load(plane + 32 * (j & 1));
    return low_nibbles(j < 2 ? v : _mm256_srli_epi16(v, 4));
  } else if constexpr (G == 64) {
    const __m256i v = load(plane);
    return low_nibbles(j == 0 ? v : _mm256_srli_epi16(v, 4));
  } else {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(plane));
    return low_nibbles(_mm256_set_m128i(_mm_srli_epi16(v, 4), v));
  }
}

/// The 2-bit plane's bytes, shifted so that code i's two bits are bits 0 and 1 of byte i; other bits are
/// anything.
template <int G>
inline __m256i pairs(const uint8_t* plane, int j) {
  if constexpr (G == 128) {
    return _mm256_srli_epi16(load(plane), 2 * j);
  } else if constexpr (G == 64) {
    const __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(plane)));
    return _mm256_srlv_epi64(v, j == 0 ? _mm256_set_epi64x(2, 2, 0, 0) : _mm256_set_epi64x(6, 6, 4, 4));
  } else {
    const __m256i v = _mm256_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(plane)));
    return _mm256_srlv_epi64(v, _mm256_set_epi64x(6, 4, 2, 0));
  }
}

/// Bit K of each code's pair, moved to bit 7 of its byte; other bits are anything. What vpblendvb and vpsignb
/// look at.
template <int G, int K>
inline __m256i pair_bit(const uint8_t* plane, int j) {
  if constexpr (G == 128) return _mm256_slli_epi16(load(plane), 7 - K - 2 * j);
  return _mm256_slli_epi16(pairs<G>(plane, j), 7 - K);
}

/// The 1-bit plane as bytes of 0 or -1.
inline __m256i bit_mask(const uint8_t* plane, int j) {
  int32_t bits;
  __builtin_memcpy(&bits, plane + 4 * j, 4);
  const __m256i spread = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
  const __m256i others = _mm256_set1_epi64x(0x7fbfdfeff7fbfdfe);  // all bits but this byte's
  const __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread);
  return _mm256_cmpeq_epi8(_mm256_or_si256(v, others), _mm256_set1_epi8(-1));
}

/// A code's table in 16-entry registers: the whole signed table up to 4 bits with the sign in the index, else
/// magnitudes.
template <int BITS>
struct Tables {
  static constexpr int kBits = BITS, kLags = 1;
  static constexpr int kCount = BITS <= 5 ? 1 : 1 << (BITS - 5);
  static constexpr bool kHasLo = BITS >= 6;
  __m256i hi[kCount], lo[kCount];

  explicit Tables(const LookupTables& tables) {
    for (int i = 0; i < kCount; ++i) {
      hi[i] = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(tables.hi[0]) + i));
      lo[i] = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(tables.lo[0]) + i));
    }
  }
};

inline __m256i lookup(__m256i table, __m256i index) { return _mm256_shuffle_epi8(table, index); }
/// Entry `index` (0..15) of one of two tables, the second where bit 7 of `select` is set; then of four and of
/// eight.
inline __m256i lookup2(const __m256i* t, __m256i index, __m256i select) {
  return _mm256_blendv_epi8(lookup(t[0], index), lookup(t[1], index), select);
}
inline __m256i lookup4(const __m256i* t, __m256i index, __m256i select0, __m256i select1) {
  return _mm256_blendv_epi8(lookup2(t, index, select0), lookup2(t + 2, index, select0), select1);
}
inline __m256i lookup8(const __m256i* t, __m256i index, __m256i s0, __m256i s1, __m256i s2) {
  return _mm256_blendv_epi8(lookup4(t, index, s0, s1), lookup4(t + 4, index, s0, s1), s2);
}

/// Values of codes 32j..32j+31 of the granule of G codes at `p`.
template <int BITS, int G>
inline Values values(const uint8_t* p, int j, const Tables<BITS>& t) {
  const __m256i one = _mm256_set1_epi8(1), none = _mm256_setzero_si256();
  if constexpr (BITS == 2 || BITS == 4) {
    __m256i index;
    if constexpr (BITS == 2)
      index = _mm256_and_si256(pairs<G>(p, j), _mm256_set1_epi8(3));
    else
      index = nibbles<G>(p, j);
    const __m256i v = lookup(t.hi[0], index);
    return {_mm256_abs_epi8(v), none, v};
  } else if constexpr (BITS == 3 || BITS == 5) {
    __m256i index;
    if constexpr (BITS == 3)
      index = _mm256_and_si256(pairs<G>(p, j), _mm256_set1_epi8(3));
    else
      index = nibbles<G>(p, j);
    const __m256i negative = bit_mask(p + (BITS == 3 ? G / 4 : G / 2), j);
    // The offset of 0.5 makes the negative twin of v  -v - 1.
    return {_mm256_sub_epi8(lookup(t.hi[0], index), negative), none, _mm256_or_si256(negative, one)};
  } else if constexpr (BITS == 6) {
    const uint8_t* pair = p + G / 2;
    const __m256i index = nibbles<G>(p, j), s = pair_bit<G, 0>(pair, j);
    return {lookup2(t.hi, index, s), lookup2(t.lo, index, s), _mm256_or_si256(pair_bit<G, 1>(pair, j), one)};
  } else if constexpr (BITS == 7) {
    const uint8_t* pair = p + G / 2;
    const __m256i index = nibbles<G>(p, j), s0 = pair_bit<G, 0>(pair, j), s1 = pair_bit<G, 1>(pair, j);
    const __m256i negative = bit_mask(pair + G / 4, j);
    return {lookup4(t.hi, index, s0, s1), lookup4(t.lo, index, s0, s1), _mm256_or_si256(negative, one)};
  } else {
    const __m256i code = load(p + 32 * j), index = low_nibbles(code);
    const __m256i s0 = _mm256_slli_epi16(code, 3), s1 = _mm256_slli_epi16(code, 2),
                  s2 = _mm256_slli_epi16(code, 1);
    return {lookup8(t.hi, index, s0, s1, s2), lookup8(t.lo, index, s0, s1, s2), _mm256_or_si256(code, one)};
  }
}

// ---- coupled codebooks: up to 6 bits, signed values of any lag from one unpacking of the codes

/// 32 codes as table index, table half (bit 7: the second 16 entries; 6 bits only) and sign (0 or -1).
struct Codes {
  __m256i index, select, negative;
};

template <int BITS, int G>
inline Codes unpack(const uint8_t* p, int j) {
  const __m256i none = _mm256_setzero_si256();
  if constexpr (BITS == 2) return {_mm256_and_si256(pairs<G>(p, j), _mm256_set1_epi8(3)), none, none};
  if constexpr (BITS == 3)
    return {_mm256_and_si256(pairs<G>(p, j), _mm256_set1_epi8(3)), none, bit_mask(p + G / 4, j)};
  if constexpr (BITS == 4) return {nibbles<G>(p, j), none, none};
  if constexpr (BITS == 5) return {nibbles<G>(p, j), none, bit_mask(p + G / 2, j)};
  if constexpr (BITS == 6)
    return {nibbles<G>(p, j), pair_bit<G, 0>(p + G / 2, j),
            _mm256_cmpgt_epi8(none, pair_bit<G, 1>(p + G / 2, j))};
}

/// The tables of LAGS lags: with signs in the index at 2 and 4 bits, else of the codes with a clear sign bit.
/// FITS: LookupTables::largest_sum is at most 127.
template <int BITS, int LAGS, bool FITS>
struct LagTables {
  static constexpr int kBits = BITS, kLags = LAGS, kCount = BITS == 6 ? 2 : 1;
  static constexpr bool kHasLo = false, kFits = FITS;
  __m256i hi[LAGS][kCount];

  explicit LagTables(const LookupTables& tables) {
    for (int lag = 0; lag < LAGS; ++lag)
      for (int i = 0; i < kCount; ++i)
        hi[lag][i] =
            _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(tables.hi[lag]) + i));
  }
  /// Signed values; the offset of 0.5 makes the negative twin of v its complement.
  __m256i value(const Codes& c, int lag) const {
    if constexpr (BITS == 2 || BITS == 4) return lookup(hi[lag][0], c.index);
    if constexpr (BITS == 6) return _mm256_xor_si256(lookup2(hi[lag], c.index, c.select), c.negative);
    return _mm256_xor_si256(lookup(hi[lag][0], c.index), c.negative);
  }
};

}  // namespace
}  // namespace hlwq::avx2
