// The splits' outputs to one: merged by their log-sum-exp, rotated back where values are coded, and, for a
// decode step, turned into the next linear's INT8 input.
#include "cuda/attention_kernels.h"
#include "cuda/chain.cuh"
#include "cuda/rotate.cuh"
#include "cuda/runtime.h"

namespace hlwq::cuda {
namespace {

constexpr int kMergeThreads = 256;

/// A block for each row of the output: a thread has four channels of every few splits.
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(const __grid_constant__ AttentionArgs a, const __grid_constant__ DeviceActivations quantized,
                 int lags, bool plain) {
  __shared__ float4 partial[kMergeThreads];
  __shared__ float weights[kMaxSplits], warp_values[2][kMergeThreads / 32];
  __shared__ float y[kMaxHeadDim];
  const int d = a.head_dim, tid = threadIdx.x, quads = d / 4, parts = kMergeThreads / quads;
  const int64_t row = blockIdx.x;
  float* out = a.out + row * d;
  start_next_kernel();
  wait_for_previous_kernel();
  if (a.splits > 1) {
    static_assert(kMaxSplits <= kMergeThreads);
    float top = -INFINITY, total = 0;
    if (tid < a.splits) {
      const float2 stats = reinterpret_cast<const float2*>(a.stats)[row * a.splits + tid];
      total = stats.y;
      if (total != 0) top = stats.x;  // else it saw no key, and wrote nothing more
    }
    float most = top;
    for (int step = 16; step; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
    if (tid % 32 == 0) warp_values[0][tid / 32] = most;
    __syncthreads();
    for (const float x : warp_values[0]) most = fmaxf(most, x);
    const float weight = total != 0 ? expf(top - most) : 0.0f;
    total *= weight;
    for (int step = 16; step; step /= 2) total += __shfl_xor_sync(~0u, total, step);
    if (tid % 32 == 0) warp_values[1][tid / 32] = total;
    if (tid < kMaxSplits) weights[tid] = weight;
    __syncthreads();
    total = 0;
    for (const float x : warp_values[1]) total += x;
    float4 sum{};
    if (tid < parts * quads) {
      const auto* from = reinterpret_cast<const float4*>(a.sums) + row * a.splits * quads + tid % quads;
#pragma unroll 4
      for (int s = tid / quads; s < a.splits; s += parts) {
        const float w = weights[s];
        if (w == 0) continue;
        const float4 x = from[static_cast<int64_t>(s) * quads];
        sum.x += w * x.x;
        sum.y += w * x.y;
        sum.z += w * x.z;
        sum.w += w * x.w;
      }
    }
    partial[tid] = sum;
    __syncthreads();
    if (tid < quads) {
      for (int p = 1; p < parts; ++p) {
        const float4 x = partial[p * quads + tid];
        sum.x += x.x;
        sum.y += x.y;
        sum.z += x.z;
        sum.w += x.w;
      }
      const float inverse = 1.0f / total;
      reinterpret_cast<float4*>(y)[tid] = {sum.x * inverse, sum.y * inverse, sum.z * inverse,
                                           sum.w * inverse};
    }
  } else {
    if (tid < quads) reinterpret_cast<float4*>(y)[tid] = reinterpret_cast<const float4*>(out)[tid];
  }
  float scale = 1;
  if (a.v_bits < 16) {  // values were summed rotated
    scale = rsqrtf(static_cast<float>(d));
    for (int step = 1; step < d; step *= 2) {
      __syncthreads();
      for (int i = tid; i < d / 2; i += kMergeThreads) {
        const int at = (i / step * 2) * step + i % step;
        const float p = y[at], q = y[at + step];
        y[at] = p + q;
        y[at + step] = p - q;
      }
    }
  }
  __syncthreads();
  if (plain)
    for (int i = tid; i < d; i += kMergeThreads) out[i] = y[i] * scale;
  const int b = tid / 32, heads = a.heads;  // a warp for each block of 128
  if (quantized.block && b < d / 128) {
    const float4 x = reinterpret_cast<const float4*>(y)[tid];
    // As stored floats would be: no product is fused with the sums of the rotation.
    float v[4] = {__fmul_rn(x.x, scale), __fmul_rn(x.y, scale), __fmul_rn(x.z, scale), __fmul_rn(x.w, scale)};
    store_rotated(v, quantized, row / heads, row % heads * (d / 128) + b, lags);
  }
}

}  // namespace

void launch_merge(const AttentionArgs& args, cudaStream_t stream) {
  if (args.splits == 1 && args.v_bits >= 16) return;
  launch_chained(merge_kernel, static_cast<unsigned>(args.sequences * args.tokens * args.heads),
                 kMergeThreads, 0, stream, args, DeviceActivations{}, 0, true);
  check_launch("attention's merging");
}

void launch_merge_quantized(const AttentionArgs& args, const DeviceActivations& quantized, int lags,
                            bool plain, cudaStream_t stream) {
  launch_chained(merge_kernel, static_cast<unsigned>(args.sequences * args.tokens * args.heads),
                 kMergeThreads, 0, stream, args, quantized, lags, plain);
  check_launch("attention's merging");
}

}  // namespace hlwq::cuda
