// The two products of a decode step over a tile of stored vectors, on tensor cores, straight from what is
// stored.
//
// Eight query heads that share a KV head are the rows of an m16n8k16 product, twice: rows 0 to 7 hold what
// FP16 or BF16 keeps of a query (or weight), rows 8 to 15 the rest, and the two sums are added. So both
// factors are as good as float. A warp works on 128 channels of the head for all keys of the tile.
//
// Sums run over channels or keys in any order, so each lane takes those that lie together in its words of the
// packed layout (quant/layout.h), and queries, weights and outputs are permuted alike:
//   scores: lane (g, t) = (lane / 4, lane % 4) decodes a quarter of the channels of key g of eight;
//   values: lane (g, t) decodes channels 4g + b + 32f, b and f < 4, of keys t, t + 4, t + 8, t + 12 of
//   sixteen.
#pragma once

#include "cuda/attention_mma.cuh"

namespace hlwq::cuda {

constexpr int kWarpChannels = 128;
constexpr int kMaxTileKeys = 32;
constexpr int kWeightStride = 40;  // of a row of weights, so that the lanes of a load meet different banks

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

/// Where the 16-byte chunks of a row lie in a tile, so that both readers below meet different banks.
template <int kBits>
__device__ inline int swizzle(int row, int chunk) {
  if (kBits == 16) return chunk ^ (row * 6 & 6);
  if (kBits == 8) return chunk ^ (row & 1) << 2;
  if (kBits == 4) return chunk ^ (row & 2);
  return chunk;
}

/// The channel, of a warp's 128, that lane group t meets as element e of step s of the scores.
__device__ inline int score_channel(int bits, int s, int t, int e) {
  if (bits == 16) return 8 * (t + 4 * (s >> 1)) + 4 * (s & 1) + e;
  if (bits == 8) return 16 * (t + 4 * (s >> 2)) + 4 * (s & 3) + e;
  if (bits == 4) return 16 * t + 2 * s + (e >> 1) + 64 * (e & 1);
  return 8 * t + 4 * (s >> 2) + e + 32 * (s & 3);
}

__device__ inline const uint4& shared16(const uint8_t* p) { return *reinterpret_cast<const uint4*>(p); }
__device__ inline const uint2& shared8(const uint8_t* p) { return *reinterpret_cast<const uint2*>(p); }
__device__ inline uint32_t shared4(const uint8_t* p) { return *reinterpret_cast<const uint32_t*>(p); }
__device__ inline uint32_t word(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}
__device__ inline uint32_t word(const uint2& x, int i) { return i == 0 ? x.x : x.y; }

/// part[g * stride + j] = <query g, key j> over the warp's channels, in units of the keys' norms. `levels8`:
/// FP16 levels by stored code, for 8 bits.
template <int kBits>
__device__ __forceinline__ void score_tile(const uint8_t* tile, int keys, const uint32_t (&q)[8][4],
                                           const CodeTable& table, const uint16_t* levels8, float* part,
                                           int stride, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll 1
  for (int pair = 0; pair < keys; pair += 16)
#pragma unroll
    for (int n = pair; n < pair + 16; n += 8) {
      const int row = n + g;
      const uint8_t* x = tile + row * (kWarpChannels * kBits / 8);
      float c[2][4] = {};
      if constexpr (kBits == 16) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint4 w = shared16(x + swizzle<16>(row, t + 4 * i) * 16);
          mma_bf16(c[0], q[2 * i], w.x, w.y);
          mma_bf16(c[1], q[2 * i + 1], w.z, w.w);
        }
      } else if constexpr (kBits == 8) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint4 w = shared16(x + swizzle<8>(row, t + 4 * i) * 16);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const uint32_t v = word(w, j);
            const uint32_t b0 = levels8[v & 255] | levels8[v >> 8 & 255] << 16;
            const uint32_t b1 = levels8[v >> 16 & 255] | levels8[v >> 24] << 16;
            mma_f16(c[j & 1], q[4 * i + j], b0, b1);
          }
        }
      } else if constexpr (kBits == 4) {
        const uint4 w = shared16(x + swizzle<4>(row, t) * 16);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint32_t h[4];
          decode4(word(w, j), table, h);
          mma_f16(c[0], q[2 * j], h[0], h[1]);
          mma_f16(c[1], q[2 * j + 1], h[2], h[3]);
        }
      } else {
        const uint2 w = shared8(x + 8 * t);
        uint4 signs{};
        if constexpr (kBits == 3) signs = shared16(x + 32);
#pragma unroll
        for (int f = 0; f < 4; ++f) {
          // Codes 8t + i + 32f have their signs in bits i of byte t of word f.
          const uint32_t sign = kBits == 3 ? (word(signs, f) >> (8 * t)) & 0xff : 0;
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            uint32_t b0, b1;
            decode2(word(w, j), 2 * f, table, b0, b1);
            if constexpr (kBits == 3) {
              // Two copies, 15 bits apart: bits 4j and 4j + 1, then 4j + 2 and 4j + 3, become bits 15 and 31.
              b0 |= (sign * ((1u << (15 - 4 * j)) + (1u << (30 - 4 * j)))) & 0x80008000u;
              b1 |= (sign * ((1u << (13 - 4 * j)) + (1u << (28 - 4 * j)))) & 0x80008000u;
            }
            mma_f16(c[j], q[4 * j + f], b0, b1);
          }
        }
      }
      float2 sum;
      sum.x = c[0][0] + c[0][2] + (c[1][0] + c[1][2]);
      sum.y = c[0][1] + c[0][3] + (c[1][1] + c[1][3]);
      *reinterpret_cast<float2*>(part + g * stride + n + 2 * t) = sum;
    }
}

