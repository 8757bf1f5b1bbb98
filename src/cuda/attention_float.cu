// Attention in float for every form of cache and head size: what the faster kernels do not cover.
#include "cuda/attention_keys.cuh"
#include "cuda/chain.cuh"
#include "cuda/runtime.h"

namespace hlwq::cuda {
namespace {

constexpr int kThreads = 128, kWarps = 4;
constexpr int kKeys = 16;  // keys in a tile; kThreads = kFloatRows * kKeys
constexpr int kChannels = kMaxHeadDim / kThreads;
static_assert(kFloatRows * kKeys == kThreads);

struct SharedLayout {
  int stride;  // of a tile's rows, so that threads of different keys meet different banks
  __host__ __device__ explicit SharedLayout(int head_dim) : stride(head_dim + 4) {}
  __host__ __device__ int floats(int head_dim) const {
    return kFloatRows * head_dim + kKeys * stride + kFloatRows * kKeys + kFloatRows + 256 + 16;
  }
};

/// K = RoPE(w V) of one vector in place, by one warp.
__device__ void turn(const KvView& view, int position, float* x, int d, int lane) {
  const int half = d / 2, pairs = static_cast<int>(view.k_pairs);
  const float* cosines = view.k_rope + static_cast<uint64_t>(position) * 2 * pairs;
  for (int i = lane; i < half; i += 32) {
    const float a = x[i] * view.k_weight[i], b = x[half + i] * view.k_weight[half + i];
    const float c = i < pairs ? cosines[i] : 1.0f, s = i < pairs ? cosines[pairs + i] : 0.0f;
    x[i] = a * c - b * s;
    x[half + i] = b * c + a * s;
  }
  __syncwarp();
}

/// Grid: (row tiles x splits, KV heads, sequences).
__global__ void __launch_bounds__(kThreads) float_kernel(const __grid_constant__ AttentionArgs a) {
  extern __shared__ float4 shared[];
  const int d = a.head_dim, tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const SharedLayout layout(d);
  float* queries = reinterpret_cast<float*>(shared);
  float* tile = queries + kFloatRows * d;
  float* weights = tile + kKeys * layout.stride;
  float* keep = weights + kFloatRows * kKeys;
  float *k_levels = keep + kFloatRows, *v_levels = k_levels + 256;

  const int split = blockIdx.x % a.splits, first_row = blockIdx.x / a.splits * kFloatRows;
  const int head = blockIdx.y, sequence = blockIdx.z;
  const int rows = min(kFloatRows, a.tokens * a.group - first_row);
  const KvView& view = a.views[sequence];
  const KeySpan span{a, static_cast<int>(a.positions[sequence])};
  const bool rebuilt = a.k_bits == 0, k_coded = a.k_bits && a.k_bits < 16, v_coded = a.v_bits < 16;
  // Row r of the tile is head row % group of token row / group.
  const auto index = [&](int r) {
    const int row = first_row + r;
    return (static_cast<int64_t>(sequence) * a.tokens + row / a.group) * a.heads + head * a.group +
           row % a.group;
  };

  if (k_coded)
    for (int i = tid; i < 1 << a.k_bits; i += kThreads) k_levels[i] = level(a.tables, a.k_bits, i);
  if (v_coded)
    for (int i = tid; i < 1 << a.v_bits; i += kThreads) v_levels[i] = level(a.tables, a.v_bits, i);
  for (int r = warp; r < kFloatRows; r += kWarps) {
    float* row = queries + r * d;
    for (int i = lane; i < d; i += 32) row[i] = r < rows ? a.q[index(r) * d + i] * a.scale : 0.0f;
    __syncwarp();
    if (k_coded) warp_hadamard(row, d, lane);
  }
  __syncthreads();

  const int first_token = first_row / a.group, last_token = (first_row + rows - 1) / a.group;
  const KeyRange own = span.part({span.first_key(first_token), span.end_key(last_token)}, split);
  const int r = tid / kKeys, j = tid % kKeys;  // the score of this thread
  const int token = (first_row + min(r, rows - 1)) / a.group;
  float top = -INFINITY, total = 0;
  float sum[kFloatRows][kChannels] = {};

  for (const KeySource source : {KeySource::kSinks, KeySource::kMain, KeySource::kExact}) {
    const int begin = max(own.begin, span.keys(first_token, source).begin);
    const int end = min(own.end, span.keys(last_token, source).end);
    const KeyRange seen = span.keys(token, source);
    for (int key = begin; key < end; key += kKeys) {
      const int n = min(kKeys, end - key);
      const KvRing& values = ring_of(view.v, source);
      const KvRing& keys = rebuilt ? values : ring_of(view.k, source);
      for (int i = warp; i < n; i += kWarps) {
        float* x = tile + i * layout.stride;
        load_vector(keys, d, ring_row(keys, head, key + i), rebuilt ? v_levels : k_levels, x, lane);
        if (!rebuilt) continue;
        if (v_coded) warp_hadamard(x, d, lane);
        turn(view, key + i, x, d, lane);
      }
      __syncthreads();
      float score = -INFINITY;
      if (r < rows && j < n && key + j >= seen.begin && key + j < seen.end) {
        score = 0;
        const float *q = queries + r * d, *k = tile + j * layout.stride;
        for (int i = 0; i < d; i += 4) {
          const float4 x = *reinterpret_cast<const float4*>(q + i);
          const float4 y = *reinterpret_cast<const float4*>(k + i);
          score += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
        }
      }
      float new_top = fmaxf(top, score);
      for (int step = kKeys / 2; step; step /= 2)
        new_top = fmaxf(new_top, __shfl_xor_sync(~0u, new_top, step));
      // No key seen so far: the weights are 0 as they should be, relative to any maximum.
      const float base = new_top == -INFINITY ? 0.0f : new_top;
      const float weight = expf(score - base), kept = expf(top - base);
      top = new_top;
      float tile_sum = weight;
      for (int step = kKeys / 2; step; step /= 2) tile_sum += __shfl_xor_sync(~0u, tile_sum, step);
      total = total * kept + tile_sum;
      weights[tid] = weight;
      if (j == 0) keep[r] = kept;
      __syncthreads();
      for (int i = warp; i < n; i += kWarps)
        load_vector(values, d, ring_row(values, head, key + i), v_levels, tile + i * layout.stride, lane);
      __syncthreads();
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const int channel = tid + c * kThreads;
        if (channel >= d) break;
#pragma unroll
        for (int row = 0; row < kFloatRows; ++row) sum[row][c] *= keep[row];
        for (int i = 0; i < n; ++i) {
          const float v = tile[i * layout.stride + channel];
#pragma unroll
          for (int row = 0; row < kFloatRows; ++row) sum[row][c] += weights[row * kKeys + i] * v;
        }
      }
      __syncthreads();
    }
  }

