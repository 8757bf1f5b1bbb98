#include "cuda/activations.h"

#include <cmath>
#include <string>

#include "cuda/attention_kernels.h"
#include "cuda/chain.cuh"
#include "cuda/rotate.cuh"

namespace hlwq::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRowThreads = 512;  // where blocks work on whole rows

// Calls run.operator()<values a lane>() for a block size.
template <typename Run>
void dispatch_block(int block, Run&& run) {
  switch (block) {
    case 32:
      return run.template operator()<1>();
    case 64:
      return run.template operator()<2>();
    case 128:
      return run.template operator()<4>();
    case 256:
      return run.template operator()<8>();
    default:
      return run.template operator()<16>();
  }
}

template <int kCount>
__device__ float block_sum(float v, float* shared) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) total += shared[i];
  __syncthreads();
  return total;
}

// Four values of a row, those beyond its end zero. Rows of a width that 4 does not divide are read one by
// one.
__device__ __forceinline__ float4 row4(const float* p, uint64_t i, uint64_t n) {
  if (n % 4 == 0) return i < n ? *reinterpret_cast<const float4*>(p + i) : float4{};
  return {i < n ? p[i] : 0, i + 1 < n ? p[i + 1] : 0, i + 2 < n ? p[i + 2] : 0, i + 3 < n ? p[i + 3] : 0};
}
__device__ __forceinline__ float squares4(float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }

// A warp's block of a row, and the weights that act on it.
template <int kEach>
struct OwnBlock {
  float x[kEach], p[kEach], delta_weight[kEach], weight[kEach];

  __device__ __forceinline__ void load_weights(const ResidualStep& s, uint64_t first) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool has = first + i < s.width;
      delta_weight[i] = has && s.projected && s.delta_norm ? s.delta_norm[first + i] : 1.0f;
      weight[i] = has && s.norm ? s.norm[first + i] : 1.0f;
    }
  }
  __device__ __forceinline__ void load_row(const ResidualStep& s, uint64_t token, uint64_t first) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool has = first + i < s.width;
      x[i] = has ? s.x[token * s.width + first + i] : 0.0f;
      p[i] = has && s.projected ? s.projected[token * s.width + first + i] : 0.0f;
    }
  }
};

// Several blocks share a token: each sums the whole row for itself, which costs less than meeting. The row
// stays in registers; kVectors pieces of 4 floats a thread. All that is read is under way before the first
// sum; weights, which no kernel changes, before the previous kernel ends.
template <int kEach, int kVectors>
__global__ void __launch_bounds__(kRowThreads)
    residual_kernel(const __grid_constant__ ResidualStep s, const __grid_constant__ DeviceActivations out,
                    int lags) {
  constexpr int kRowWarps = kRowThreads / 32, kBlock = 32 * kEach;
  __shared__ float shared[kRowWarps];
  start_next_kernel();
  const uint64_t token = blockIdx.y, n = s.width, blocks = (n + kBlock - 1) / kBlock;
  const uint64_t lane_first = threadIdx.x % 32 * kEach;
  uint64_t b = blockIdx.x * kRowWarps + threadIdx.x / 32;
  const float *x = s.x + token * n, *p = s.projected ? s.projected + token * n : nullptr;
  const bool delta_normed = p && s.delta_norm;
  OwnBlock<kEach> own;
  own.load_weights(s, b * kBlock + lane_first);
  float4 delta[kVectors], v[kVectors], w[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i)
    w[i] =
        delta_normed ? row4(s.delta_norm, 4 * (threadIdx.x + i * kRowThreads), n) : make_float4(1, 1, 1, 1);
  wait_for_previous_kernel();
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    delta[i] = p ? row4(p, 4 * (threadIdx.x + i * kRowThreads), n) : float4{};
    v[i] = row4(x, 4 * (threadIdx.x + i * kRowThreads), n);
  }
  own.load_row(s, token, b * kBlock + lane_first);
  float squares = 0, delta_scale = 1;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) squares += squares4(delta[i]);
  if (delta_normed)
    delta_scale = 1.0f / sqrtf(block_sum<kRowWarps>(squares, shared) / static_cast<float>(n) + s.eps);
  squares = 0;
  const auto add = [&](float a, float d, float weight) { return (a + d * delta_scale * weight) * s.scale; };