/// Where the weight of key j of a tile stands in its row.
__device__ inline int weight_column(int j) {
  const int t = j & 3, e = j >> 2 & 3;
  return (j & ~15) + 2 * t + (e & 1) + 8 * (e >> 1);
}

/// o[4f + b] += weights x values at channels 4n + b + 32f, n the column of the product.
template <int kBits>
__device__ __forceinline__ void value_tile(const uint8_t* tile, int keys, const uint16_t* weights,
                                           const CodeTable& table, float (&o)[16][4], int lane) {
  const int g = lane / 4, t = lane % 4;
  constexpr int kRow = kWarpChannels * kBits / 8;
#pragma unroll 1
  for (int k = 0; k < keys; k += 16) {
    const auto weight = [&](int row, int column) {
      return *reinterpret_cast<const uint32_t*>(weights + row * kWeightStride + k + column);
    };
    const uint32_t a[4] = {weight(g, 2 * t), weight(g + 8, 2 * t), weight(g, 2 * t + 8),
                           weight(g + 8, 2 * t + 8)};
    const int row = k + t;  // and + 4, + 8, + 12: alike as far as swizzles go
    const uint8_t* x = tile + row * kRow;
    if constexpr (kBits == 16) {
#pragma unroll
      for (int f = 0; f < 4; ++f) {
        uint2 w[4];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          w[e] = shared8(x + 4 * e * kRow + swizzle<16>(row, 4 * f + (g >> 1)) * 16 + (g & 1) * 8);
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          const int pick = b & 1 ? 0x7632 : 0x5410;
          mma_bf16(o[4 * f + b], a, permute(word(w[0], b >> 1), word(w[1], b >> 1), pick),
                   permute(word(w[2], b >> 1), word(w[3], b >> 1), pick));
        }
      }
    } else if constexpr (kBits == 4) {
      constexpr uint32_t kLow = 0x0f0f0f0fu;
#pragma unroll
      for (int f = 0; f < 2; ++f) {
        uint32_t w[4];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          w[e] = shared4(x + 4 * e * kRow + swizzle<4>(row, 2 * f + (g >> 2)) * 16 + (g & 3) * 4);
        uint32_t h01[4], h23[4];
        decode4((w[0] & kLow) | ((w[1] << 4) & ~kLow), table, h01);
        decode4((w[2] & kLow) | ((w[3] << 4) & ~kLow), table, h23);
#pragma unroll
        for (int b = 0; b < 4; ++b) mma_f16(o[4 * f + b], a, h01[b], h23[b]);
        decode4(((w[0] >> 4) & kLow) | (w[1] & ~kLow), table, h01);
        decode4(((w[2] >> 4) & kLow) | (w[3] & ~kLow), table, h23);
#pragma unroll
        for (int b = 0; b < 4; ++b) mma_f16(o[4 * f + 8 + b], a, h01[b], h23[b]);
      }
    } else {
      uint32_t w[4], mixed[2][2];  // bytes of two keys in turn: [keys 0 1 | 2 3][channels b 0 1 | 2 3]
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        w[e] = shared4(x + 4 * e * kRow + 4 * g);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mixed[i][0] = permute(w[2 * i], w[2 * i + 1], 0x5140);
        mixed[i][1] = permute(w[2 * i], w[2 * i + 1], 0x7362);
      }
#pragma unroll
      for (int f = 0; f < 4; ++f) {
        uint32_t h[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          decode2(mixed[i][0], 2 * f, table, h[i][0], h[i][1]);
          decode2(mixed[i][1], 2 * f, table, h[i][2], h[i][3]);
          if constexpr (kBits == 3) {
            // Channels 4g + b + 32f have their signs in bits 4g + b of word f.
            const uint32_t sign = permute(shared4(x + 8 * i * kRow + 32 + 4 * f) >> (4 * g),
                                          shared4(x + (8 * i + 4) * kRow + 32 + 4 * f) >> (4 * g), 0x5410);
#pragma unroll
            for (int b = 0; b < 4; ++b) h[i][b] |= (sign << (15 - b)) & 0x80008000u;
          }
        }
#pragma unroll
        for (int b = 0; b < 4; ++b) mma_f16(o[4 * f + b], a, h[0][b], h[1][b]);
      }
    }
  }
}

#endif

}  // namespace hlwq::cuda
