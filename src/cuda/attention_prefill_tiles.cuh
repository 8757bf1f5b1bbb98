// Tiles of stored keys and values as FP16 in shared memory, for prompts: each vector is decoded once and
// meets many queries.
//
// Coded vectors keep their norm, divided by 16 so that no product overflows; what is missing,
// 16 / head_dim^(1/2), is a factor of whole scores and outputs. BF16 becomes FP16: exact from 2^-14 to 65504,
// beyond which it saturates; what is smaller keeps an absolute error of 2^-25.
#pragma once

#include "cuda/attention_keys.cuh"
#include "cuda/attention_mma.cuh"

namespace hlwq::cuda {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

/// Element offset of the 8-channel chunk of a row: rows meet different banks in every column.
template <int D>
__device__ inline int tile_at(int row, int chunk) {
  return row * D + ((chunk ^ (row & 7)) << 3);
}

__device__ inline void load_matrices(uint32_t (&r)[4], const __half* p) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(p));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}
__device__ inline void load_transposed(uint32_t (&r)[4], const __half* p) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(p));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

/// One thread's share of a tile of kKeys vectors, on the way from a ring to shared memory: kUnits runs of 32
/// channels each.
template <int D, int kKeys, int kThreads>
struct TileShare {
  static constexpr int kRowUnits = D / 32, kUnits = kKeys * D / 32 / kThreads;
  static constexpr int kGranule = D < 128 ? D : 128, kGranuleUnits = kGranule / 32;
  static_assert(kUnits >= 1 && kKeys * D / 32 % kThreads == 0);

  uint4 raw[kUnits][4];
  uint16_t norm[kUnits];

  __device__ static int row(int i) { return (threadIdx.x + i * kThreads) / kRowUnits; }
  __device__ static int unit(int i) { return (threadIdx.x + i * kThreads) % kRowUnits; }

