#include "model/config_reader.h"

#include <numbers>

namespace hlwq {

void read_common(const ConfigReader& c, ModelSpec& spec) {
  spec.hidden = c.integer("hidden_size", -1, 2, 1 << 20);
  spec.intermediate = c.integer("intermediate_size", -1, 2, 1 << 22);
  spec.heads = c.integer("num_attention_heads", -1, 1, 1 << 14);
  spec.vocab = c.integer("vocab_size", -1, 2, 1 << 26);
  spec.max_context = c.integer("max_position_embeddings", 2048, 1, 1ull << 31);
  spec.norm_eps = static_cast<float>(c.number("rms_norm_eps", 1e-6));
  spec.attention_bias = c.boolean("attention_bias", false);
  spec.mlp_bias = c.boolean("mlp_bias", false);
  spec.layers.resize(c.integer("num_hidden_layers", -1, 1, 4096));
}

std::vector<bool> read_sliding_layers(const ConfigReader& c, uint64_t layers, uint64_t pattern) {
  std::vector<bool> sliding(layers);
  if (!c.has("layer_types")) {
    for (uint64_t i = 0; i < layers; ++i) sliding[i] = pattern && (i + 1) % pattern != 0;
    return sliding;
  }
  const auto& types = c.json()["layer_types"];
  if (!types.is_array() || types.size() != layers)
    throw Error(ErrorCode::kInvalidFile, "config.json: layer_types must list one type for each of the " +
                                             std::to_string(layers) + " layers");
  for (uint64_t i = 0; i < layers; ++i) {
    if (types[i] == "sliding_attention")
      sliding[i] = true;
    else if (types[i] != "full_attention")
      throw Error(ErrorCode::kUnsupported,
                  "config.json: layer type " + types[i].dump() + " is not supported");
  }
  return sliding;
}

RopeSpec make_rope(const OrderedJson& params, double theta, uint64_t head_dim) {
  static const OrderedJson kEmpty = OrderedJson::object();
  const ConfigReader c(params.is_object() ? params : kEmpty);
  const std::string type = c.text("rope_type", c.text("type", "default"));
  theta = c.number("rope_theta", theta);
  if (!(theta > 1) || head_dim % 2)
    throw Error(ErrorCode::kInvalidFile,
                "config.json: rotary embedding needs rope_theta > 1 and an even head size");
  const uint64_t half = head_dim / 2;
  RopeSpec rope;
  rope.inv_freq.resize(half);
  for (uint64_t i = 0; i < half; ++i)
    rope.inv_freq[i] = static_cast<float>(
        1.0 / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  const double factor = c.number("factor", 1.0);
  if (!(factor > 0)) throw Error(ErrorCode::kInvalidFile, "config.json: rope factor must be positive");
  const double partial = c.number("partial_rotary_factor", 1.0);
  if (!(partial > 0) || partial > 1)
    throw Error(ErrorCode::kInvalidFile, "config.json: partial_rotary_factor must be in (0, 1]");

  if (type == "proportional") {
    // The first `partial` of the pairs rotate with the frequencies of the whole head; the rest stand still.
    const auto rotating = static_cast<uint64_t>(partial * static_cast<double>(head_dim) / 2);
    for (uint64_t i = 0; i < half; ++i)
      rope.inv_freq[i] = i < rotating ? rope.inv_freq[i] / static_cast<float>(factor) : 0.0f;
    return rope;
  }
  if (partial != 1.0)
    throw Error(ErrorCode::kUnsupported,
                "config.json: partial_rotary_factor with rope type " + type + " is not supported");
  if (type == "default") return rope;
  if (type == "linear") {
    for (float& f : rope.inv_freq) f /= static_cast<float>(factor);
    return rope;
  }
  if (type == "llama3") {
    const double low = c.number("low_freq_factor", 1), high = c.number("high_freq_factor", 4);
    const double original = c.number("original_max_position_embeddings", 8192);
    if (!(high > low) || !(low > 0) || !(original > 0))
      throw Error(ErrorCode::kInvalidFile,
                  "config.json: llama3 rope needs 0 < low_freq_factor < high_freq_factor");
    for (float& f : rope.inv_freq) {
      const double wavelength = 2 * std::numbers::pi / f;
      if (wavelength > original / low) {
        f = static_cast<float>(f / factor);
      } else if (wavelength > original / high) {
        const double smooth = (original / wavelength - low) / (high - low);
        f = static_cast<float>((1 - smooth) * f / factor + smooth * f);
      }
    }
    return rope;
  }
  throw Error(ErrorCode::kUnsupported, "config.json: rope type \"" + type + "\" is not supported");
}

ModelSpec model_spec(const OrderedJson& config) {
  const ConfigReader c(config);
  const std::string type = c.text("model_type", "");
  ModelSpec spec;
  if (type == "llama")
    spec = llama_spec(config);
  else if (type == "gemma3_text" || type == "gemma3")
    spec = gemma3_spec(config);
  else if (type == "gemma4" || type == "gemma4_text" || type == "gemma4_unified" ||
           type == "gemma4_unified_text")
    spec = gemma4_spec(config);
  else
    throw Error(ErrorCode::kUnsupported, "config.json: model_type \"" + type +
                                             "\" is not supported; supported are llama, gemma3, gemma3_text, "
                                             "gemma4, gemma4_text, gemma4_unified, "
                                             "gemma4_unified_text");
  if (c.has("architectures") && c.json()["architectures"].is_array() && !c.json()["architectures"].empty() &&
      c.json()["architectures"][0].is_string())
    spec.architecture = c.json()["architectures"][0].get<std::string>();
  for (const LayerSpec& l : spec.layers)
    if (l.kv_heads == 0 || spec.heads % l.kv_heads != 0)
      throw Error(ErrorCode::kInvalidFile,
                  "config.json: num_attention_heads must be a multiple of the key/value heads");
  return spec;
}

}  // namespace hlwq
