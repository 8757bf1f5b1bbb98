// The image encoder of a Gemma 4 config: published flat keys and what transformers 5.17 itself writes.
#include <algorithm>

#include "model/config_reader.h"

namespace hlwq {

void read_gemma4_vision(const OrderedJson& config, ModelSpec& spec) {
  if (!config.contains("vision_config") || !config["vision_config"].is_object()) return;
  const ConfigReader outer(config), c(config["vision_config"]);
  VisionSpec v;
  v.hidden = c.integer("hidden_size", 768, 2, 1 << 16);
  v.intermediate = c.integer("intermediate_size", 3072, 2, 1 << 20);
  v.layers = c.integer("num_hidden_layers", 16, 1, 1024);
  v.heads = c.integer("num_attention_heads", 12, 1, 1 << 10);
  v.kv_heads = c.integer("num_key_value_heads", static_cast<int64_t>(v.heads), 1, v.heads);
  v.head_dim = c.integer("head_dim", 64, 4, 4096);
  v.patch = c.integer("patch_size", 16, 1, 256);
  v.pooling = c.integer("pooling_kernel_size", 3, 1, 16);
  v.positions = c.integer("position_embedding_size", 10240, 1, 1 << 20);
  v.default_tokens =
      outer.integer("vision_soft_tokens_per_image",
                    static_cast<int64_t>(c.integer("default_output_length", 280, 1, 1 << 16)), 1, 1 << 16);
  v.norm_eps = static_cast<float>(c.number("rms_norm_eps", 1e-6));
  v.standardize = c.boolean("standardize", false);
  v.clipped = c.boolean("use_clipped_linears", false);
  if (v.head_dim % 4 || v.heads % v.kv_heads)
    throw Error(ErrorCode::kInvalidFile,
                "config.json: vision_config needs a head_dim that is a multiple of 4 and "
                "num_attention_heads a multiple of num_key_value_heads");
  if (const std::string act = c.text("hidden_activation", "gelu_pytorch_tanh"); act != "gelu_pytorch_tanh")
    throw Error(ErrorCode::kUnsupported,
                "config.json: vision_config's hidden_activation \"" + act + "\" is not supported");
  if (c.has("rope_parameters")) {
    const ConfigReader rope(c.json()["rope_parameters"]);
    // Published configs say "default", transformers 5.17 writes "axial": both mean half a head for x, half
    // for y.
    const std::string type = rope.text("rope_type", "axial");
    if (type != "axial" && type != "default")
      throw Error(ErrorCode::kUnsupported,
                  "config.json: vision_config's rope_type \"" + type + "\" is not supported");
    v.rope_theta = static_cast<float>(rope.number("rope_theta", 100));
  }
  if (!(v.rope_theta > 1))
    throw Error(ErrorCode::kInvalidFile, "config.json: vision_config needs a rope_theta above 1");
  spec.vision = v;
}

void read_image_processor(const OrderedJson& processor, VisionSpec& vision) {
  if (!processor.is_object()) return;
  const bool nested = processor.contains("image_processor") && processor["image_processor"].is_object();
  const ConfigReader c(nested ? processor["image_processor"] : processor);
  vision.default_tokens =
      c.integer("max_soft_tokens", static_cast<int64_t>(vision.default_tokens), 1, 1 << 16);
}

}  // namespace hlwq
