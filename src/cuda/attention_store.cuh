// One vector of a new key or value into its rings: what KvCache::store and KvCodec::encode do.
#pragma once

#include <cuda_bf16.h>

#include "cuda/attention_keys.cuh"
#include "cuda/rotate.cuh"

namespace hlwq::cuda {

constexpr float kMaxFp16 = 65504;

__device__ inline float magnitude(const KvTables& t, int bits, int m) {
  return bits == 2 ? t.level2[m] : bits == 3 ? t.level3[m] : bits == 4 ? t.level4[m] : t.magnitude8[m];
}

/// How many thresholds, each in the middle of two neighbouring magnitudes, |u| passes.
__device__ inline int nearest(const KvTables& t, int bits, float a) {
  int m = 0;
  for (int step = 1 << (bits - 2); step; step /= 2) {
    const int next = m + step;
    if (a > 0.5f * (magnitude(t, bits, next - 1) + magnitude(t, bits, next))) m = next;
  }
  return m;
}

/// Byte `b` of a granule of g stored codes.
__device__ inline uint8_t packed_byte(const uint8_t* v, int bits, int g, int b) {
  if (bits == 8) return v[b];
  if (bits == 4) return static_cast<uint8_t>(v[b] | v[g / 2 + b] << 4);
  if (b < g / 4) {
    int byte = 0;
    for (int f = 0; f < 4; ++f) byte |= (v[f * (g / 4) + b] & 3) << (2 * f);
    return static_cast<uint8_t>(byte);
  }
  int byte = 0;
  for (int j = 0; j < 8; ++j) byte |= (v[8 * (b - g / 4) + j] >> 2 & 1) << j;
  return static_cast<uint8_t>(byte);
}

/// x, rotated, to codes and their least-squares norm. `stored`: room for a byte a value.
__device__ inline void encode(const KvTables& tables, const KvRing& ring, int d, uint64_t row, const float* x,
                              uint8_t* stored, int lane) {
  const int bits = ring.bits, bytes = d * bits / 8;
  auto* codes = static_cast<uint8_t*>(ring.data) + row * bytes;
  float squares = 0;
  for (int i = lane; i < d; i += 32) squares += x[i] * x[i];
  const float length = sqrtf(warp_sum(squares));
  if (!(length > 0) || isinf(length)) {
    for (int b = lane; b < bytes; b += 32) codes[b] = 0;
    if (lane == 0) ring.norms[row] = length == 0 ? 0 : 0x7e00;
    return;
  }
  const float scale = sqrtf(static_cast<float>(d)) / length;
  float uc = 0, cc = 0;
  for (int i = lane; i < d; i += 32) {
    const float u = x[i] * scale;
    const int m = nearest(tables, bits, fabsf(u));
    const float c = magnitude(tables, bits, m);
    uc += fabsf(u) * c;
    cc += c * c;
    stored[i] = static_cast<uint8_t>(m | (u < 0 ? 1 << (bits - 1) : 0));
  }
  uc = warp_sum(uc);
  cc = warp_sum(cc);
  __syncwarp();
  const int g = min(d, 128), granule_bytes = g * bits / 8;
  for (int b = lane; b < bytes; b += 32)
    codes[b] = packed_byte(stored + b / granule_bytes * g, bits, g, b % granule_bytes);
  if (lane == 0) ring.norms[row] = __half_as_ushort(__float2half_rn(fminf(length * uc / cc, kMaxFp16)));
}

__device__ inline void put_bf16(const KvRing& ring, uint64_t row, const float* x, int d, int lane) {
  auto* to = static_cast<__nv_bfloat16*>(ring.data) + row * d;
  for (int i = lane; i < d; i += 32) to[i] = __float2bfloat16_rn(x[i]);
}

/// A warp puts a vector of d floats at `position` of a head's rings. `x`, in shared memory, is rotated in
/// place where it is coded; `stored`: room for a byte a value.
__device__ inline void store_vector(const KvTables& tables, const KvStore& store, int d, int head,
                                    int position, float* x, uint8_t* stored, int lane) {
  const uint64_t row = ring_row(store.main, head, position);
  if (store.main.bits == 32) {
    auto* to = static_cast<float*>(store.main.data) + row * d;
    for (int c = lane; c < d; c += 32) to[c] = x[c];
  } else if (store.main.bits == 16) {
    put_bf16(store.main, row, x, d, lane);
  } else {
    warp_hadamard(x, d, lane);
    encode(tables, store.main, d, row, x, stored, lane);
    if (store.exact.bits) put_bf16(store.exact, ring_row(store.exact, head, position), x, d, lane);
    if (static_cast<uint64_t>(position) < store.sinks.capacity)
      put_bf16(store.sinks, ring_row(store.sinks, head, position), x, d, lane);
  }
}

}  // namespace hlwq::cuda
