#include "model/tensor_list.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/checked.h"
#include "model/config_reader.h"

namespace hlwq {
namespace {

// More than any model has, and little enough that no sum of sizes below overflows.
constexpr uint64_t kMaxElements = uint64_t{1} << 52;

class Lister {
 public:
  explicit Lister(TensorRole role) : role_(role) {}

  void add(std::string name, std::vector<uint64_t> shape) {
    total_ = checked_add(total_, checked_elements(shape, name), name);
    if (total_ > kMaxElements)
      throw Error(ErrorCode::kInvalidFile, "config.json: the model would have more than " +
                                               std::to_string(kMaxElements) + " weights at " + name +
                                               "; its sizes cannot be right");
    list_.push_back({std::move(name), std::move(shape), role_});
  }
  void vector(const std::string& name, uint64_t n) { add(name, {n}); }
  void linear(const std::string& name, uint64_t out, uint64_t in, bool bias = false) {
    add(name + ".weight", {out, in});
    if (bias) add(name + ".bias", {out});
  }
  /// A linear of the towers, which wrap it, with four scalars when they clamp.
  void wrapped(const std::string& name, uint64_t out, uint64_t in, bool clipped) {
    linear(name + ".linear", out, in);
    if (!clipped) return;
    for (const char* bound : {"input_min", "input_max", "output_min", "output_max"})
      add(name + "." + bound, {});
  }
  void norm(const std::string& name, uint64_t n) { vector(name + ".weight", n); }
  void layer_norm(const std::string& name, uint64_t n) {
    norm(name, n);
    vector(name + ".bias", n);
  }

  std::vector<ListedTensor> take() { return std::move(list_); }

