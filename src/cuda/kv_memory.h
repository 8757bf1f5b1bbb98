// Filling and copying a cache's memory on the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace hlwq::cuda {

/// Cosines and sines of positions 0 .. positions, [positions, 2, pairs]: what KvCache keeps to rebuild keys.
void fill_rope(const float* inv_freq, uint64_t pairs, uint64_t positions, float* out, cudaStream_t stream);

}  // namespace hlwq::cuda
