// The image encoder's attention on the GPU: every patch sees every other, scores never reach memory.
//
// Tensor cores multiply FP16 only, so each factor goes in as the sum of two FP16 numbers and three of the
// four products are added up in float: 22 bits of each factor count, which is all but float.
#pragma once

#include "cuda/vision_kernels.h"
#include "model/spec.h"

namespace hlwq::cuda {

/// Heads wider than this throw Error(kUnsupported).
inline constexpr uint64_t kMaxVisionHead = 128;

/// Queries, keys and values of all patches, normed, turned and split.
class VisionHeads {
 public:
  /// Bytes of device memory for an image of `patches`.
  static uint64_t bytes(const VisionSpec& spec, uint64_t patches);
  /// `memory`: that many bytes, aligned to 16.
  VisionHeads(const VisionSpec& spec, uint64_t patches, void* memory);

  /// Takes patches first .. first + rows of a grid of `grid_cols` columns from what q, k and v have
  /// projected. q_norm, k_norm: weights [head_dim]; rotations: vision_rotations() for the whole grid, in
  /// device memory.
  void store(const ClippedOutput& q, const ClippedOutput& k, const ClippedOutput& v, const float* q_norm,
             const float* k_norm, const float* rotations, uint64_t grid_cols, uint64_t first, uint64_t rows,
             cudaStream_t stream) const;

  /// out [patches, heads * head_dim], clamped to `range`; the norms of queries and keys stand for a scale.
  void attend(ClipRange range, float* out, cudaStream_t stream) const;

 private:
  VisionSpec spec_;
  uint64_t patches_;
  void* memory_;
};

}  // namespace hlwq::cuda
