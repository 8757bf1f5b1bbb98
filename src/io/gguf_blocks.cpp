#include "io/gguf_blocks.h"

#include <bit>
#include <cstring>

#include "base/half.h"

// Loops of 16 carry "unroll 1": GCC would otherwise unroll them whole before its vectoriser looks (measured:
// 3 to 6 times slower). `__restrict` because uint8_t may alias everything.
namespace hlwq::gguf_blocks {
namespace {

const uint8_t* as_u8(const std::byte* p) { return reinterpret_cast<const uint8_t*>(p); }

float load_fp16(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, sizeof h);
  return fp16_to_float(h);
}

// The fifth bits of eight values, spread to 16 or 0 a byte: copies of a byte, one bit kept in each, made 0x80
// or 0 by a carry that cannot leave its byte, and moved down.
uint64_t spread_eight(uint8_t bits) {
  const uint64_t kept = (bits * 0x0101010101010101u) & 0x8040201008040201u;
  return ((kept + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u) >> 3;
}

// Joined in vector registers: 16-byte loads of two 8-byte stores would wait for both to reach the cache.
void spread_fifth_bits(const uint8_t* p, uint8_t (&high)[32]) {
  static_assert(std::endian::native == std::endian::little);
  using Pair [[gnu::vector_size(16)]] = uint64_t;
  const Pair first = {spread_eight(p[0]), spread_eight(p[1])},
             second = {spread_eight(p[2]), spread_eight(p[3])};
  std::memcpy(high, &first, 16);
  std::memcpy(high + 16, &second, 16);
}

struct ScaleMin {
  uint8_t scale[8], min[8];
};

// Q4_K and Q5_K: eight 6-bit scales and eight 6-bit mins in 12 bytes. The first four of each sit in the low
// six bits of bytes 0..3 and 4..7; the last four have their low nibbles in bytes 8..11 and their top two bits
// above the first ones.
ScaleMin unpack_scale_min(const uint8_t* p) {
  ScaleMin s;
  for (int j = 0; j < 4; ++j) {
    s.scale[j] = p[j] & 63;
    s.min[j] = p[j + 4] & 63;
    s.scale[j + 4] = static_cast<uint8_t>((p[j + 8] & 15) | ((p[j] >> 6) << 4));
    s.min[j + 4] = static_cast<uint8_t>((p[j + 8] >> 4) | ((p[j + 4] >> 6) << 4));
  }
  return s;
}

}  // namespace

void decode_q4_0(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ4_0Bytes, out += kLegacyElements) {
    const float d = load_fp16(p);
    const uint8_t* q = p + 2;
#pragma GCC unroll 1
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>((q[j] & 15) - 8) * d;
      out[j + 16] = static_cast<float>((q[j] >> 4) - 8) * d;
    }
  }
}

void decode_q4_1(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ4_1Bytes, out += kLegacyElements) {
    const float d = load_fp16(p), m = load_fp16(p + 2);
    const uint8_t* q = p + 4;
#pragma GCC unroll 1
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>(q[j] & 15) * d + m;
      out[j + 16] = static_cast<float>(q[j] >> 4) * d + m;
    }
  }
}

void decode_q5_0(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ5_0Bytes, out += kLegacyElements) {
    const float d = load_fp16(p);
    uint8_t high[32];
    spread_fifth_bits(p + 2, high);
    const uint8_t* q = p + 6;
#pragma GCC unroll 1
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>(((q[j] & 15) | high[j]) - 16) * d;
      out[j + 16] = static_cast<float>(((q[j] >> 4) | high[j + 16]) - 16) * d;
    }
  }
}

void decode_q5_1(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ5_1Bytes, out += kLegacyElements) {
    const float d = load_fp16(p), m = load_fp16(p + 2);
    uint8_t high[32];
    spread_fifth_bits(p + 4, high);
    const uint8_t* q = p + 8;
#pragma GCC unroll 1
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>((q[j] & 15) | high[j]) * d + m;
      out[j + 16] = static_cast<float>((q[j] >> 4) | high[j + 16]) * d + m;
    }
  }
}

void decode_q8_0(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ8_0Bytes, out += kLegacyElements) {
    const float d = load_fp16(p);
    const auto* q = reinterpret_cast<const int8_t*>(p + 2);
    for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(q[j]) * d;
  }
}

// Each half of 128 values uses 32 bytes of codes; sub-block 2 s + t of a half holds bits 2 s.. of bytes 16
// t..16 t + 15.
void decode_q2_k(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ2_KBytes) {
    const uint8_t *scales = p, *q = p + 16;
    const float d = load_fp16(p + 80), dmin = load_fp16(p + 82);
    for (int sub = 0; sub < 16; ++sub, out += 16) {
      const int shift = 2 * ((sub / 2) % 4);
      const uint8_t* codes = q + 32 * (sub / 8) + 16 * (sub % 2);
      const float scale = d * static_cast<float>(scales[sub] & 15),
                  min = dmin * static_cast<float>(scales[sub] >> 4);
#pragma GCC unroll 1
      for (int l = 0; l < 16; ++l) out[l] = scale * static_cast<float>((codes[l] >> shift) & 3) - min;
    }
  }
}

