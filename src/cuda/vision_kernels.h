// The image encoder's steps between its linears. All matrices are row-major floats in device memory; every
// call is asynchronous on its stream and allocates nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>

namespace hlwq::cuda {

/// What clipped linears clamp their inputs and outputs to; by default everything.
struct ClipRange {
  float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();
};

/// What a linear left: rows `stride` floats apart, still to be clamped to its output range.
struct ClippedOutput {
  const float* data = nullptr;
  uint64_t stride = 0;
  ClipRange range;
};

/// y = 2 (pixel / 255 - 1/2).
void scale_pixels(const uint8_t* pixels, uint64_t n, float* y, cudaStream_t stream);

/// x [rows, n] += the table rows of each patch's column and row, patches `first` .. in a grid of `grid_cols`
/// columns.
void add_positions(const float* by_column, const float* by_row, uint64_t grid_cols, uint64_t first,
                   uint64_t rows, uint64_t n, float* x, cudaStream_t stream);

/// y = clamp(rms_norm(x) * weight); weight null: ones. x, y [rows, n], may be the same.
void norm_patches(const float* x, uint64_t rows, uint64_t n, const float* weight, float eps, ClipRange range,
                  float* y, cudaStream_t stream);

/// y [rows, n] += rms_norm(x) * weight.
void add_normed_patches(const ClippedOutput& x, uint64_t rows, uint64_t n, const float* weight, float eps,
                        float* y, cudaStream_t stream);

/// y [rows, n] = clamp(gelu_tanh(gate) * up).
void gelu_gate(const ClippedOutput& gate, const ClippedOutput& up, uint64_t rows, uint64_t n, ClipRange range,
               float* y, cudaStream_t stream);

/// Means of `pooling` x `pooling` patches times sqrt(n), then (y - bias) * scale where those are given. x
/// [grid_rows * grid_cols, n].
void pool_patches(const float* x, uint64_t grid_cols, uint64_t grid_rows, uint64_t pooling, uint64_t n,
                  const float* bias, const float* scale, float* y, cudaStream_t stream);

}  // namespace hlwq::cuda
