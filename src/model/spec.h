// What a model is, as plain data: families fill it in from a config, the transformer runs it, `info` plans
// with it.
#pragma once

#include <cstdint>
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
};

struct ModelSpec {
  std::string family;        ///< "llama", "gemma3", "gemma4"
  std::string architecture;  ///< config.json's architectures[0]
  std::string prefix;        ///< of every text weight: "model." or "model.language_model."
  uint64_t hidden = 0, intermediate = 0, heads = 0, vocab = 0;
  uint64_t max_context = 0;  ///< max_position_embeddings
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
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;
};

}  // namespace hlwq