  if (j == 0) keep[r] = a.splits > 1 ? 1.0f : 1.0f / total;
  if (a.splits > 1 && j == 0 && r < rows) {
    float* stats = a.stats + (index(r) * a.splits + split) * 2;
    stats[0] = top;
    stats[1] = total;
  }
  __syncthreads();
#pragma unroll
  for (int row = 0; row < kFloatRows; ++row) {
    if (row >= rows) break;
    float* to = a.splits > 1 ? a.sums + (index(row) * a.splits + split) * d : a.out + index(row) * d;
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (tid + c * kThreads < d) to[tid + c * kThreads] = sum[row][c] * keep[row];
  }
}

}  // namespace

void launch_float(const AttentionArgs& args, int kv_heads, cudaStream_t stream) {
  const int bytes = SharedLayout(args.head_dim).floats(args.head_dim) * static_cast<int>(sizeof(float));
  check(cudaFuncSetAttribute(float_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "attention's shared memory");
  const int tiles = (args.tokens * args.group + kFloatRows - 1) / kFloatRows;
  const dim3 grid(static_cast<unsigned>(tiles * args.splits), static_cast<unsigned>(kv_heads),
                  static_cast<unsigned>(args.sequences));
  float_kernel<<<grid, kThreads, bytes, stream>>>(args);
  check_launch("attention");
}

}  // namespace hlwq::cuda
