// Gemma 4's image encoder: patches in, soft tokens as wide as the text model out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "model/spec.h"
#include "model/weights.h"
#include "ops/attention.h"
#include "vision/preprocess.h"

namespace hlwq {

/// Immutable after construction; one encode() at a time per Compute.
class VisionTower {
 public:
  /// Whether `weights` hold an encoder at all: text-only checkpoints keep the config of the whole model.
  static bool present(const WeightStore& weights);
  /// Looks every weight up in `weights` (which must outlive this) and checks its shape. `text_hidden`: width
  /// of the text model.
  VisionTower(const VisionSpec& spec, uint64_t text_hidden, WeightStore& weights);

  const VisionSpec& spec() const { return spec_; }
  PatchShape patch_shape() const { return {spec_.patch, spec_.pooling}; }

  /// Soft tokens [patches.tokens(), text_hidden]. `tower`, where given, gets the encoder's own output before
  /// the projection, [tokens, hidden]. Throws Error(kInvalidArgument) for patches of another shape or a grid
  /// beyond the position table, kCancelled between layers.
  std::vector<float> encode(const Compute& compute, const ImagePatches& patches,
                            const Progress& progress = {}, std::vector<float>* tower = nullptr) const;
  /// Bytes that encode() allocates for an image of that many soft tokens, its result included.
  static uint64_t scratch_bytes(const VisionSpec& spec, uint64_t text_hidden, uint64_t tokens);
  uint64_t scratch_bytes(uint64_t tokens) const { return scratch_bytes(spec_, text_hidden_, tokens); }

 private:
  /// A matrix and, where the model clips, the ranges of its input and output.
  struct Linear {
    Weight weight;
    bool clipped = false;
    float input_min = 0, input_max = 0, output_min = 0, output_max = 0;
  };
  struct Layer {
    Linear q, k, v, o, gate, up, down;
    std::vector<float> input_norm, post_attention_norm, pre_mlp_norm, post_mlp_norm, q_norm, k_norm;
  };
  struct Buffers;
  struct Task {
    const Linear* linear;
    float* y;
  };
  Linear load(WeightStore& weights, const std::string& name, uint64_t rows, uint64_t cols) const;
  void run(const Compute& compute, const float* x, uint64_t rows, std::span<const Task> tasks,
           std::vector<float>& clamped) const;
  void embed(const Compute& compute, const ImagePatches& patches, float* x) const;
  void attention_block(const Compute& compute, const Layer& layer, uint64_t patches, Buffers& b) const;
  void mlp_block(const Compute& compute, const Layer& layer, uint64_t patches, Buffers& b) const;
  std::vector<float> pool(const ImagePatches& patches, const float* x) const;

  VisionSpec spec_;
  uint64_t text_hidden_;
  Weight patch_projection_, projection_;
  std::vector<float> positions_;  // [2, positions, hidden]
  std::vector<float> std_bias_, std_scale_;
  std::vector<Layer> layers_;
};

}  // namespace hlwq
