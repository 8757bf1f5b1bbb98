// A mixture of experts beside a dense MLP: a router picks top_k experts for each token, and their outputs are
// summed by its weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/spec.h"
#include "model/weights.h"
#include "ops/linear.h"

namespace hlwq {

/// Buffers of one forward pass. A (token, choice) pair is a slot, token * top_k + choice; slots are worked on
/// in batches of whole experts, so that a long chunk needs no more room than one expert may.
struct ExpertScratch {
  std::vector<float> scores;         // [tokens, experts]
  std::vector<float> weights;        // [slots]
  std::vector<uint32_t> chosen;      // [slots]
  std::vector<uint32_t> order;       // [slots], by expert, within an expert by token
  std::vector<uint64_t> begin;       // [experts + 1], where each expert's slots start in order
  std::vector<float> input, output;  // [batch slots, hidden]
  std::vector<float> gate, up;       // [batch slots, expert_intermediate]
  std::vector<float> sum;            // [tokens, hidden]
  /// Bytes that reserve allocates; 0 for a model without experts.
  static uint64_t bytes(const ModelSpec& spec, uint64_t tokens);
  void reserve(const ModelSpec& spec, uint64_t tokens);
};

/// Picks the top_k largest of `scores` [tokens, experts], of equal ones the first. weights [tokens, top_k]:
/// softmax over the chosen scores, which is the softmax over all, renormalised. `experts` >= top_k.
void choose_experts(const Compute& compute, const float* scores, uint64_t tokens, uint64_t experts,
                    uint64_t top_k, uint32_t* chosen, float* weights);

struct ExpertWeights {
  Weight router;
  // One stack each in the file: [2 * experts], gate of expert e at 2e and up at 2e + 1, and [experts].
  std::vector<Weight> gate_up, down;
  std::vector<float> router_scale;      ///< [hidden], with 1 / sqrt(hidden)
  std::vector<float> per_expert_scale;  ///< [experts]
  std::vector<float> pre_norm, post_norm, post_dense_norm;
};

/// One layer's experts, immutable after construction.
class Experts {
 public:
  /// Looks up the layer's router, experts and their norms; `base` is the layer's prefix
  /// ("model.layers.3."). Throws Error(kNotFound | kInvalidFile) naming the weight.
  Experts(const ModelSpec& spec, WeightStore& weights, const std::string& base);

  /// dense [tokens, hidden]: the dense MLP's output on entry, the normed sum of it and of the experts' on
  /// return. x [tokens, hidden]: the residual that both start from. normed: room for [tokens, hidden].
  void mix(const Compute& compute, const ModelSpec& spec, const float* x, uint64_t tokens, float* normed,
           float* dense, ExpertScratch& scratch) const;

  const ExpertWeights& weights() const { return weights_; }

 private:
  void run(const Compute& compute, const ModelSpec& spec, const float* x, uint64_t tokens,
           ExpertScratch& scratch) const;
  void run_batch(const Compute& compute, const ModelSpec& spec, const float* x, uint64_t tokens,
                 uint64_t first_expert, uint64_t end_expert, ExpertScratch& scratch) const;

  ExpertWeights weights_;
};

}  // namespace hlwq
