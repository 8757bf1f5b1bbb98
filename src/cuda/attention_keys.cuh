// Which keys a query sees, in which ring they lie, and a vector of any form as floats: the device side of
// ops/kv_view.h.
#pragma once

#include <cuda_fp16.h>

#include "cuda/attention_kernels.h"

namespace hlwq::cuda {

struct KeyRange {
  int begin, end;  ///< empty where end <= begin
};

/// Which of a store's rings a position is read from; plain stores have the main one only.
enum class KeySource { kSinks, kMain, kExact };

/// The keys of one sequence's queries.
struct KeySpan {
  const AttentionArgs& a;
  int first_position;

  __device__ int first_key(int token) const {
    const int position = first_position + token;
    return a.window && position + 1 > a.window ? position + 1 - a.window : 0;
  }
  __device__ int end_key(int token) const {
    return a.key_end ? static_cast<int>(a.key_end[token]) : first_position + token + 1;
  }
  /// What a query reads from a source. With codes: sinks first, then codes up to the query's exact tail. Both
  /// ends ascend with the token.
  __device__ KeyRange keys(int token, KeySource source) const {
    const KeyRange all{first_key(token), end_key(token)};
    if (!a.coded()) return source == KeySource::kMain ? all : KeyRange{0, 0};
    const int tail = a.tail ? max(0, first_position + token + 1 - a.tail) : all.end;
    if ((source == KeySource::kSinks && !a.sinks) || (source == KeySource::kExact && !a.tail)) return {0, 0};
    switch (source) {
      case KeySource::kSinks:
        return {all.begin, min(all.end, a.sinks)};
      case KeySource::kMain:
        return {max(all.begin, a.sinks), min(all.end, max(tail, a.sinks))};
      default:
        return {max(max(all.begin, a.sinks), tail), all.end};
    }
  }
  /// The part of split `split` in the keys [begin, end) of a run of queries.
  __device__ KeyRange part(KeyRange whole, int split) const {
    const int keys = max(0, whole.end - whole.begin);
    const int each = max(kKeysPerSplit, (keys + a.splits - 1) / a.splits);
    const int begin = min(whole.end, whole.begin + split * each);
    return {begin, min(whole.end, begin + each)};
  }
};

__device__ inline const KvRing& ring_of(const KvStore& store, KeySource source) {
  if (!store.main.coded() || source == KeySource::kMain) return store.main;
  return source == KeySource::kExact ? store.exact : store.sinks;
}

__device__ inline uint64_t ring_row(const KvRing& ring, int head, int position) {
  return static_cast<uint64_t>(head) * ring.capacity +
         static_cast<uint32_t>(position) % static_cast<uint32_t>(ring.capacity);
}

/// Stored code `i` of a packed vector (quant/layout.h).
__device__ inline int stored_code(const uint8_t* row, int bits, int head_dim, int i) {
  const int g = min(head_dim, 128), t = i % g;
  row += i / g * (g * bits / 8);
  if (bits == 8) return row[t];
  if (bits == 4) return row[t % (g / 2)] >> (t / (g / 2) * 4) & 15;
  const int low = row[t % (g / 4)] >> (t / (g / 4) * 2) & 3;
  return bits == 2 ? low : low | (row[g / 4 + t / 8] >> (t % 8) & 1) << 2;
}

/// The level of a stored code.
__device__ inline float level(const KvTables& tables, int bits, int code) {
  if (bits == 2) return tables.level2[code];
  if (bits == 3) return tables.level3[code];
  if (bits == 4) return tables.level4[code];
  const float m = tables.magnitude8[code & 127];
  return code & 128 ? -m : m;
}

/// One warp turns a stored vector into floats. `levels`: by stored code, where the ring is coded.
__device__ inline void load_vector(const KvRing& ring, int head_dim, uint64_t row, const float* levels,
                                   float* x, int lane) {
  if (ring.bits == 32) {
    const float* from = static_cast<const float*>(ring.data) + row * head_dim;
    for (int i = lane; i < head_dim; i += 32) x[i] = from[i];
  } else if (ring.bits == 16) {
    const uint16_t* from = static_cast<const uint16_t*>(ring.data) + row * head_dim;
    for (int i = lane; i < head_dim; i += 32) x[i] = __uint_as_float(static_cast<uint32_t>(from[i]) << 16);
  } else {
    const uint8_t* from = static_cast<const uint8_t*>(ring.data) + row * (head_dim * ring.bits / 8);
    const float scale =
        __half2float(__ushort_as_half(ring.norms[row])) * rsqrtf(static_cast<float>(head_dim));
    for (int i = lane; i < head_dim; i += 32)
      x[i] = scale * levels[stored_code(from, ring.bits, head_dim, i)];
  }
  __syncwarp();
}

/// A warp's x <- sqrt(n) H x, n = 32 kEach: x[i] of a lane is value lane + 32 i.
template <int kEach>
__device__ __forceinline__ void hadamard_sums(float (&x)[kEach], int lane) {
#pragma unroll
  for (int step = 1; step < kEach; step *= 2)
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (!(i & step)) {
        const float a = x[i], b = x[i + step];
        x[i] = a + b;
        x[i + step] = a - b;
      }
#pragma unroll
  for (int step = 1; step < 32; step *= 2)
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float other = __shfl_xor_sync(~0u, x[i], step);
      x[i] = lane & step ? other - x[i] : x[i] + other;
    }
}

/// x <- H x, orthonormal, by one warp; n a power of two from 32 on.
template <int kEach>
__device__ void warp_hadamard_of(float* x, int lane) {
  float y[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) y[i] = x[lane + 32 * i];
  hadamard_sums<kEach>(y, lane);
  const float scale = rsqrtf(32.0f * kEach);
#pragma unroll
  for (int i = 0; i < kEach; ++i) x[lane + 32 * i] = y[i] * scale;
  __syncwarp();
}
__device__ inline void warp_hadamard(float* x, int n, int lane) {
  __syncwarp();
  switch (n) {
    case 32:
      return warp_hadamard_of<1>(x, lane);
    case 64:
      return warp_hadamard_of<2>(x, lane);
    case 128:
      return warp_hadamard_of<4>(x, lane);
    case 256:
      return warp_hadamard_of<8>(x, lane);
    default:
      return warp_hadamard_of<16>(x, lane);
  }
}

}  // namespace hlwq::cuda
