// What a model is, as plain data: families fill it in from a config, the transformer runs it, `info` plans
// with it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hlwq {

/// A rotary embedding: one angle per pair (i, i + head_dim / 2); pairs that do not rotate have frequency 0.
struct RopeSpec {
  std::vector<float> inv_freq;  // [head_dim / 2]
  float scale = 1;              // multiplies cos and sin
};

enum class Activation { kSilu, kGeluTanh };

struct LayerSpec {
  uint64_t head_dim = 0, kv_heads = 0;
  uint64_t window = 0;  ///< > 0: sliding attention over that many positions, the query's own included
  bool k_is_v = false;  ///< no v_proj: V is k_proj's output before k_norm and RoPE
  uint64_t rope = 0;    ///< index into ModelSpec::ropes
  /// Width of the layer's (dense) MLP.
  uint64_t intermediate = 0;
  /// >= 0: has no keys and values of its own and attends to those of that earlier layer.
  int64_t kv_from = -1;
};

/// The image encoder of a multimodal model. Patches of patch x patch pixels; `pooling` x `pooling` of them
/// become one soft token.
struct VisionSpec {
  uint64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  uint64_t patch = 16, pooling = 3;
  uint64_t positions = 0;       ///< rows of the learned position table, per axis
  uint64_t default_tokens = 0;  ///< soft tokens an image gets at most, unless asked otherwise
  float norm_eps = 1e-6f, rope_theta = 100;
  bool standardize = false;  ///< stored bias and scale after pooling
  bool clipped = false;      ///< linears clamp their input and output to stored ranges
};

struct ModelSpec {
  std::string family;        ///< "llama", "gemma3", "gemma4"
  std::string architecture;  ///< config.json's architectures[0]
  std::string prefix;        ///< of every text weight: "model." or "model.language_model."
  uint64_t hidden = 0, heads = 0, vocab = 0;
  uint64_t intermediate = 0;  ///< config's; the width of each layer's MLP is in its LayerSpec
  uint64_t max_context = 0;   ///< max_position_embeddings
  float norm_eps = 1e-6f;
  float norm_offset = 0;        ///< added to every norm weight (Gemma 3 scales by 1 + weight)
  bool sandwich_norms = false;  ///< norms after attention and around the MLP, as Gemma has them
  bool qk_norm = false;         ///< RMS norm of each query and key head, with weight
  bool v_norm = false;          ///< RMS norm of each value head, without weight
  bool layer_scalar = false;    ///< a stored scalar multiplies each layer's output
  bool attention_bias = false, mlp_bias = false;
  Activation activation = Activation::kSilu;
  float embed_scale = 1;
  float attention_scale = 1;
  float logit_softcap = 0;  ///< > 0: logits = cap * tanh(logits / cap)
  bool tied = true;         ///< lm_head is the embedding
  /// Mixture of experts beside the dense MLP: 0 experts means none.
  uint64_t experts = 0, top_k = 0, expert_intermediate = 0;
  /// Per-layer embeddings (Gemma 4 E2B, E4B): values added to each layer's residual; 0: none.
  uint64_t per_layer_width = 0, per_layer_vocab = 0;
  int32_t pad_token = 0;  ///< stands for image tokens in the per-layer embedding
  std::optional<VisionSpec> vision;
  int32_t image_token = -1, begin_image_token = -1, end_image_token = -1;
  bool image_bidirectional = false;  ///< tokens of one image see each other on sliding layers
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;
};

}  // namespace hlwq
