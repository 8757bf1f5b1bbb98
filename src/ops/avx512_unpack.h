// AVX-512: 64 consecutive HLWQ codes at a time become table values. Included by files that target AVX-512,
// after
// `#pragma GCC target`, so that everything here is compiled for it.
#pragma once

#include <immintrin.h>

#include "ops/hlwq_matrix.h"

namespace hlwq::avx512 {
namespace {

/// Codes in one step over a granule of G: 64, or the 32 of the smallest granule in the lower half of a
/// register.
template <int G>
constexpr int kStep = G < 64 ? 32 : 64;

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }
inline __m512i repeat256(const uint8_t* p) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512i repeat128(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

/// The 4-bit plane's values of codes 64j..64j+63 of a granule of G codes.
template <int G>
inline __m512i nibbles(const uint8_t* plane, int j) {
  __m512i v;
  if constexpr (G == 128)
    v = j == 0 ? load(plane) : _mm512_srli_epi16(load(plane), 4);
  else if constexpr (G == 64)
    v = _mm512_srlv_epi64(repeat256(plane), _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0));
  else
    v = _mm512_srlv_epi64(repeat128(plane), _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0));
  return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

/// The 2-bit plane's values.
template <int G>
inline __m512i pairs(const uint8_t* plane, int j) {
  __m512i v;
  if constexpr (G == 128) {
    const __m512i shifts =
        j == 0 ? _mm512_set_epi64(2, 2, 2, 2, 0, 0, 0, 0) : _mm512_set_epi64(6, 6, 6, 6, 4, 4, 4, 4);
    v = _mm512_srlv_epi64(repeat256(plane), shifts);
  } else if constexpr (G == 64) {
    v = _mm512_srlv_epi64(repeat128(plane), _mm512_set_epi64(6, 6, 4, 4, 2, 2, 0, 0));
  } else {
    int64_t bits;
    __builtin_memcpy(&bits, plane, 8);
    v = _mm512_srlv_epi64(_mm512_set1_epi64(bits), _mm512_set_epi64(6, 4, 2, 0, 6, 4, 2, 0));
  }
  return _mm512_and_si512(v, _mm512_set1_epi8(3));
}

/// The 1-bit plane: a mask register as it lies in memory.
template <int G>
inline __mmask64 bits(const uint8_t* plane, int j) {
  uint64_t mask = 0;
  __builtin_memcpy(&mask, plane + 8 * j, kStep<G> / 8);
  return mask;
}

/// Stored codes 64j..64j+63 of the granule of G codes at `p`. With G = 32 the upper half is a valid code of
/// no meaning.
template <int BITS, int G>
inline __m512i codes(const uint8_t* p, int j) {
  const auto with_bit = [](__m512i v, __mmask64 mask, int value) {
    return _mm512_mask_add_epi8(v, mask, v, _mm512_set1_epi8(static_cast<char>(value)));
  };
  if constexpr (BITS == 2) return pairs<G>(p, j);
  if constexpr (BITS == 3) return with_bit(pairs<G>(p, j), bits<G>(p + G / 4, j), 4);
  if constexpr (BITS == 4) return nibbles<G>(p, j);
  if constexpr (BITS == 5) return with_bit(nibbles<G>(p, j), bits<G>(p + G / 2, j), 16);
  if constexpr (BITS == 6 || BITS == 7) {
    const __m512i v = _mm512_or_si512(nibbles<G>(p, j), _mm512_slli_epi16(pairs<G>(p + G / 2, j), 4));
    if constexpr (BITS == 6) return v;
    return with_bit(v, bits<G>(p + G / 2 + G / 4, j), 64);
  }
  if constexpr (BITS == 8) {
    if constexpr (G == 32)
      return _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return load(p + 64 * j);
  }
}

/// One part (hi or lo) of one lag's table, as unsigned value + 128: vpdpbusd wants its first factor unsigned.
template <int BITS>
struct Table {
  static constexpr int kCount = BITS <= 6 ? 1 : 1 << (BITS - 6);
  __m512i part[kCount];

  Table() = default;
  explicit Table(const int8_t* entries) {
    for (int i = 0; i < kCount; ++i)
      part[i] = _mm512_xor_si512(load(entries + 64 * i), _mm512_set1_epi8(static_cast<char>(0x80)));
  }
  __m512i operator()(__m512i code) const {
    if constexpr (BITS <= 6) return _mm512_permutexvar_epi8(code, part[0]);
    if constexpr (BITS == 7) return _mm512_permutex2var_epi8(part[0], code, part[1]);
    if constexpr (BITS == 8)
      return _mm512_mask_blend_epi8(_mm512_movepi8_mask(code),
                                    _mm512_permutex2var_epi8(part[0], code, part[1]),
                                    _mm512_permutex2var_epi8(part[2], code, part[3]));
  }
};

}  // namespace
}  // namespace hlwq::avx512
