// Gemma 3 text: sandwich norms scaled by 1 + weight, five sliding layers to one full, q/k norms.
#include <cmath>
#include <utility>

#include "model/config_reader.h"

namespace hlwq {

ModelSpec gemma3_spec(const OrderedJson& config) {
  const bool nested = config.contains("text_config");
  OrderedJson text = nested ? config["text_config"] : config;
  if (nested && text.is_object())  // published configs leave out what is the family's usual
    for (const auto& [key, usual] :
         {std::pair{"vocab_size", 262208}, {"num_attention_heads", 8}, {"max_position_embeddings", 131072}})
      if (!text.contains(key)) text[key] = usual;
  const ConfigReader c(text);
  ModelSpec spec;
  read_common(c, spec);
  spec.family = "gemma3";
  spec.prefix = nested ? "model.language_model." : "model.";
  spec.norm_offset = 1;
  spec.sandwich_norms = spec.qk_norm = true;
  const std::string act = c.text("hidden_activation", "gelu_pytorch_tanh");
  if (act != "gelu_pytorch_tanh")
    throw Error(ErrorCode::kUnsupported,
                "config.json: hidden_activation \"" + act + "\" is not supported for Gemma 3");
  if (c.has("attn_logit_softcapping"))
    throw Error(ErrorCode::kUnsupported, "config.json: attn_logit_softcapping is not supported");
  spec.activation = Activation::kGeluTanh;
  spec.embed_scale = std::sqrt(static_cast<float>(spec.hidden));
  spec.logit_softcap = static_cast<float>(c.number("final_logit_softcapping", 0));
  spec.tied = c.boolean("tie_word_embeddings", true);

  const uint64_t head_dim = c.integer("head_dim", 256, 2, 4096);
  const uint64_t kv_heads = c.integer("num_key_value_heads", 4, 1, spec.heads);
  const uint64_t window = c.integer("sliding_window", 4096, 1, 1ull << 31);
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(c.number("query_pre_attn_scalar", 256)));

  // New configs give a rope per layer type; older ones rope_theta + rope_scaling for full layers, a local
  // base for sliding.
  const OrderedJson none;
  OrderedJson sliding_rope, full_rope;
  if (c.has("rope_parameters") && text["rope_parameters"].contains("full_attention")) {
    full_rope = text["rope_parameters"]["full_attention"];
    if (text["rope_parameters"].contains("sliding_attention"))
      sliding_rope = text["rope_parameters"]["sliding_attention"];
  } else if (c.has("rope_scaling")) {
    full_rope = text["rope_scaling"];
  }
  spec.ropes.push_back(make_rope(sliding_rope, c.number("rope_local_base_freq", 10000.0), head_dim));
  spec.ropes.push_back(make_rope(full_rope, c.number("rope_theta", 1000000.0), head_dim));

  const auto sliding =
      read_sliding_layers(c, spec.layers.size(), c.integer("sliding_window_pattern", 6, 1, 4096));
  for (uint64_t i = 0; i < spec.layers.size(); ++i)
    spec.layers[i] = {.head_dim = head_dim,
                      .kv_heads = kv_heads,
                      .window = sliding[i] ? window : 0,
                      .rope = sliding[i] ? 0u : 1u,
                      .intermediate = spec.intermediate};
  return spec;
}

}  // namespace hlwq
