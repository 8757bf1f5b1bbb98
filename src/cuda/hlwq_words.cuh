// From packed codes to INT8 values in registers: the one piece of arithmetic that every GPU linear shares.
//
// A granule of G codes (G = 128, or the block where that is smaller) is read by G / 32 lanes; lane l turns
// its 32 codes into 8 words of 4 INT8 values a lag. Values come in pair order, which is how the planes of
// layout.h unpack without moving bits around: value 2p of a granule is code p, value 2p + 1 is code G/2 + p.
// Activations are stored in the same order (activations.h), so products need no shuffling.
//
// Tables are looked up with PRMT: four 3-bit indices a word. Bit 3 of an index asks for the chosen byte's
// sign, eight times: 0 for a byte that is not negative. So of two tables of 8 magnitudes the one that is not
// meant gives 0, and an OR joins them. Tables of the lags beyond the first have values of both signs: there a
// mask chooses.
#pragma once

#include <cstdint>

#include "cuda/matrix.h"

namespace hlwq::cuda {

__device__ __forceinline__ uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}

// Masks of four nibbles: 0xff where bit 3 of nibbles 0..3 (low) or 4..7 (high) of x is set.
__device__ __forceinline__ uint32_t nibble_masks_low(uint32_t x) { return prmt(x << 4, x, 0xd9c8); }
__device__ __forceinline__ uint32_t nibble_masks_high(uint32_t x) { return prmt(x << 4, x, 0xfbea); }
// Masks of four bytes: 0xff where a byte's top bit is set.
__device__ __forceinline__ uint32_t byte_masks(uint32_t x) { return prmt(x, x, 0xba98); }

__device__ __forceinline__ uint32_t select(uint32_t mask, uint32_t yes, uint32_t no) {
  return (yes & mask) | (no & ~mask);
}

/// What one lane reads of one granule.
template <int kBits>
struct LaneCodes {
  uint32_t nibbles[kBits >= 4 ? 4 : 2];  // the widest plane
  uint32_t
      pairs[kBits == 6 ? 4 : 1];  // 6 bits: the plane of 2 bits, shifted to where the first nibble is wanted
  uint32_t signs[kBits == 5 ? 2 : kBits == 3 ? 2 : 1];  // 3 and 5 bits: the plane of 1 bit, as sign bytes
};

/// Loads lane `l`'s share of the granule at `g`, in global or shared memory. kWide: granules of 128 codes,
/// 16-byte aligned; else granules of `size` codes, 4-byte aligned.
template <int kBits, bool kWide>
__device__ __forceinline__ LaneCodes<kBits> load_codes(const uint8_t* g, int l, int granule) {
  LaneCodes<kBits> c;
  const int size = kWide ? 128 : granule;
  if constexpr (kBits >= 4) {
    if constexpr (kWide) {
      const uint4 v = reinterpret_cast<const uint4*>(g)[l];
      c.nibbles[0] = v.x, c.nibbles[1] = v.y, c.nibbles[2] = v.z, c.nibbles[3] = v.w;
    } else {
      for (int j = 0; j < 4; ++j) c.nibbles[j] = reinterpret_cast<const uint32_t*>(g)[4 * l + j];
    }
  } else {
    if constexpr (kWide) {
      const uint2 v = reinterpret_cast<const uint2*>(g)[l];
      c.nibbles[0] = v.x, c.nibbles[1] = v.y;
    } else {
      for (int j = 0; j < 2; ++j) c.nibbles[j] = reinterpret_cast<const uint32_t*>(g)[2 * l + j];
    }
  }
  if constexpr (kBits == 5) {
    // Codes 16 l .. 16 l + 15 and those half a granule on. A sign byte pair, and the pair one bit on in the
    // upper half.
    const uint8_t* s = g + size / 2;
    const uint32_t a = reinterpret_cast<const uint16_t*>(s)[l];
    const uint32_t b = reinterpret_cast<const uint16_t*>(s + size / 16)[l];
    for (int h = 0; h < 2; ++h) {
      const uint32_t ab = prmt(a, b, h ? 0x2251 : 0x2240);  // byte 2 is zero
      c.signs[h] = ab | ab << 15;
    }
  }
  if constexpr (kBits == 3) {
    const uint8_t* s = g + size / 4;
    for (int h = 0; h < 2; ++h) {
      const uint32_t a = s[h * (size / 32) + l], b = s[size / 16 + h * (size / 32) + l];
      const uint32_t ab = a | b << 8;
      c.signs[h] = ab | ab << 15;
    }
  }
  if constexpr (kBits == 6) {
    const uint8_t* s = g + size / 2;
    if constexpr (kWide) {
      const uint4 v = reinterpret_cast<const uint4*>(s)[l & 1];
      const int shift = l & 2;
      c.pairs[0] = v.x >> shift, c.pairs[1] = v.y >> shift, c.pairs[2] = v.z >> shift,
      c.pairs[3] = v.w >> shift;
    } else {
      for (int j = 0; j < 4; ++j) {
        const int code = 16 * l + 4 * j, quarter = size / 4;
        c.pairs[j] = *reinterpret_cast<const uint32_t*>(s + code % quarter) >> (2 * (code / quarter));
      }
    }
  }
  return c;
}

