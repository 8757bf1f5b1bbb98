// Rotation and INT8 quantisation of a block held by one warp, bit for bit what the CPU's kernels give.
#pragma once

#include <cstdint>

#include "cuda/matrix.h"

namespace hlwq::cuda {

/// Unnormalised Walsh-Hadamard transform of 32 kEach values; lane i holds values i kEach .. (i + 1) kEach.
/// Strides ascend and no product is fused, as in the scalar kernel.
template <int kEach>
__device__ __forceinline__ void warp_butterflies(float (&v)[kEach]) {
#pragma unroll
  for (int stride = 1; stride < kEach; stride *= 2)
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (!(i & stride)) {
        const float a = v[i], b = v[i + stride];
        v[i] = a + b;
        v[i + stride] = a - b;
      }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int stride = 1; stride < 32; stride *= 2)
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float other = __shfl_xor_sync(0xffffffff, v[i], stride);
      v[i] = lane & stride ? other - v[i] : v[i] + other;
    }
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, i));
  return v;
}
template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) v += __shfl_xor_sync(0xffffffff, v, i);
  return v;
}

/// Rotates the warp's block of 32 kEach values, quantises it and stores it as block `b` of `token`, with the
/// forms turned by up to lags - 1.
template <int kEach>
__device__ __forceinline__ void store_rotated(float (&v)[kEach], const DeviceActivations& out, uint64_t token,
                                              uint64_t b, int lags) {
  constexpr int kBlock = 32 * kEach, kGranule = kBlock < 128 ? kBlock : 128;
  const int lane = threadIdx.x % 32;
  warp_butterflies(v);
  // Every output contains every input, so the first is not finite when any input is not. fmaxf drops NaN.
  float absmax = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) absmax = fmaxf(absmax, fabsf(v[i]));
  absmax = warp_max(absmax);
  const bool finite = isfinite(__shfl_sync(0xffffffff, v[0], 0)) && isfinite(absmax);
  const float to_q = finite && absmax > 0 ? __fdiv_rn(127.0f, absmax) : 0.0f;
  const bool usable = isfinite(to_q) && to_q > 0;
  int q[kEach], total = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    q[i] = usable ? min(127, max(-127, __float2int_rn(v[i] * to_q))) : 0;
    total += q[i];
  }
  total = warp_sum(total);
  if (lane == 0)
    out.scale_sum[token * out.blocks + b] =
        make_float2(finite ? absmax * (1.0f / (127.0f * static_cast<float>(kBlock))) : nanf(""),
                    static_cast<float>(total));
  const uint64_t base = (token * out.blocks + b) * kBlock;
  if constexpr (kEach == 4) {
    // Words of four values; the pairs' other halves are 16 lanes away.
    uint32_t word = (q[0] & 255) | (q[1] & 255) << 8 | (q[2] & 255) << 16 | static_cast<uint32_t>(q[3]) << 24;
    const uint32_t next = __shfl_sync(0xffffffff, word, (lane + 1) % 32);
    for (int lag = 0; lag < lags; ++lag) {
      const uint32_t own = lag == 0 ? word : __funnelshift_r(word, next, 8 * lag);
      const uint32_t other = __shfl_xor_sync(0xffffffff, own, 16);
      const uint32_t pairs = lane < 16 ? __byte_perm(own, other, 0x5140) : __byte_perm(other, own, 0x7362);
      *reinterpret_cast<uint32_t*>(out.q[lag] + base + 4 * (2 * (lane % 16) + lane / 16)) = pairs;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      for (int lag = 0; lag < lags; ++lag) {
        const int at = (lane * kEach + i - lag + kBlock) % kBlock, j = at % kGranule;
        out.q[lag][base + at - j + (j < kGranule / 2 ? 2 * j : 2 * j - kGranule + 1)] =
            static_cast<int8_t>(q[i]);
      }
  }
}

}  // namespace hlwq::cuda
