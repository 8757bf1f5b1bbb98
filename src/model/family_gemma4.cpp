// Gemma 4 text, dense: sliding and full layers with their own head shapes, V = K on full layers, value norms,
// proportional rotary embedding, a scalar per layer, soft-capped logits.
#include <cmath>

#include "model/config_reader.h"

namespace hlwq {
namespace {

// transformers 5.17 writes per-layer exceptions as {"05": {"head_dim": .., "num_key_value_heads": ..}}.
const OrderedJson* layer_exception(const OrderedJson& text, uint64_t layer) {
  if (!text.contains("per_layer_config") || !text["per_layer_config"].is_object()) return nullptr;
  for (const auto& [key, value] : text["per_layer_config"].items())
    if (!key.empty() && key.size() < 6 && key.find_first_not_of("0123456789") == std::string::npos &&
        std::stoul(key) == layer && value.is_object())
      return &value;
  return nullptr;
}

}  // namespace

ModelSpec gemma4_spec(const OrderedJson& config) {
  const bool nested = config.contains("text_config");
  const OrderedJson& text = nested ? config["text_config"] : config;
  const ConfigReader c(text);
  ModelSpec spec;
  read_common(c, spec);
  spec.family = "gemma4";
  spec.prefix = nested ? "model.language_model." : "model.";
  if (c.boolean("enable_moe_block", false))
    throw Error(ErrorCode::kUnsupported,
                "config.json: Gemma 4 with experts (enable_moe_block) is not supported yet");
  if (c.integer("hidden_size_per_layer_input", 0, 0, 1 << 20) ||
      c.integer("num_kv_shared_layers", 0, 0, 4096))
    throw Error(ErrorCode::kUnsupported,
                "config.json: Gemma 4 with per-layer embeddings (E2B, E4B) is not supported yet");
  const std::string act = c.text("hidden_activation", "gelu_pytorch_tanh");
  if (act != "gelu_pytorch_tanh")
    throw Error(ErrorCode::kUnsupported,
                "config.json: hidden_activation \"" + act + "\" is not supported for Gemma 4");
  spec.sandwich_norms = spec.qk_norm = spec.v_norm = spec.layer_scalar = true;
  spec.activation = Activation::kGeluTanh;
  spec.embed_scale = std::sqrt(static_cast<float>(spec.hidden));
  spec.attention_scale = 1;
  spec.logit_softcap = static_cast<float>(c.number("final_logit_softcapping", 0));
  spec.tied = c.boolean("tie_word_embeddings", true);

  const uint64_t head_dim = c.integer("head_dim", 256, 2, 4096);
  const uint64_t kv_heads = c.integer("num_key_value_heads", 4, 1, spec.heads);
  const uint64_t full_head_dim = c.integer("global_head_dim", static_cast<int64_t>(head_dim), 2, 4096);
  const uint64_t full_kv_heads =
      c.integer("num_global_key_value_heads", static_cast<int64_t>(kv_heads), 1, spec.heads);
  const uint64_t window = c.integer("sliding_window", 512, 1, 1ull << 31);
  const bool k_eq_v = c.boolean("attention_k_eq_v", false);
  const auto sliding = read_sliding_layers(c, spec.layers.size(), 6);

  for (uint64_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& l = spec.layers[i];
    // num_global_key_value_heads belongs to the layers whose V is their K; without that, all layers share one
    // count.
    l = {.head_dim = sliding[i] ? head_dim : full_head_dim,
         .kv_heads = sliding[i] || !k_eq_v ? kv_heads : full_kv_heads,
         .window = sliding[i] ? window : 0,
         .k_is_v = k_eq_v && !sliding[i]};
    if (const OrderedJson* exception = layer_exception(text, i)) {
      const ConfigReader e(*exception);
      l.head_dim = e.integer("head_dim", static_cast<int64_t>(l.head_dim), 2, 4096);
      l.kv_heads = e.integer("num_key_value_heads", static_cast<int64_t>(l.kv_heads), 1, spec.heads);
    }
    const char* kind = sliding[i] ? "sliding_attention" : "full_attention";
    OrderedJson params;
    if (c.has("rope_parameters") && text["rope_parameters"].contains(kind))
      params = text["rope_parameters"][kind];
    RopeSpec rope = make_rope(params, sliding[i] ? 10000.0 : 1000000.0, l.head_dim);
    uint64_t known = 0;
    while (known < spec.ropes.size() && spec.ropes[known].inv_freq != rope.inv_freq) ++known;
    if (known == spec.ropes.size()) spec.ropes.push_back(std::move(rope));
    l.rope = known;
  }
  read_gemma4_vision(config, spec);
  return spec;
}

}  // namespace hlwq
