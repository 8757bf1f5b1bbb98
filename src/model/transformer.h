// One decoder stack for every family: what differs between them is data in ModelSpec.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model/experts.h"
#include "model/kv_cache.h"
#include "model/per_layer.h"
#include "model/spec.h"
#include "model/weights.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

namespace hlwq {

/// Consecutive tokens whose embeddings come from an image instead of the embedding table.
struct ImageRun {
  uint64_t begin = 0, count = 0;      ///< tokens begin .. begin + count of this call's ids
  const float* embeddings = nullptr;  ///< [count, hidden]
};

/// Buffers of one sequence's forward pass, reused from step to step; sized for a chunk on first use.
struct Workspace {
  std::vector<float> x, normed, q, k, v, attended, projected, gate, up;
  std::vector<RopeTable> ropes;
  std::vector<uint64_t> key_end;
  std::vector<int32_t> text_ids;
  AttentionScratch attention;
  ExpertScratch experts;
  PerLayerScratch per_layer;
  /// Bytes that a chunk of `tokens` needs (attention tiles apart).
  static uint64_t bytes(const ModelSpec& spec, uint64_t tokens);
  void reserve(const ModelSpec& spec, uint64_t tokens);
};

/// Immutable after construction; any number of sequences may run through it, one at a time per Compute.
class Transformer {
 public:
  /// Looks every weight up in `weights` (which must outlive this) and checks its shape.
  Transformer(ModelSpec spec, WeightStore& weights);

  const ModelSpec& spec() const { return spec_; }

  /// A layer's weights; what the model does not have is empty.
  struct Layer {
    Weight q, k, v, o, gate, up, down;
    std::vector<float> q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias;
    std::vector<float> input_norm, post_attention_norm, pre_mlp_norm, post_mlp_norm, q_norm, k_norm;
    std::optional<Experts> experts;
    float scalar = 1;
  };
  const std::vector<Layer>& layers() const { return layers_; }
  const Weight& embedding() const { return embedding_; }
  const Weight& lm_head() const { return lm_head_; }
  const std::vector<float>& final_norm() const { return final_norm_; }
  const std::optional<PerLayerEmbeddings>& per_layer() const { return per_layer_; }

  /// Runs `ids` (at most cache.max_chunk()) at positions cache.length().. and stores their keys and values.
  /// Returns the final normed hidden states, [ids.size(), hidden], valid until the workspace is used again.
  /// `images`: ascending, without overlap, each whole: its tokens see each other on sliding layers where the
  /// model says so, which only works within one call.
  /// Throws Error(kInvalidArgument) for ids outside the vocabulary, kContextFull when they don't fit.
  std::span<const float> forward(const Compute& compute, KvCache& cache, std::span<const int32_t> ids,
                                 Workspace& ws, std::span<const ImageRun> images = {}) const;

  /// The steps of forward(), for callers that go layer by layer over several sequences (calibration). begin:
  /// checks `ids`, fills ws.x [tokens, hidden] with their embeddings and the rest of `ws` with what layers
  /// need; run_layer: ws.x through one layer, whose keys and values the cache takes at its length(); finish:
  /// the final norm into ws.normed. Another sequence's ws.x may be put in between as long as its ids, images
  /// and cache length were the same or begin() is called anew. forward() also advances the cache.
  void begin(const Compute& compute, const KvCache& cache, std::span<const int32_t> ids, Workspace& ws,
             std::span<const ImageRun> images = {}) const;
  void run_layer(const Compute& compute, KvCache& cache, uint64_t layer, uint64_t tokens,
                 Workspace& ws) const;
  std::span<const float> finish(const Compute& compute, uint64_t tokens, Workspace& ws) const;

  /// logits [rows, vocab] of hidden states [rows, hidden], soft-capped where the model says so.
  void logits(const Compute& compute, const float* hidden, uint64_t rows, float* out) const;

 private:
  void attention_block(const Compute& compute, KvCache& cache, uint64_t layer, uint64_t tokens,
                       Workspace& ws) const;
  void mlp_block(const Compute& compute, uint64_t layer, uint64_t tokens, Workspace& ws) const;

  ModelSpec spec_;
  Weight embedding_, lm_head_;
  std::vector<float> final_norm_;
  std::vector<Layer> layers_;
  std::optional<PerLayerEmbeddings> per_layer_;
};

}  // namespace hlwq