/// One word of a table's values. `index`: four nibbles of magnitude indices (bit 3: the upper eight), the
/// rest ignored. kSigned: the table has negative values, and `upper` holds masks of the nibbles' bit 3.
template <int kEntries, bool kSigned>
__device__ __forceinline__ uint32_t look_up(const uint32_t* table, uint32_t index, uint32_t upper) {
  if constexpr (kEntries <= 8) return prmt(table[0], table[1], index);
  const uint32_t low = prmt(table[0], table[1], index);
  if constexpr (kSigned) return select(upper, prmt(table[2], table[3], index & 0x7777), low);
  return low | prmt(table[2], table[3], index ^ 0x8888);
}

/// The lane's 8 words of lag kLag: words[i] holds values in pair order. kLow: the low parts of 6 bits
/// instead. kComplement: the other sign is the complement (LookupTables of offset 0.5); else, for 6 bits, the
/// negative.
template <int kBits, int kLag, bool kComplement, bool kLow = false>
__device__ __forceinline__ void decode_words(const LaneCodes<kBits>& c, const PrmtTables& tables,
                                             uint32_t (&words)[8]) {
  const uint32_t* table = kLow ? tables.low : tables.lag[kLag];
  constexpr bool kSigned = kLag > 0;
  if constexpr (kBits == 2) {
    // Two bits are sign and magnitude: a table of four signed values.
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t index = (c.nibbles[j] >> (2 * h)) & 0x33333333;
        words[4 * h + 2 * j] = prmt(table[0], 0, index);
        words[4 * h + 2 * j + 1] = prmt(table[0], 0, index >> 16);
      }
  } else if constexpr (kBits == 3) {
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t index = (c.nibbles[j] >> (2 * h)) & 0x33333333;
        words[4 * h + 2 * j] = prmt(table[0], 0, index) ^ byte_masks(c.signs[h] << (7 - 4 * j));
        words[4 * h + 2 * j + 1] = prmt(table[0], 0, index >> 16) ^ byte_masks(c.signs[h] << (5 - 4 * j));
      }
  } else if constexpr (kBits == 4) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t n = c.nibbles[j], index = n & 0x77777777;
      words[2 * j] = prmt(table[0], table[1], index) ^ nibble_masks_low(n);
      words[2 * j + 1] = prmt(table[0], table[1], index >> 16) ^ nibble_masks_high(n);
    }
  } else if constexpr (kBits == 5) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t n = c.nibbles[j], s = c.signs[j / 2];
      const uint32_t upper0 = kSigned ? nibble_masks_low(n) : 0, upper1 = kSigned ? nibble_masks_high(n) : 0;
      const uint32_t index = kSigned ? n & 0x77777777 : n;
      words[2 * j] = look_up<16, kSigned>(table, index, upper0) ^ byte_masks(s << (7 - 4 * (j & 1)));
      words[2 * j + 1] =
          look_up<16, kSigned>(table, index >> 16, upper1) ^ byte_masks(s << (5 - 4 * (j & 1)));
    }
  } else {
    static_assert(kBits == 6);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t n = c.nibbles[j], fifth = c.pairs[j] << 3, sign = c.pairs[j] << 2;
      const uint32_t index = kSigned ? n & 0x77777777 : n;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t upper = !kSigned ? 0 : h ? nibble_masks_high(n) : nibble_masks_low(n);
        const uint32_t i = h ? index >> 16 : index;
        const uint32_t large = h ? nibble_masks_high(fifth) : nibble_masks_low(fifth);
        const uint32_t negative = h ? nibble_masks_high(sign) : nibble_masks_low(sign);
        const uint32_t magnitude =
            select(large, look_up<16, kSigned>(table + 4, i, upper), look_up<16, kSigned>(table, i, upper));
        words[2 * j + h] = kComplement ? magnitude ^ negative : __vsub4(magnitude ^ negative, negative);
      }
    }
  }
}

/// Each value one code to the right, around the block of 128: what a lag acts on. Four lanes hold a block.
template <int kBits>
__device__ __forceinline__ void turn_right(uint32_t (&w)[8]) {
  const int lane = threadIdx.x % 32, l = lane % 4, from = (lane & ~3) | ((l + 3) & 3);
  // The pair before the first one is the last one, its halves exchanged.
  const uint32_t last = __shfl_sync(0xffffffff, w[7], from);
  uint32_t before0, before4;
  if constexpr (kBits >= 4) {
    before0 = l ? last : prmt(last, 0, 0x2300);
    before4 = w[3];
  } else {
    const uint32_t middle = __shfl_sync(0xffffffff, w[3], from);
    before0 = l ? middle : prmt(last, 0, 0x2300);
    before4 = l ? last : middle;
  }
#pragma unroll
  for (int i = 7; i > 0; --i)
    if (i != 4) w[i] = prmt(w[i - 1], w[i], 0x5432);
  // Word 4 needs word 3 as it was; it is still there only where the loop has not come by.
  w[4] = prmt(before4, w[4], 0x5432);
  w[0] = prmt(before0, w[0], 0x5432);
}

/// Where, in words from a granule's begin, the lane's activations lie: words 0..3 and 4..7 of decode_words.
template <int kBits>
__device__ __forceinline__ int first_words(int l) {
  return kBits >= 4 ? 8 * l : 4 * l;
}
template <int kBits>
__device__ __forceinline__ int second_words(int l, int granule) {
  return kBits >= 4 ? 8 * l + 4 : granule / 8 + 4 * l;
}

}  // namespace hlwq::cuda