 private:
  TensorRole role_;
  uint64_t total_ = 0;
  std::vector<ListedTensor> list_;
};

void list_attention(const ModelSpec& spec, const LayerSpec& l, const std::string& p, Lister& out) {
  const uint64_t hidden = spec.hidden, q = spec.heads * l.head_dim, kv = l.kv_heads * l.head_dim;
  const bool own = l.kv_from < 0, bias = spec.attention_bias;
  out.linear(p + "q_proj", q, hidden, bias);
  if (own) out.linear(p + "k_proj", kv, hidden, bias);
  if (own && !l.k_is_v) out.linear(p + "v_proj", kv, hidden, bias);
  out.linear(p + "o_proj", hidden, q, bias);
  if (!spec.qk_norm) return;
  out.norm(p + "q_norm", l.head_dim);
  if (own) out.norm(p + "k_norm", l.head_dim);
}

void list_layer(const ModelSpec& spec, const LayerSpec& l, const std::string& p, Lister& out) {
  const uint64_t hidden = spec.hidden, inner = l.intermediate ? l.intermediate : spec.intermediate;
  out.norm(p + "input_layernorm", hidden);
  list_attention(spec, l, p + "self_attn.", out);
  out.norm(p + "post_attention_layernorm", hidden);
  if (spec.sandwich_norms) {
    out.norm(p + "pre_feedforward_layernorm", hidden);
    out.norm(p + "post_feedforward_layernorm", hidden);
  }
  out.linear(p + "mlp.gate_proj", inner, hidden, spec.mlp_bias);
  out.linear(p + "mlp.up_proj", inner, hidden, spec.mlp_bias);
  out.linear(p + "mlp.down_proj", hidden, inner, spec.mlp_bias);
  if (spec.experts) {
    out.linear(p + "router.proj", spec.experts, hidden);
    out.vector(p + "router.scale", hidden);
    out.vector(p + "router.per_expert_scale", spec.experts);
    out.add(p + "experts.gate_up_proj", {spec.experts, 2 * spec.expert_intermediate, hidden});
    out.add(p + "experts.down_proj", {spec.experts, hidden, spec.expert_intermediate});
    for (const char* norm :
         {"post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"})
      out.norm(p + norm, hidden);
  }
  if (spec.per_layer_width) {
    out.linear(p + "per_layer_input_gate", spec.per_layer_width, hidden);
    out.linear(p + "per_layer_projection", hidden, spec.per_layer_width);
    out.norm(p + "post_per_layer_input_norm", hidden);
  }
  if (spec.layer_scalar) out.vector(p + "layer_scalar", 1);
}

std::vector<ListedTensor> list_text(const ModelSpec& spec) {
  Lister out(TensorRole::kText);
  const std::string& p = spec.prefix;
  out.linear(p + "embed_tokens", spec.vocab, spec.hidden);
  if (spec.per_layer_width) {
    const uint64_t width = checked_mul(spec.layers.size(), spec.per_layer_width, "per-layer embeddings");
    out.linear(p + "embed_tokens_per_layer", spec.per_layer_vocab, width);
    out.linear(p + "per_layer_model_projection", width, spec.hidden);
    out.norm(p + "per_layer_projection_norm", spec.per_layer_width);
  }
  for (size_t i = 0; i < spec.layers.size(); ++i)
    list_layer(spec, spec.layers[i], p + "layers." + std::to_string(i) + ".", out);
  out.norm(p + "norm", spec.hidden);
  if (!spec.tied) out.linear("lm_head", spec.vocab, spec.hidden);
  return out.take();
}

std::vector<ListedTensor> list_gemma4_vision(const ConfigReader&, const ModelSpec& spec) {
  Lister out(TensorRole::kVision);
  const VisionSpec& v = *spec.vision;
  const uint64_t hidden = v.hidden, q = v.heads * v.head_dim, kv = v.kv_heads * v.head_dim;
  const std::string tower = "model.vision_tower.";
  out.linear(tower + "patch_embedder.input_proj", hidden, 3 * v.patch * v.patch);
  out.add(tower + "patch_embedder.position_embedding_table", {2, v.positions, hidden});
  for (uint64_t i = 0; i < v.layers; ++i) {
    const std::string p = tower + "encoder.layers." + std::to_string(i) + ".";
    for (const char* norm : {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                             "post_feedforward_layernorm"})
      out.norm(p + norm, hidden);
    out.wrapped(p + "self_attn.q_proj", q, hidden, v.clipped);
    out.wrapped(p + "self_attn.k_proj", kv, hidden, v.clipped);
    out.wrapped(p + "self_attn.v_proj", kv, hidden, v.clipped);
    out.wrapped(p + "self_attn.o_proj", hidden, q, v.clipped);
    out.norm(p + "self_attn.q_norm", v.head_dim);
    out.norm(p + "self_attn.k_norm", v.head_dim);
    out.wrapped(p + "mlp.gate_proj", v.intermediate, hidden, v.clipped);
    out.wrapped(p + "mlp.up_proj", v.intermediate, hidden, v.clipped);
    out.wrapped(p + "mlp.down_proj", hidden, v.intermediate, v.clipped);
  }
  if (v.standardize) {
    out.vector(tower + "std_bias", hidden);
    out.vector(tower + "std_scale", hidden);
  }
  out.linear("model.embed_vision.embedding_projection", spec.hidden, hidden);
  return out.take();
}

// A conformer over mel frames: convolutions that subsample them, then layers of feed-forward, attention,
// a depthwise convolution and feed-forward again.
std::vector<ListedTensor> list_gemma4_audio(const ConfigReader& c, const ModelSpec& spec) {
  Lister out(TensorRole::kAudio);
  const uint64_t hidden = c.integer("hidden_size", 1024, 1, 1 << 20);
  const uint64_t layers = c.integer("num_hidden_layers", 12, 1, 4096);
  const uint64_t heads = c.integer("num_attention_heads", 8, 1, hidden);
  const uint64_t kernel = c.integer("conv_kernel_size", 5, 1, 4096);
  const uint64_t output = c.integer("output_proj_dims", 1536, 1, 1 << 20);
  const bool clipped = c.boolean("use_clipped_linears", true);
  std::array<uint64_t, 2> channels = {128, 32};
  if (c.has("subsampling_conv_channels")) {
    const OrderedJson& list = c.json()["subsampling_conv_channels"];
    const auto good = [](const OrderedJson& v) {
      return v.is_number_unsigned() && v.get<uint64_t>() > 0 && v.get<uint64_t>() <= 1 << 16;
    };
    if (!list.is_array() || list.size() != 2 || !good(list[0]) || !good(list[1]))
      throw Error(ErrorCode::kInvalidFile,
                  "config.json: subsampling_conv_channels must be two numbers of channels");
    channels = {list[0].get<uint64_t>(), list[1].get<uint64_t>()};
  }
  const uint64_t heads_width = heads * (hidden / heads);
  const std::string tower = "model.audio_tower.", sub = tower + "subsample_conv_projection.";
  out.add(sub + "layer0.conv.weight", {channels[0], 1, 3, 3});
  out.norm(sub + "layer0.norm", channels[0]);
  out.add(sub + "layer1.conv.weight", {channels[1], channels[0], 3, 3});
  out.norm(sub + "layer1.norm", channels[1]);
  out.linear(sub + "input_proj_linear", hidden, channels[0] / 4 * channels[1]);
  for (uint64_t i = 0; i < layers; ++i) {
    const std::string p = tower + "layers." + std::to_string(i) + ".";
    for (const char* name : {"feed_forward1.", "feed_forward2."}) {
      out.wrapped(p + name + "ffw_layer_1", 4 * hidden, hidden, clipped);
      out.wrapped(p + name + "ffw_layer_2", hidden, 4 * hidden, clipped);
      out.norm(p + name + "pre_layer_norm", hidden);
      out.norm(p + name + "post_layer_norm", hidden);
    }
    for (const char* name : {"q_proj", "k_proj", "v_proj"})
      out.wrapped(p + "self_attn." + name, heads_width, hidden, clipped);
    out.wrapped(p + "self_attn.post", hidden, hidden, clipped);
    out.linear(p + "self_attn.relative_k_proj", heads_width, hidden);
    out.vector(p + "self_attn.per_dim_scale", hidden / heads);
    out.wrapped(p + "lconv1d.linear_start", 2 * hidden, hidden, clipped);
    out.wrapped(p + "lconv1d.linear_end", hidden, hidden, clipped);
    out.add(p + "lconv1d.depthwise_conv1d.weight", {hidden, 1, kernel});
    out.norm(p + "lconv1d.pre_layer_norm", hidden);
    out.norm(p + "lconv1d.conv_norm", hidden);
    for (const char* name : {"norm_pre_attn", "norm_post_attn", "norm_out"}) out.norm(p + name, hidden);
  }
  out.linear(tower + "output_proj", output, hidden, true);
  out.linear("model.embed_audio.embedding_projection", spec.hidden, output);
  return out.take();
}

// Gemma 4 12B has no encoders: patches and sound samples are projected straight into the text model.
std::vector<ListedTensor> list_unified_vision(const ConfigReader& c, const ModelSpec& spec) {
  Lister out(TensorRole::kVision);
  const uint64_t width = c.integer("mm_embed_dim", 3840, 1, 1 << 20);
  const uint64_t side = c.integer("patch_size", 16, 1, 4096) * c.integer("pooling_kernel_size", 3, 1, 4096);
  const std::string p = "model.embed_vision.";
  out.layer_norm(p + "patch_ln1", 3 * side * side);
  out.linear(p + "patch_dense", width, 3 * side * side, true);
  out.layer_norm(p + "patch_ln2", width);
  out.add(p + "pos_embedding", {c.integer("mm_posemb_size", 1120, 1, 1 << 24), 2, width});
  out.layer_norm(p + "pos_norm", width);
  out.linear(p + "multimodal_embedder.embedding_projection", spec.hidden, width);
  return out.take();
}

std::vector<ListedTensor> list_unified_audio(const ConfigReader& c, const ModelSpec& spec) {
  Lister out(TensorRole::kAudio);
  out.linear("model.embed_audio.embedding_projection", spec.hidden,
             c.integer("audio_embed_dim", 640, 1, 1 << 20));
  return out.take();
}

// The image encoder of Gemma 3 and its projection.
std::vector<ListedTensor> list_siglip(const ConfigReader& c, const ModelSpec& spec) {
  Lister out(TensorRole::kVision);
  const uint64_t hidden = c.integer("hidden_size", 768, 1, 1 << 16);
  const uint64_t inner = c.integer("intermediate_size", 3072, 1, 1 << 20);
  const uint64_t layers = c.integer("num_hidden_layers", 12, 1, 1024);
  const uint64_t patch = c.integer("patch_size", 16, 1, 4096);
  const uint64_t side = c.integer("image_size", 224, patch, 1 << 16) / patch;
  const std::string tower = "model.vision_tower.vision_model.", projector = "model.multi_modal_projector.";
  out.add(tower + "embeddings.patch_embedding.weight", {hidden, 3, patch, patch});
  out.vector(tower + "embeddings.patch_embedding.bias", hidden);
  out.linear(tower + "embeddings.position_embedding", side * side, hidden);
  for (uint64_t i = 0; i < layers; ++i) {
    const std::string p = tower + "encoder.layers." + std::to_string(i) + ".";
    for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"})
      out.linear(p + "self_attn." + name, hidden, hidden, true);
    out.layer_norm(p + "layer_norm1", hidden);
    out.layer_norm(p + "layer_norm2", hidden);
    out.linear(p + "mlp.fc1", inner, hidden, true);
    out.linear(p + "mlp.fc2", hidden, inner, true);
  }
  out.layer_norm(tower + "post_layernorm", hidden);
  out.add(projector + "mm_input_projection_weight", {hidden, spec.hidden});
  out.norm(projector + "mm_soft_emb_norm", hidden);
  return out.take();
}

struct Tower {
  std::string_view model_type;
  std::vector<ListedTensor> (*list)(const ConfigReader&, const ModelSpec&);
};
constexpr std::array<Tower, 5> kTowers = {{{"gemma4_vision", list_gemma4_vision},
                                           {"gemma4_audio", list_gemma4_audio},
                                           {"gemma4_unified_vision", list_unified_vision},
                                           {"gemma4_unified_audio", list_unified_audio},
                                           {"siglip_vision_model", list_siglip}}};

const OrderedJson* part(const OrderedJson& config, const char* key) {
  return config.contains(key) && config[key].is_object() ? &config[key] : nullptr;
}

template <size_t n>
bool contains_any(std::string_view name, const std::array<std::string_view, n>& parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](std::string_view p) { return name.find(p) != std::string_view::npos; });
}

}  // namespace

