// Per-layer embeddings on the GPU (model/per_layer.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace hlwq::cuda {

/// values [layers, tokens, width] = (rms_norm(projected) * norm + sqrt(width) * rows) / sqrt(2), where
/// projected and rows are [tokens, layers, width] and each `width` values have a norm of their own.
struct PerLayerStep {
  uint64_t tokens = 0, layers = 0, width = 0;
  float eps = 1e-6f;
  const float *projected = nullptr, *rows = nullptr, *norm = nullptr;
  float* values = nullptr;
};
void per_layer_step(const PerLayerStep& step, cudaStream_t stream);

}  // namespace hlwq::cuda
