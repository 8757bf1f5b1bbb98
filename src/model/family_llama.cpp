// Llama and what shares its shape (SmolLM2, Mistral without a window): pre-norm, SwiGLU, one rotary
// embedding.
#include <cmath>

#include "model/config_reader.h"

namespace hlwq {

ModelSpec llama_spec(const OrderedJson& config) {
  const ConfigReader c(config);
  ModelSpec spec;
  read_common(c, spec);
  spec.family = "llama";
  spec.prefix = "model.";
  const std::string act = c.text("hidden_act", "silu");
  if (act != "silu")
    throw Error(ErrorCode::kUnsupported,
                "config.json: hidden_act \"" + act + "\" is not supported for Llama");
  spec.tied = c.boolean("tie_word_embeddings", false);

  const uint64_t head_dim = c.integer("head_dim", static_cast<int64_t>(spec.hidden / spec.heads), 2, 4096);
  const uint64_t kv_heads = c.integer("num_key_value_heads", static_cast<int64_t>(spec.heads), 1, spec.heads);
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const OrderedJson none;
  const OrderedJson& params = c.has("rope_parameters") ? config["rope_parameters"]
                              : c.has("rope_scaling")  ? config["rope_scaling"]
                                                       : none;
  spec.ropes.push_back(make_rope(params, c.number("rope_theta", 10000.0), head_dim));
  for (LayerSpec& l : spec.layers)
    l = {.head_dim = head_dim, .kv_heads = kv_heads, .intermediate = spec.intermediate};
  return spec;
}

}  // namespace hlwq