  /// Positions begin .. begin + n; what lies beyond is zero.
  __device__ __forceinline__ void load(const KvRing& ring, int head, int begin, int n) {
    const int bits = ring.bits;
    const auto capacity = static_cast<uint32_t>(ring.capacity);
    const uint32_t first = static_cast<uint32_t>(begin) % capacity;
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const int r = row(i), u = unit(i);
      norm[i] = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) raw[i][j] = uint4{};
      if (r >= n) continue;
      uint32_t slot = first + r;
      if (slot >= capacity) slot -= capacity;
      const uint64_t at = static_cast<uint64_t>(head) * capacity + slot;
      const uint8_t* from = static_cast<const uint8_t*>(ring.data) + at * (D / 8 * bits);
      if (bits == 16) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          raw[i][j] = *reinterpret_cast<const uint4*>(from + (u + kRowUnits * j) * 16);
        continue;
      }
      norm[i] = ring.norms[at];
      const int g = u / kGranuleUnits, v = u % kGranuleUnits;
      from += g * (kGranule / 8 * bits);
      if (bits == 8) {
        raw[i][0] = *reinterpret_cast<const uint4*>(from + v * 32);
        raw[i][1] = *reinterpret_cast<const uint4*>(from + v * 32 + 16);
      } else if (bits == 4) {
        raw[i][0] = *reinterpret_cast<const uint4*>(from + v * 16);
      } else {
        const uint2 low = *reinterpret_cast<const uint2*>(from + v * 8);
        raw[i][0].x = low.x;
        raw[i][0].y = low.y;
        if (bits == 3) {  // the granule's signs
          const uint8_t* signs = from + kGranule / 4;
          const uint2 a = *reinterpret_cast<const uint2*>(signs);
          raw[i][1].x = a.x;
          raw[i][1].y = a.y;
          if constexpr (kGranule == 128) {
            const uint2 b = *reinterpret_cast<const uint2*>(signs + 8);
            raw[i][1].z = b.x;
            raw[i][1].w = b.y;
          }
        }
      }
    }
  }

  /// `exact`: the factor of BF16 vectors, which puts them in the units of coded ones beside them.
  __device__ __forceinline__ void store(__half* tile, int bits, float exact, const CodeTable& table,
                                        const uint16_t* levels8) const {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const int r = row(i), u = unit(i);
      const auto put = [&](int chunk, uint4 x) {
        *reinterpret_cast<uint4*>(tile + tile_at<D>(r, chunk)) = x;
      };
      if (bits == 16) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint4 x = raw[i][j];
          put(u + kRowUnits * j,
              {narrowed(x.x, exact), narrowed(x.y, exact), narrowed(x.z, exact), narrowed(x.w, exact)});
        }
        continue;
      }
      const __half2 scale = __half2half2(__hmul(__ushort_as_half(norm[i]), __float2half_rn(0.0625f)));
      const auto scaled = [&](uint32_t h) {
        const __half2 y = __hmul2(*reinterpret_cast<const __half2*>(&h), scale);
        return *reinterpret_cast<const uint32_t*>(&y);
      };
      const int first = u / kGranuleUnits * (kGranule / 8), v = u % kGranuleUnits;  // in chunks
      if (bits == 8) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint4& x = raw[i][j / 2];
          const uint32_t a = j & 1 ? x.z : x.x, b = j & 1 ? x.w : x.y;
          const auto pair = [&](uint32_t w, int shift) {
            return scaled(levels8[w >> shift & 255] | levels8[w >> (shift + 8) & 255] << 16);
          };
          put(first + 4 * v + j, {pair(a, 0), pair(a, 16), pair(b, 0), pair(b, 16)});
        }
      } else if (bits == 4) {
        const uint32_t w[4] = {raw[i][0].x, raw[i][0].y, raw[i][0].z, raw[i][0].w};
#pragma unroll
        for (int j = 0; j < 2; ++j) {  // codes 16 v + 8 j ..., and those half a granule on
          uint32_t a[4], b[4];
          decode4(w[2 * j], table, a);
          decode4(w[2 * j + 1], table, b);
          put(first + 2 * v + j, {scaled(permute(a[0], a[1], 0x5410)), scaled(permute(a[2], a[3], 0x5410)),
                                  scaled(permute(b[0], b[1], 0x5410)), scaled(permute(b[2], b[3], 0x5410))});
          put(first + kGranule / 16 + 2 * v + j,
              {scaled(permute(a[0], a[1], 0x7632)), scaled(permute(a[2], a[3], 0x7632)),
               scaled(permute(b[0], b[1], 0x7632)), scaled(permute(b[2], b[3], 0x7632))});
        }
      } else {
        const uint32_t signs[4] = {raw[i][1].x, raw[i][1].y, raw[i][1].z, raw[i][1].w};
#pragma unroll
        for (int f = 0; f < 4; ++f) {  // codes 8 v ..., f quarters of a granule on
          uint32_t h[4];
          decode2(raw[i][0].x, 2 * f, table, h[0], h[1]);
          decode2(raw[i][0].y, 2 * f, table, h[2], h[3]);
          if (bits == 3) {
            const uint32_t words = kGranule == 128 ? signs[f] : signs[f / 2] >> (16 * (f & 1));
            const uint32_t sign = words >> (8 * v) & 0xff;
#pragma unroll
            for (int j = 0; j < 4; ++j)
              h[j] |= (sign * ((1u << (15 - 2 * j)) + (1u << (30 - 2 * j)))) & 0x80008000u;
          }
          put(first + kGranule / 32 * f + v, {scaled(h[0]), scaled(h[1]), scaled(h[2]), scaled(h[3])});
        }
      }
    }
  }

 private:
  /// Two BF16 values as FP16.
  __device__ static uint32_t narrowed(uint32_t x, float factor) {
    const float a = __uint_as_float(x << 16) * factor, b = __uint_as_float(x & 0xffff0000u) * factor;
    const __half2 most = __float2half2_rn(65504.0f);
    const __half2 h = __hmax2_nan(__hmin2_nan(__floats2half2_rn(a, b), most), __hneg2(most));
    return *reinterpret_cast<const uint32_t*>(&h);
  }
};

/// K = RoPE(w V) of a tile of values, by kWarps warps, a row each in turn; `values` in units of `unit`, and
/// rotated by the Hadamard matrix where they are coded.
template <int D, int kWarps>
__device__ void rebuild_tile(const KvView& view, bool rotated, float unit, int begin, int n,
                             const __half* values, __half* keys, int warp, int lane) {
  constexpr int kEach = D / 32;
  const int pairs = static_cast<int>(view.k_pairs);
  for (int r = warp; r < n; r += kWarps) {
    float x[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int c = lane + 32 * i;
      x[i] = __half2float(values[tile_at<D>(r, c / 8) + c % 8]) * unit;
    }
    if (rotated) {
      hadamard_sums<kEach>(x, lane);
#pragma unroll
      for (int i = 0; i < kEach; ++i) x[i] *= rsqrtf(static_cast<float>(D));
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] *= view.k_weight[lane + 32 * i];
    const float* cosines = view.k_rope + static_cast<uint64_t>(begin + r) * 2 * pairs;
#pragma unroll
    for (int i = 0; i < kEach / 2; ++i) {
      const int c = lane + 32 * i;
      if (c >= pairs) continue;
      const float a = x[i], b = x[i + kEach / 2], cosine = cosines[c], sine = cosines[pairs + c];
      x[i] = a * cosine - b * sine;
      x[i + kEach / 2] = b * cosine + a * sine;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int c = lane + 32 * i;
      keys[tile_at<D>(r, c / 8) + c % 8] = __float2half_rn(x[i]);
    }
  }
}

#endif

}  // namespace hlwq::cuda