#pragma unroll
  for (int i = 0; i < kVectors; ++i)
    squares += squares4({add(v[i].x, delta[i].x, w[i].x), add(v[i].y, delta[i].y, w[i].y),
                         add(v[i].z, delta[i].z, w[i].z), add(v[i].w, delta[i].w, w[i].w)});
  const float norm_scale =
      s.norm ? 1.0f / sqrtf(block_sum<kRowWarps>(squares, shared) / static_cast<float>(n) + s.eps) : 1.0f;

  while (b < blocks) {
    float y[kEach];
    const uint64_t first = b * kBlock + lane_first;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      y[i] = 0;
      const uint64_t at = first + i;
      if (at >= n) continue;
      const float raw = add(own.x[i], own.p[i], own.delta_weight[i]);
      if (s.x_out) s.x_out[token * n + at] = raw;
      y[i] = s.norm ? raw * norm_scale * own.weight[i] : raw;
      if (s.normed) s.normed[token * n + at] = y[i];
    }
    if (out.block) store_rotated(y, out, token, b, lags);
    b += gridDim.x * kRowWarps;
    if (b >= blocks) break;
    own.load_weights(s, b * kBlock + lane_first);
    own.load_row(s, token, b * kBlock + lane_first);
  }
}

template <int kEach>
__global__ void __launch_bounds__(kThreads)
    gated_kernel(const float* gate, const float* up, uint64_t stride, uint64_t n, Activation activation,
                 const __grid_constant__ DeviceActivations out, int lags, float* plain) {
  constexpr int kBlock = 32 * kEach;
  const uint64_t token = blockIdx.y, b = blockIdx.x * static_cast<uint64_t>(kWarps) + threadIdx.x / 32;
  start_next_kernel();
  wait_for_previous_kernel();
  if (b * kBlock >= n) return;
  const uint64_t first = b * kBlock + threadIdx.x % 32 * kEach;
  float v[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    v[i] = 0;
    if (first + i >= n) continue;
    const float g = gate[token * stride + first + i], u = up ? up[token * stride + first + i] : 1.0f;
    float a = g;
    if (up) {
      if (activation == Activation::kGeluTanh)
        a = 0.5f * g * (1.0f + tanhf(0.7978845608028654f * (g + 0.044715f * g * g * g)));
      else
        a = g / (1.0f + expf(-g));
    }
    v[i] = a * u;
    if (plain) plain[token * n + first + i] = v[i];
  }
  if (out.block) store_rotated(v, out, token, b, lags);
}

// A block for a head, a thread for the two values that turn together.
__global__ void __launch_bounds__(kMaxHeadDim / 2) head_kernel(const __grid_constant__ HeadStep s) {
  __shared__ float sums[kMaxHeadDim / 64];
  start_next_kernel();
  const uint64_t all = s.heads + (s.k || s.v ? 2 * s.kv_heads : 0), d = s.head_dim, half = d / 2;
  const uint64_t token = blockIdx.x / all, head = blockIdx.x % all, i = threadIdx.x;
  const bool is_q = head < s.heads, is_k = !is_q && head < s.heads + s.kv_heads, has = i < half;
  const uint64_t own = is_q ? head : is_k ? head - s.heads : head - s.heads - s.kv_heads;
  const float* weight = is_q ? s.q_norm : is_k ? s.k_norm : nullptr;
  const float weight_a = weight && has ? weight[i] : 1.0f, weight_b = weight && has ? weight[half + i] : 1.0f;
  const float frequency = (is_q || is_k) && has ? s.inv_freq[i] : 0.0f;
  wait_for_previous_kernel();
  if (is_k && s.keys_rebuilt) return;
  const float* in = (is_q ? s.q : is_k ? s.k : s.v) + token * (is_q ? s.q_stride : s.kv_stride) + own * d;
  float* out = is_q ? s.q_out + (token * s.heads + own) * d
                    : (is_k ? s.k_out : s.v_out) + (token * s.kv_heads + own) * d;
  float a = has ? in[i] : 0.0f, b = has ? in[half + i] : 0.0f, sine = 0, cosine = 1;
  if (is_q || is_k) {
    const uint64_t position = s.positions[token / s.tokens_each] + token % s.tokens_each;
    sincosf(static_cast<float>(position) * frequency, &sine, &cosine);
    sine *= s.rope_scale, cosine *= s.rope_scale;
  }
  if (is_q || is_k ? weight != nullptr : s.v_norm) {
    const float squares = warp_sum(a * a + b * b);
    if (i % 32 == 0) sums[i / 32] = squares;
    __syncthreads();
    float total = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) total += sums[w];
    const float scale = 1.0f / sqrtf(total / static_cast<float>(d) + s.eps);
    a *= scale * weight_a, b *= scale * weight_b;
  }
  if (!has) return;
  out[i] = a * cosine - b * sine;
  out[half + i] = b * cosine + a * sine;
}

