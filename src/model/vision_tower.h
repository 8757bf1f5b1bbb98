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

/// A matrix and, where the model clips, the ranges of its input and output.
struct VisionLinear {
  Weight weight;
  bool clipped = false;
  float input_min = 0, input_max = 0, output_min = 0, output_max = 0;
};

struct VisionLayer {
  VisionLinear q, k, v, o, gate, up, down;
  std::vector<float> input_norm, post_attention_norm, pre_mlp_norm, post_mlp_norm, q_norm, k_norm;
};

struct VisionWeights {
  Weight patch_projection, projection;
  std::vector<float> positions;  ///< [2, positions, hidden]: by column, then by row of the grid
  std::vector<float> std_bias, std_scale;
  std::vector<VisionLayer> layers;
};

/// Throws Error(kInvalidArgument) for patches of another shape than the encoder's and for a grid beyond its
/// position table.
void check_patches(const VisionSpec& spec, const ImagePatches& patches);
/// The rotary embedding along one axis of the grid, [positions, head_dim / 2]: cosines of a quarter head,
/// then sines. Heads turn with x in their first half and with y in their second; within each half, pairs are
/// a quarter of the head apart.
std::vector<float> vision_rotations(const VisionSpec& spec, uint64_t positions);

/// Immutable after construction; one encode() at a time per Compute.
class VisionTower {
 public:
  /// Whether `weights` hold an encoder at all: text-only checkpoints keep the config of the whole model.
  static bool present(const WeightStore& weights);
  /// Looks every weight up in `weights` (which must outlive this) and checks its shape. `text_hidden`: width
  /// of the text model.
  VisionTower(const VisionSpec& spec, uint64_t text_hidden, WeightStore& weights);

  const VisionSpec& spec() const { return spec_; }
  const VisionWeights& weights() const { return weights_; }
  uint64_t text_hidden() const { return text_hidden_; }
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
  struct Buffers;
  struct Task {
    const VisionLinear* linear;
    float* y;
  };
  VisionLinear load(WeightStore& weights, const std::string& name, uint64_t rows, uint64_t cols) const;
  void run(const Compute& compute, const float* x, uint64_t rows, std::span<const Task> tasks,
           std::vector<float>& clamped) const;
  void embed(const Compute& compute, const ImagePatches& patches, float* x) const;
  void attention_block(const Compute& compute, const VisionLayer& layer, const ImagePatches& patches,
                       Buffers& b) const;
  void mlp_block(const Compute& compute, const VisionLayer& layer, uint64_t patches, Buffers& b) const;
  std::vector<float> pool(const ImagePatches& patches, const float* x) const;

  VisionSpec spec_;
  uint64_t text_hidden_;
  VisionWeights weights_;
};

}  // namespace hlwq
