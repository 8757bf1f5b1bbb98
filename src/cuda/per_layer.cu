#include "cuda/per_layer.h"

#include "base/checked.h"
#include "cuda/runtime.h"

namespace hlwq::cuda {
namespace {

constexpr int kWarps = 8;

// A warp a token and layer.
__global__ void __launch_bounds__(kWarps * 32) per_layer_kernel(const PerLayerStep s) {
  const uint64_t token = blockIdx.y, layer = uint64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (layer >= s.layers) return;
  const uint64_t from = (token * s.layers + layer) * s.width, to = (layer * s.tokens + token) * s.width;
  const uint64_t lane = threadIdx.x % 32;
  float squares = 0;
  for (uint64_t i = lane; i < s.width; i += 32) squares += s.projected[from + i] * s.projected[from + i];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, step);
  const auto width = static_cast<float>(s.width);
  const float scale = 1.0f / sqrtf(squares / width + s.eps), row_scale = sqrtf(width), half = sqrtf(0.5f);
  for (uint64_t i = lane; i < s.width; i += 32)
    s.values[to + i] = (s.projected[from + i] * scale * s.norm[i] + row_scale * s.rows[from + i]) * half;
}

}  // namespace

void per_layer_step(const PerLayerStep& step, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(step.layers, kWarps)), static_cast<unsigned>(step.tokens));
  per_layer_kernel<<<grid, kWarps * 32, 0, stream>>>(step);
  check_launch("per-layer embeddings");
}

}  // namespace hlwq::cuda
