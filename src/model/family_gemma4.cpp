// Gemma 4 text, all members: sliding and full layers with their own head shapes, V = K on full layers, value
// norms, proportional rotary embedding, a scalar per layer, soft-capped logits; experts (26B-A4B); per-layer
// embeddings and layers that share keys and values (E2B, E4B).
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

// The 12B's config: the same text model, dense, and no encoders; its images and sounds are projected straight
// into it, which is not built.
bool is_unified(const OrderedJson& config) {
  return ConfigReader(config).text("model_type", "").starts_with("gemma4_unified");
}

void read_experts(const ConfigReader& c, ModelSpec& spec) {
  if (!c.boolean("enable_moe_block", false)) return;
  spec.experts = c.integer("num_experts", -1, 1, 1 << 16);
  spec.top_k = c.integer("top_k_experts", -1, 1, spec.experts);
  spec.expert_intermediate = c.integer("moe_intermediate_size", -1, 2, 1 << 22);
}

void read_per_layer_embeddings(const ConfigReader& c, bool unified, ModelSpec& spec) {
  spec.per_layer_width = c.integer("hidden_size_per_layer_input", unified ? 0 : 256, 0, 1 << 20);
  if (!spec.per_layer_width) return;
  spec.per_layer_vocab = c.integer("vocab_size_per_layer_input", 262144, 1, 1 << 26);
  if (static_cast<uint64_t>(spec.pad_token) >= spec.per_layer_vocab)
    throw Error(ErrorCode::kInvalidFile, "config.json: pad_token_id has no row in a per-layer embedding of " +
                                             std::to_string(spec.per_layer_vocab) + " rows");
}

// Which tokens stand for an image is said beside text_config, since text alone knows no images.
void read_image_tokens(const OrderedJson& config, ModelSpec& spec) {
  if (!config.contains("vision_config") || config["vision_config"].is_null()) return;
  const ConfigReader c(config);
  const auto token = [&](const char* key, int32_t absent) {
    if (config.contains(key) && config[key].is_null()) return -1;
    return static_cast<int32_t>(c.integer(key, absent, 0, (1u << 31) - 1));
  };
  spec.image_token = token("image_token_id", 258880);
  spec.begin_image_token = token("boi_token_id", 255999);
  spec.end_image_token = token("eoi_token_id", 258882);
}

// The last `shared` layers attend to what the last layer of their kind before them stored.
void share_keys_and_values(uint64_t shared, const std::vector<bool>& sliding, ModelSpec& spec) {
  const uint64_t first = spec.layers.size() - shared;
  for (uint64_t i = first; i < spec.layers.size(); ++i) {
    uint64_t from = first;
    while (from > 0 && sliding[from - 1] != sliding[i]) --from;
    if (from == 0)
      throw Error(ErrorCode::kInvalidFile, "config.json: num_kv_shared_layers is " + std::to_string(shared) +
                                               ", which leaves layer " + std::to_string(i) +
                                               " without an earlier layer of its kind to share with");
    const LayerSpec& source = spec.layers[--from];
    if (source.head_dim != spec.layers[i].head_dim || source.kv_heads != spec.layers[i].kv_heads)
      throw Error(ErrorCode::kInvalidFile, "config.json: layer " + std::to_string(i) +
                                               " shares keys and values with layer " + std::to_string(from) +
                                               ", but their heads differ");
    spec.layers[i].kv_from = static_cast<int64_t>(from);
  }
}

}  // namespace

ModelSpec gemma4_spec(const OrderedJson& config) {
  const bool nested = config.contains("text_config");
  const OrderedJson& text = nested ? config["text_config"] : config;
  const ConfigReader c(text);
  ModelSpec spec;
  read_common(c, spec);
  const bool unified = is_unified(config);
  spec.family = "gemma4";
  spec.prefix = nested ? "model.language_model." : "model.";
  read_experts(c, spec);
  spec.pad_token = static_cast<int32_t>(c.integer("pad_token_id", 0, 0, spec.vocab - 1));
  read_per_layer_embeddings(c, unified, spec);
  if (!unified) read_image_tokens(config, spec);
  const std::string act = c.text("hidden_activation", "gelu_pytorch_tanh");
  if (act != "gelu_pytorch_tanh")
    throw Error(ErrorCode::kUnsupported,
                "config.json: hidden_activation \"" + act + "\" is not supported for Gemma 4");
  const std::string bidirectional = c.text("use_bidirectional_attention", "");
  if (!bidirectional.empty() && bidirectional != "vision")
    throw Error(ErrorCode::kUnsupported,
                "config.json: use_bidirectional_attention \"" + bidirectional +
                    "\" is not supported: only causal text, with or without bidirectional images, is");
  spec.image_bidirectional = bidirectional == "vision";
  spec.sandwich_norms = spec.qk_norm = spec.v_norm = spec.layer_scalar = true;
  spec.activation = Activation::kGeluTanh;
  spec.embed_scale = std::sqrt(static_cast<float>(spec.hidden));
  spec.attention_scale = 1;
  spec.logit_softcap = static_cast<float>(c.number("final_logit_softcapping", 0));
  spec.tied = c.boolean("tie_word_embeddings", true);

  const uint64_t head_dim = c.integer("head_dim", 256, 2, 4096);
  const uint64_t kv_heads = c.integer("num_key_value_heads", 4, 1, spec.heads);
  // Per-layer exceptions replace the keys for full layers, whose defaults then do not apply either.
  const bool exceptions = c.has("per_layer_config");
  const uint64_t full_head_dim =
      c.integer("global_head_dim", exceptions ? static_cast<int64_t>(head_dim) : 512, 2, 4096);
  const uint64_t full_kv_heads =
      c.integer("num_global_key_value_heads", static_cast<int64_t>(kv_heads), 1, spec.heads);
  const uint64_t window = c.integer("sliding_window", unified ? 1024 : 512, 1, 1ull << 31);
  const bool k_eq_v = c.boolean("attention_k_eq_v", false);
  const uint64_t shared = c.integer("num_kv_shared_layers", 0, 0, spec.layers.size() - 1);
  const bool double_wide = c.boolean("use_double_wide_mlp", false);
  auto sliding = read_sliding_layers(c, spec.layers.size(), 6);
  sliding.back() = false;  // the last layer is a full one whatever the list says

  for (uint64_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& l = spec.layers[i];
    // num_global_key_value_heads belongs to the layers whose V is their K; without that, all layers share one
    // count.
    l = {.head_dim = sliding[i] ? head_dim : full_head_dim,
         .kv_heads = sliding[i] || !k_eq_v ? kv_heads : full_kv_heads,
         .window = sliding[i] ? window : 0,
         .k_is_v = k_eq_v && !sliding[i],
         .intermediate =
             double_wide && i >= spec.layers.size() - shared ? 2 * spec.intermediate : spec.intermediate};
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
  share_keys_and_values(shared, sliding, spec);
  if (!unified) read_gemma4_vision(config, spec);
  return spec;
}

}  // namespace hlwq
