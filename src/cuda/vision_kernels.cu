#include "base/checked.h"
#include "cuda/runtime.h"
#include "cuda/vision_kernels.h"

namespace hlwq::cuda {
namespace {

constexpr int kThreads = 256;

// One thread an element, so that none divides to find its row: x for rows, y for pieces of them.
dim3 grid_for(uint64_t rows, uint64_t n) {
  return {static_cast<unsigned>(rows), static_cast<unsigned>(ceil_div(n, kThreads))};
}
__device__ uint64_t my_column() { return uint64_t{blockIdx.y} * kThreads + threadIdx.x; }

// As std::clamp: a NaN stays one.
__device__ float clip(float v, ClipRange range) {
  return v < range.low ? range.low : v > range.high ? range.high : v;
}

__global__ void __launch_bounds__(kThreads)
    scale_pixels_kernel(const uint8_t* __restrict__ pixels, uint64_t n, float* __restrict__ y) {
  const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) y[i] = 2 * (static_cast<float>(pixels[i]) * (1.0f / 255) - 0.5f);
}

__global__ void __launch_bounds__(kThreads)
    add_positions_kernel(const float* __restrict__ by_column, const float* __restrict__ by_row,
                         uint64_t grid_cols, uint64_t first, uint64_t n, float* __restrict__ x) {
  const uint64_t patch = first + blockIdx.x, c = my_column();
  if (c < n)
    x[blockIdx.x * n + c] += by_column[patch % grid_cols * n + c] + by_row[patch / grid_cols * n + c];
}

// 1 / sqrt(mean square + eps) of one row, the same in all threads of the block that owns it.
__device__ float rms_scale(const float* x, uint64_t n, ClipRange range, float eps) {
  __shared__ float partial[kThreads / 32];
  float sum = 0;
  for (uint64_t i = threadIdx.x; i < n; i += kThreads) {
    const float v = clip(x[i], range);
    sum += v * v;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) total += partial[warp];
  return 1.0f / sqrtf(total / static_cast<float>(n) + eps);
}

__global__ void __launch_bounds__(kThreads)
    norm_kernel(const float* x, uint64_t n, const float* __restrict__ weight, float eps, ClipRange range,
                float* y) {
  const float* in = x + blockIdx.x * n;
  float* out = y + blockIdx.x * n;
  const float scale = rms_scale(in, n, {}, eps);
  for (uint64_t i = threadIdx.x; i < n; i += kThreads) {
    const float v = in[i] * scale;
    out[i] = clip(weight ? v * weight[i] : v, range);
  }
}

__global__ void __launch_bounds__(kThreads)
    add_normed_kernel(ClippedOutput x, uint64_t n, const float* __restrict__ weight, float eps,
                      float* __restrict__ y) {
  const float* in = x.data + blockIdx.x * x.stride;
  float* out = y + blockIdx.x * n;
  const float scale = rms_scale(in, n, x.range, eps);
  for (uint64_t i = threadIdx.x; i < n; i += kThreads) out[i] += clip(in[i], x.range) * scale * weight[i];
}

__global__ void __launch_bounds__(kThreads) gelu_gate_kernel(ClippedOutput gate, ClippedOutput up, uint64_t n,
                                                             ClipRange range, float* __restrict__ y) {
  constexpr float kSqrt2OverPi = 0.7978845608028654f;
  const uint64_t r = blockIdx.x, c = my_column();
  if (c >= n) return;
  const float g = clip(gate.data[r * gate.stride + c], gate.range);
  const float u = clip(up.data[r * up.stride + c], up.range);
  y[r * n + c] = clip(0.5f * g * (1 + tanhf(kSqrt2OverPi * (g + 0.044715f * g * g * g))) * u, range);
}

__global__ void __launch_bounds__(kThreads)
    pool_kernel(const float* __restrict__ x, uint64_t grid_cols, uint64_t pooling, uint64_t n,
                const float* __restrict__ bias, const float* __restrict__ scale, float* __restrict__ y) {
  const uint64_t out_cols = grid_cols / pooling;
  const float factor = sqrtf(static_cast<float>(n)) / static_cast<float>(pooling * pooling);
  const uint64_t token = blockIdx.x, c = my_column();
  if (c >= n) return;
  const uint64_t corner = token / out_cols * pooling * grid_cols + token % out_cols * pooling;
  float sum = 0;
  for (uint64_t row = 0; row < pooling; ++row)
    for (uint64_t col = 0; col < pooling; ++col) sum += x[(corner + row * grid_cols + col) * n + c];
  sum *= factor;
  y[token * n + c] = bias ? (sum - bias[c]) * scale[c] : sum;
}

}  // namespace

void scale_pixels(const uint8_t* pixels, uint64_t n, float* y, cudaStream_t stream) {
  scale_pixels_kernel<<<static_cast<unsigned>(ceil_div(n, kThreads)), kThreads, 0, stream>>>(pixels, n, y);
  check_launch("scaling an image");
}

void add_positions(const float* by_column, const float* by_row, uint64_t grid_cols, uint64_t first,
                   uint64_t rows, uint64_t n, float* x, cudaStream_t stream) {
  add_positions_kernel<<<grid_for(rows, n), kThreads, 0, stream>>>(by_column, by_row, grid_cols, first, n, x);
  check_launch("adding an image's positions");
}

void norm_patches(const float* x, uint64_t rows, uint64_t n, const float* weight, float eps, ClipRange range,
                  float* y, cudaStream_t stream) {
  norm_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(x, n, weight, eps, range, y);
  check_launch("an image's norm");
}

void add_normed_patches(const ClippedOutput& x, uint64_t rows, uint64_t n, const float* weight, float eps,
                        float* y, cudaStream_t stream) {
  add_normed_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(x, n, weight, eps, y);
  check_launch("an image's norm and sum");
}

void gelu_gate(const ClippedOutput& gate, const ClippedOutput& up, uint64_t rows, uint64_t n, ClipRange range,
               float* y, cudaStream_t stream) {
  gelu_gate_kernel<<<grid_for(rows, n), kThreads, 0, stream>>>(gate, up, n, range, y);
  check_launch("an image's gated activation");
}

void pool_patches(const float* x, uint64_t grid_cols, uint64_t grid_rows, uint64_t pooling, uint64_t n,
                  const float* bias, const float* scale, float* y, cudaStream_t stream) {
  const uint64_t tokens = grid_cols / pooling * (grid_rows / pooling);
  pool_kernel<<<grid_for(tokens, n), kThreads, 0, stream>>>(x, grid_cols, pooling, n, bias, scale, y);
  check_launch("pooling an image");
}

}  // namespace hlwq::cuda