// Codes as in Q2_K. The third bit of group sub / 2 is that bit of the mask bytes; clear means minus four.
void decode_q3_k(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ3_KBytes) {
    const uint8_t *mask = p, *q = p + 32, *packed = p + 96;
    const float d = load_fp16(p + 108);
    for (int sub = 0; sub < 16; ++sub, out += 16) {
      const int low = sub < 8 ? packed[sub] & 15 : packed[sub - 8] >> 4;
      const int high = (packed[8 + sub % 4] >> (2 * (sub / 4))) & 3;
      const float scale = d * static_cast<float>((low | (high << 4)) - 32);
      const int shift = 2 * ((sub / 2) % 4), bit = sub / 2;
      const uint8_t* codes = q + 32 * (sub / 8) + 16 * (sub % 2);
      const uint8_t* third = mask + 16 * (sub % 2);
#pragma GCC unroll 1
      for (int l = 0; l < 16; ++l)
        out[l] = scale * static_cast<float>(((codes[l] >> shift) & 3) + (((third[l] >> bit) & 1) << 2) - 4);
    }
  }
}

// Sub-blocks 2 g and 2 g + 1 (32 values each) are the low and the high nibbles of the g-th 32 bytes.
void decode_q4_k(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ4_KBytes) {
    const float d = load_fp16(p), dmin = load_fp16(p + 2);
    const ScaleMin s = unpack_scale_min(p + 4);
    const uint8_t* q = p + 16;
    for (int g = 0; g < 4; ++g, q += 32, out += 64) {
      const float d0 = d * static_cast<float>(s.scale[2 * g]), m0 = dmin * static_cast<float>(s.min[2 * g]);
      const float d1 = d * static_cast<float>(s.scale[2 * g + 1]),
                  m1 = dmin * static_cast<float>(s.min[2 * g + 1]);
      for (int l = 0; l < 32; ++l) out[l] = d0 * static_cast<float>(q[l] & 15) - m0;
      for (int l = 0; l < 32; ++l) out[32 + l] = d1 * static_cast<float>(q[l] >> 4) - m1;
    }
  }
}

// As Q4_K; the fifth bit of sub-block s is bit s of the 32 high bytes.
void decode_q5_k(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ5_KBytes) {
    const float d = load_fp16(p), dmin = load_fp16(p + 2);
    const ScaleMin s = unpack_scale_min(p + 4);
    const uint8_t *high = p + 16, *q = p + 48;
    for (int g = 0; g < 4; ++g, q += 32, out += 64) {
      const float d0 = d * static_cast<float>(s.scale[2 * g]), m0 = dmin * static_cast<float>(s.min[2 * g]);
      const float d1 = d * static_cast<float>(s.scale[2 * g + 1]),
                  m1 = dmin * static_cast<float>(s.min[2 * g + 1]);
      for (int l = 0; l < 32; ++l)
        out[l] = d0 * static_cast<float>((q[l] & 15) | (((high[l] >> (2 * g)) & 1) << 4)) - m0;
      for (int l = 0; l < 32; ++l)
        out[32 + l] = d1 * static_cast<float>((q[l] >> 4) | (((high[l] >> (2 * g + 1)) & 1) << 4)) - m1;
    }
  }
}

// Each half of 128 values: four runs of 32, whose low nibbles are low/high of 64 bytes and whose top bits are
// the four pairs of 32 bytes; an int8 scale for every 16 values.
void decode_q6_k(const std::byte* in, size_t blocks, float* __restrict out) {
  const uint8_t* p = as_u8(in);
  for (; blocks > 0; --blocks, p += kQ6_KBytes) {
    const float d = load_fp16(p + 208);
    const auto* scales = reinterpret_cast<const int8_t*>(p + 192);
    for (int sub = 0; sub < 16; ++sub, out += 16) {
      const int run = (sub / 2) % 4, half = sub / 8, offset = 16 * (sub % 2);
      const uint8_t* low = p + 64 * half + 32 * (run % 2) + offset;
      const uint8_t* high = p + 128 + 32 * half + offset;
      const int low_shift = 4 * (run / 2), high_shift = 2 * run;
      const float scale = d * static_cast<float>(scales[sub]);
#pragma GCC unroll 1
      for (int l = 0; l < 16; ++l)
        out[l] = scale * static_cast<float>(
                             (((low[l] >> low_shift) & 15) | (((high[l] >> high_shift) & 3) << 4)) - 32);
    }
  }
}

}  // namespace hlwq::gguf_blocks