__global__ void bias_kernel(const float* bias, uint64_t width, uint64_t stride, float* x) {
  const uint64_t i = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x;
  if (i < width) x[blockIdx.y * stride + i] += bias[i];
}

__global__ void soft_cap_kernel(float cap, uint64_t n, float* x) {
  const uint64_t i = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x;
  wait_for_previous_kernel();
  if (i < n) x[i] = cap * tanhf(x[i] / cap);
}

unsigned blocks_for(uint64_t n, uint64_t each) { return static_cast<unsigned>((n + each - 1) / each); }

}  // namespace

void residual_step(const ResidualStep& step, const DeviceActivations* out, int lags, cudaStream_t stream) {
  dispatch_block(out ? out->block : 128, [&]<int kEach>() {
    // With many tokens a block each is enough work; with few, the row is cut.
    const unsigned across = step.tokens >= 64 ? 1 : blocks_for(step.width, kEach * kRowThreads);
    const auto run = [&]<int kVectors>() {
      launch_chained(residual_kernel<kEach, kVectors>, dim3(across, static_cast<unsigned>(step.tokens)),
                     kRowThreads, 0, stream, step, out ? *out : DeviceActivations{}, lags);
    };
    const uint64_t vectors = (step.width + 4 * kRowThreads - 1) / (4 * kRowThreads);
    if (vectors <= 1)
      run.template operator()<1>();
    else if (vectors <= 3)
      run.template operator()<3>();
    else if (vectors <= 8)
      run.template operator()<8>();
    else
      throw Error(ErrorCode::kUnsupported, "the GPU has no kernel for a hidden size of " +
                                               std::to_string(step.width) + "; use --device cpu");
  });
  check_launch("norm and rotation");
}

void gated_step(const float* gate, const float* up, uint64_t stride, uint64_t tokens, uint64_t width,
                Activation activation, const DeviceActivations* out, int lags, float* plain,
                cudaStream_t stream) {
  dispatch_block(out ? out->block : 128, [&]<int kEach>() {
    launch_chained(gated_kernel<kEach>,
                   dim3(blocks_for(width, 32 * kEach * kWarps), static_cast<unsigned>(tokens)), kThreads, 0,
                   stream, gate, up, stride, width, activation, out ? *out : DeviceActivations{}, lags,
                   plain);
  });
  check_launch("the gated activation");
}

void quantize_step(const float* x, const DeviceActivations& out, int lags, cudaStream_t stream) {
  gated_step(x, nullptr, out.cols, out.tokens, out.cols, Activation::kSilu, &out, lags, nullptr, stream);
}

void head_step(const HeadStep& step, cudaStream_t stream) {
  const uint64_t jobs = step.tokens * (step.heads + (step.k || step.v ? 2 * step.kv_heads : 0));
  launch_chained(head_kernel, static_cast<unsigned>(jobs), blocks_for(step.head_dim / 2, 32) * 32, 0, stream,
                 step);
  check_launch("head norms and rotary embedding");
}

void add_bias(const float* bias, uint64_t tokens, uint64_t width, uint64_t stride, float* x,
              cudaStream_t stream) {
  bias_kernel<<<dim3(blocks_for(width, kThreads), static_cast<unsigned>(tokens)), kThreads, 0, stream>>>(
      bias, width, stride, x);
  check_launch("adding a bias");
}

void soft_cap(float cap, uint64_t n, float* x, cudaStream_t stream) {
  launch_chained(soft_cap_kernel, blocks_for(n, kThreads), kThreads, 0, stream, cap, n, x);
  check_launch("the soft cap of logits");
}

}  // namespace hlwq::cuda
