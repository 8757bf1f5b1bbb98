// y = W x on the codes, on the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "cuda/linear_kernels.h"
#include "cuda/matrix.h"

namespace hlwq::cuda {

class Cublas;

/// One matrix of a call. y: device floats [tokens, y_stride], the first matrix row at y[0].
struct DeviceTask {
  DeviceMatrix weight;
  float* y;
  uint64_t y_stride;
};

/// What kernels ask of the device, and memory that they may use while they run.
struct LinearResources {
  int multiprocessors = 0;
  int shared_memory = 0;  ///< bytes that a block may have (cudaDevAttrMaxSharedMemoryPerBlockOptin)
  /// Whether many tokens are faster in BF16 than in INT8 on this GPU: measured on Hopper; consumer GPUs
  /// multiply INT8 at four times the rate.
  bool prefers_bf16 = false;
  Cublas* cublas = nullptr;  ///< without it everything stays integer
  void* scratch = nullptr;
  uint64_t scratch_bytes = 0;
};
/// Of device `device`, without scratch.
LinearResources linear_resources(int device);
/// Scratch that a matrix wants for that many tokens; with less, many tokens are slow.
uint64_t linear_scratch_bytes(uint64_t tokens, uint64_t rows, uint64_t cols);

/// Runs matrices that read the same activations (q, k, v; gate, up). Those of equal format share a launch.
/// Few tokens run at the speed of memory, many through the tensor cores; both give the integer sums of the
/// CPU's kernels, added over blocks in another order. Asynchronous; may be captured. Throws
/// Error(kInvalidArgument) when a weight's block or cols differ from the activations'.
void linear(const DeviceActivations& x, std::span<const DeviceTask> tasks, const LinearResources& resources,
            cudaStream_t stream);

/// Whether linear_grouped() has a kernel for a format.
bool has_grouped_kernel(const HlwqFormat& format);
/// The same for tokens that want different matrices of a stack, `rows_each` rows each: y [outputs,
/// rows_each]. `max_tiles`: at least *groups.n_tiles, at most 65535; tile_tokens: 8 or 32. Throws
/// Error(kUnsupported) for formats without a kernel.
void linear_grouped(const DeviceActivations& x, const DeviceMatrix& stack, uint64_t rows_each,
                    const LinearGroups& groups, uint64_t max_tiles, uint64_t tile_tokens, float* y,
                    cudaStream_t stream);

/// out[t, :] = scale * row ids[t] of w, decoded and rotated back. ids: device [tokens]; out: device [tokens,
/// cols].
void decode_rows(const DeviceMatrix& w, const int32_t* ids, uint64_t tokens, float scale, float* out,
                 cudaStream_t stream);

}  // namespace hlwq::cuda