TensorList list_tensors(const OrderedJson& config, const ModelSpec& spec) {
  TensorList list;
  list.tensors = list_text(spec);
  for (const char* key : {"vision_config", "audio_config"}) {
    const OrderedJson* tower = part(config, key);
    if (!tower) continue;
    const ConfigReader c(*tower);
    const bool gemma4 = spec.vision && key == std::string_view("vision_config");
    const std::string type = c.text("model_type", gemma4 ? "gemma4_vision" : key);
    const auto known =
        std::find_if(kTowers.begin(), kTowers.end(), [&](const Tower& t) { return type == t.model_type; });
    if (known == kTowers.end() || (type == "gemma4_vision" && !spec.vision)) {
      list.not_counted.push_back("the " + type + " encoder");
      continue;
    }
    std::vector<ListedTensor> more = known->list(c, spec);
    list.tensors.insert(list.tensors.end(), std::make_move_iterator(more.begin()),
                        std::make_move_iterator(more.end()));
  }
  return list;
}

TensorRole tensor_role(std::string_view name) {
  static constexpr std::array<std::string_view, 4> kAudio = {"audio_tower", "embed_audio", "audio_model",
                                                             "audio_projector"};
  static constexpr std::array<std::string_view, 3> kVision = {"vision", "multi_modal_projector", "visual."};
  if (contains_any(name, kAudio)) return TensorRole::kAudio;
  if (contains_any(name, kVision)) return TensorRole::kVision;
  return TensorRole::kText;
}

}  // namespace hlwq
