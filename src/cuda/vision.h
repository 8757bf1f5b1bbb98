// Gemma 4's image encoder on the GPU: the twin of model/vision_tower.h.
#pragma once

#include <vector>

#include "cuda/dense.h"
#include "cuda/vision_kernels.h"
#include "model/vision_tower.h"

namespace hlwq::cuda {

/// Immutable after construction; one encode() at a time per Cublas.
class CudaVisionTower {
 public:
  /// Copies the weights to the current device, as they are stored; keeps `tower`, which must outlive this.
  /// Throws Error(kOutOfMemory), and kUnsupported for heads that the GPU's attention has no kernel for.
  explicit CudaVisionTower(const VisionTower& tower);
  ~CudaVisionTower();

  const VisionTower& host() const { return tower_; }
  uint64_t weight_bytes() const { return weight_bytes_; }

  /// What VisionTower::encode returns and throws, with results that agree to about 16 bits; also
  /// Error(kOutOfMemory | kDevice). Waits for `stream` at its end only.
  std::vector<float> encode(Cublas& cublas, const ImagePatches& patches, cudaStream_t stream,
                            const Progress& progress = {}, std::vector<float>* tower = nullptr) const;
  /// What the constructor copies, nearly: weights of several types in one matrix count as they are stored.
  static uint64_t device_bytes(const VisionTower& tower);
  /// Whether the GPU has kernels for such an encoder.
  static bool supports(const VisionSpec& spec);
  /// Bytes of GPU memory that encode() takes for its duration, for an image of that many soft tokens.
  static uint64_t scratch_bytes(const VisionSpec& spec, uint64_t text_hidden, uint64_t tokens);
  uint64_t scratch_bytes(uint64_t tokens) const {
    return scratch_bytes(tower_.spec(), tower_.text_hidden(), tokens);
  }

 private:
  /// Linears that read one input. Neighbours that clamp it alike are one matrix.
  class Linears;
  struct Layer;
  struct Scratch;
  /// Everything that one call works with.
  struct Pass {
    Cublas& cublas;
    cudaStream_t stream;
    const ImagePatches& patches;
    const Scratch& scratch;
  };
  void embed(const Pass& pass) const;
  void attention_block(const Pass& pass, const Layer& layer) const;
  void mlp_block(const Pass& pass, const Layer& layer) const;
  std::vector<float> project(const Pass& pass, std::vector<float>* tower) const;

  const VisionTower& tower_;
  DenseMatrix patch_projection_, projection_;
  Buffer vectors_;  // of all norms, and of the standardisation
  const float *std_bias_ = nullptr, *std_scale_ = nullptr;
  std::vector<Layer> layers_;
  uint64_t weight_bytes_ = 0;
};

}  // namespace hlwq::cuda
