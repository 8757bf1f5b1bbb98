#include "io/gguf_model.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>
#include <optional>
#include <span>

namespace hlwq {
namespace {

constexpr uint64_t kMaxInteger = (1ull << 31) - 1;

// Metadata with typed, bounded access; keys beginning with '.' are the architecture's.
class Metadata {
 public:
  Metadata(const Json& json, const std::string& what) : json_(json), what_(what) {
    architecture_ = string("general.architecture").value_or("");
    if (architecture_.empty()) invalid("general.architecture is missing");
  }

  [[noreturn]] void invalid(const std::string& problem) const {
    throw Error(ErrorCode::kInvalidFile, what_ + ": " + problem);
  }
  [[noreturn]] void unsupported(const std::string& problem) const {
    throw Error(ErrorCode::kUnsupported, what_ + ": " + problem);
  }

  const std::string& architecture() const { return architecture_; }
  std::string full(const std::string& key) const { return key[0] == '.' ? architecture_ + key : key; }

  const Json* find(const std::string& key) const {
    const auto it = json_.find(full(key));
    return it == json_.end() ? nullptr : &*it;
  }

  std::optional<uint64_t> integer(const std::string& key) const {
    const Json* v = find(key);
    return v ? std::optional(as_integer(*v, key)) : std::nullopt;
  }

  uint64_t required(const std::string& key) const {
    const auto v = integer(key);
    if (!v || *v == 0) invalid(full(key) + " is missing or zero");
    return *v;
  }

  // Some writers store one value a layer; we read models whose layers agree.
  std::optional<uint64_t> uniform_integer(const std::string& key) const {
    const Json* v = find(key);
    if (!v || !v->is_array()) return integer(key);
    if (v->empty()) invalid(full(key) + " is an empty array");
    for (const Json& e : *v)
      if (e != v->front()) unsupported(full(key) + " differs between layers, which is not supported");
    return as_integer(v->front(), key);
  }

  // The shortest decimal that is the same float32: 1e-05 and not 9.999999747378752e-06, as config.json would
  // have it.
  std::optional<double> real(const std::string& key) const {
    const Json* v = find(key);
    if (!v) return std::nullopt;
    if (!v->is_number()) invalid(full(key) + " is not a number");
    const double exact = v->get<double>();
    if (!std::isfinite(exact)) invalid(full(key) + " is not finite");
    const auto single = static_cast<float>(exact);
    if (single != exact) return exact;
    char text[64];
    const auto written = std::to_chars(text, text + sizeof text, single);
    double shortest = exact;
    std::from_chars(text, written.ptr, shortest);
    return shortest;
  }

  std::optional<std::string> string(const std::string& key) const {
    const Json* v = find(key);
    if (!v) return std::nullopt;
    if (!v->is_string()) invalid(full(key) + " is not a string");
    return text(*v, full(key));
  }

  std::optional<bool> boolean(const std::string& key) const {
    const Json* v = find(key);
    if (!v) return std::nullopt;
    if (!v->is_boolean()) invalid(full(key) + " is not a boolean");
    return v->get<bool>();
  }

  // Strings that end up in configs must be UTF-8, or writing those fails much later.
  std::string text(const Json& v, const std::string& key) const {
    try {
      (void)v.dump();
    } catch (const Json::exception&) {
      invalid(key + " is not UTF-8");
    }
    return v.get<std::string>();
  }

 private:
  uint64_t as_integer(const Json& v, const std::string& key) const {
    if (!v.is_number_integer() || (!v.is_number_unsigned() && v.get<int64_t>() < 0) ||
        v.get<uint64_t>() > kMaxInteger)
      invalid(full(key) + " is not an integer from 0 to " + std::to_string(kMaxInteger));
    return v.get<uint64_t>();
  }

  const Json& json_;
  const std::string& what_;
  std::string architecture_;
};

struct Rename {
  std::string_view gguf, hugging_face;
};

constexpr Rename kCommon[] = {
    {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},   {"attn_output", "self_attn.o_proj"}, {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},        {"ffn_down", "mlp.down_proj"},
};
constexpr Rename kLlama[] = {{"ffn_norm", "post_attention_layernorm"}};
constexpr Rename kGemma3[] = {
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};

std::string_view lookup(std::span<const Rename> table, std::string_view name) {
  for (const Rename& r : table)
    if (r.gguf == name) return r.hugging_face;
  return {};
}

// "blk.7.attn_q.weight" -> layer 7 and "attn_q.weight"; layer stays empty for tensors outside the layers.
std::optional<uint64_t> split_layer(std::string_view& name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  uint64_t layer = 0;
  const auto parsed = std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  if (parsed.ec != std::errc() || parsed.ptr == name.data() + name.size() || *parsed.ptr != '.')
    return std::nullopt;
  name.remove_prefix(static_cast<size_t>(parsed.ptr + 1 - name.data()));
  return layer;
}

class Translator {
 public:
  Translator(std::vector<Tensor> tensors, const Json& metadata, const std::string& what)
      : meta_(metadata, what), tensors_(std::move(tensors)), gemma_(meta_.architecture() == "gemma3") {
    if (!gemma_ && meta_.architecture() != "llama")
      meta_.unsupported("GGUF models of architecture '" + meta_.architecture() +
                        "' are not read (llama and gemma3 are); use the model's safetensors");
  }

  GgufModel translate() {
    read_dimensions();
    GgufModel model;
    for (Tensor& t : tensors_) {
      if (t.name == "rope_freqs.weight") {
        rope_frequencies_ = decoded(t);
        continue;
      }
      rename(t);
      model.tensors.push_back(std::move(t));
    }
    if (vocab_ == 0) meta_.invalid("there is no token_embd.weight");
    model.config = gemma_ ? gemma3_config() : llama_config();
    model.generation_config = generation_config();
    model.tokenizer_config = tokenizer_config();
    model.chat_template = meta_.string("tokenizer.chat_template").value_or("");
    return model;
  }

 private:
  void read_dimensions() {
    layers_ = meta_.required(".block_count");
    if (layers_ > tensors_.size())
      meta_.invalid(std::to_string(layers_) + " layers in a file of " + std::to_string(tensors_.size()) +
                    " tensors");
    hidden_ = meta_.required(".embedding_length");
    const auto heads = meta_.uniform_integer(".attention.head_count");
    if (!heads || *heads == 0) meta_.invalid(meta_.full(".attention.head_count") + " is missing or zero");
    heads_ = *heads;
    kv_heads_ = meta_.uniform_integer(".attention.head_count_kv").value_or(heads_);
    if (kv_heads_ == 0 || heads_ % kv_heads_ != 0)
      meta_.invalid(meta_.full(".attention.head_count_kv") + " does not divide the heads");
    head_dim_ = meta_.integer(".attention.key_length").value_or(hidden_ / heads_);
    if (head_dim_ == 0 || head_dim_ % 2 != 0)
      meta_.invalid("heads of " + std::to_string(head_dim_) + " dimensions cannot rotate");
    if (meta_.integer(".attention.value_length").value_or(head_dim_) != head_dim_)
      meta_.unsupported("keys and values of different sizes are not supported");
    if (const auto rotating = meta_.integer(".rope.dimension_count"); rotating && *rotating != head_dim_)
      meta_.unsupported("partial rotary embedding is not supported for architecture " + meta_.architecture());
    if (meta_.integer(".expert_count").value_or(0) != 0)
      meta_.unsupported("mixture-of-experts GGUF models are not read; use the model's safetensors");
  }

  void rename(Tensor& t) {
    const std::string original = t.name;
    std::string_view rest = original;
    const auto layer = split_layer(rest);
    const size_t dot = rest.rfind('.');
    const std::string_view stem = rest.substr(0, dot),
                           suffix = dot == std::string_view::npos ? "" : rest.substr(dot);
    if (suffix != ".weight" && suffix != ".bias") unknown(original);
    std::string name;
    if (layer) {
      if (*layer >= layers_)
        meta_.invalid("tensor " + original + " belongs to no layer; there are " + std::to_string(layers_));
      std::string_view target = lookup(kCommon, stem);
      if (target.empty()) target = gemma_ ? lookup(kGemma3, stem) : lookup(kLlama, stem);
      if (target.empty()) unknown(original);
      name = "model.layers." + std::to_string(*layer) + "." + std::string(target);
      if (!gemma_ && (stem == "attn_q" || stem == "attn_k"))
        set_rope_heads(t, stem == "attn_q" ? heads_ : kv_heads_);
      if (suffix == ".bias") (stem.starts_with("attn") ? attention_bias_ : mlp_bias_) = true;
    } else if (stem == "token_embd") {
      if (t.shape.size() != 2 || t.cols() != hidden_)
        meta_.invalid("token_embd.weight is not (vocabulary, " + std::to_string(hidden_) + ")");
      vocab_ = t.rows();
      name = "model.embed_tokens";
    } else if (stem == "output_norm") {
      name = "model.norm";
    } else if (stem == "output") {
      name = "lm_head";
      untied_ = true;
    } else {
      unknown(original);
    }
    if (gemma_ && stem.ends_with("norm")) t.add = -1;
    t.name = name + std::string(suffix);
  }

  [[noreturn]] void unknown(const std::string& name) const {
    meta_.unsupported("tensor " + name + " is not known to architecture " + meta_.architecture() +
                      "; use the model's safetensors");
  }

  void set_rope_heads(Tensor& t, uint64_t heads) const {
    if (t.shape.size() > 2 || t.shape.front() != heads * head_dim_)
      meta_.invalid("tensor " + t.name + " has " + std::to_string(t.shape.front()) + " rows, not " +
                    std::to_string(heads) + " heads of " + std::to_string(head_dim_));
    t.rope_heads = static_cast<uint32_t>(heads);
  }

  std::vector<float> decoded(const Tensor& t) const {
    if (t.elements() != head_dim_ / 2) meta_.invalid(t.name + " does not have head_dim / 2 elements");
    std::vector<float> values(t.elements());
    decode_rows(t, 0, t.rows(), values.data());
    return values;
  }

  OrderedJson rope_scaling() const {
    if (!rope_frequencies_.empty()) return llama3_scaling();
    const std::string type = meta_.string(".rope.scaling.type").value_or("");
    auto factor = meta_.real(".rope.scaling.factor");
    if (!factor) factor = meta_.real(".rope.scale_linear");  // how files of 2023 say it
    if (type == "none" || (type.empty() && factor.value_or(1) == 1)) return nullptr;
    if (!type.empty() && type != "linear" && type != "yarn")
      meta_.unsupported("rope scaling '" + type + "' is not known; use the model's safetensors");
    if (!factor || *factor <= 0)
      meta_.invalid(meta_.full(".rope.scaling.factor") + " is missing or not positive");
    if (type != "yarn") return {{"factor", *factor}, {"rope_type", "linear"}};
    OrderedJson yarn = {{"factor", *factor}, {"rope_type", "yarn"}};
    if (const auto n = meta_.integer(".rope.scaling.original_context_length"))
      yarn["original_max_position_embeddings"] = *n;
    return yarn;
  }

  // The converter stores Llama 3's scaling only as the divisors it leads to. Every Llama 3 model uses the
  // same band (1 to 4 turns over 8192 positions); the factor is the largest divisor. Recompute them and
  // accept nothing else.
  OrderedJson llama3_scaling() const {
    constexpr double kLow = 1, kHigh = 4, kContext = 8192;
    const double base = meta_.real(".rope.freq_base").value_or(10000);
    const double factor = *std::max_element(rope_frequencies_.begin(), rope_frequencies_.end());
    for (size_t i = 0; i < rope_frequencies_.size(); ++i) {
      const double frequency = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim_));
      const double turns = kContext * frequency / (2 * std::numbers::pi);
      const double smooth = std::clamp((turns - kLow) / (kHigh - kLow), 0.0, 1.0);
      const double divisor = 1 / ((1 - smooth) / factor + smooth);
      // Float32 rounding of the stored value and of the frequency, amplified by at most the factor: 1e-4 is
      // generous.
      if (!(std::abs(rope_frequencies_[i] - divisor) <= 1e-4 * divisor))
        meta_.unsupported(
            "rope_freqs.weight is not Llama 3's scaling, which alone is known; use the model's safetensors");
    }
    return {{"factor", factor},
            {"high_freq_factor", kHigh},
            {"low_freq_factor", kLow},
            {"original_max_position_embeddings", static_cast<int>(kContext)},
            {"rope_type", "llama3"}};
  }

  OrderedJson id(const std::string& key) const {
    const auto v = meta_.integer(key);
    return v && *v < vocab_ ? OrderedJson(*v) : OrderedJson(nullptr);
  }

  double epsilon() const {
    const auto eps = meta_.real(".attention.layer_norm_rms_epsilon");
    if (!eps || *eps < 0)
      meta_.invalid(meta_.full(".attention.layer_norm_rms_epsilon") + " is missing or negative");
    return *eps;
  }

  OrderedJson llama_config() const {
    return {
        {"architectures", {"LlamaForCausalLM"}},
        {"attention_bias", attention_bias_},
        {"bos_token_id", id("tokenizer.ggml.bos_token_id")},
        {"eos_token_id", id("tokenizer.ggml.eos_token_id")},
        {"head_dim", head_dim_},
        {"hidden_act", "silu"},
        {"hidden_size", hidden_},
        {"intermediate_size", meta_.required(".feed_forward_length")},
        {"max_position_embeddings", meta_.required(".context_length")},
        {"mlp_bias", mlp_bias_},
        {"model_type", "llama"},
        {"num_attention_heads", heads_},
        {"num_hidden_layers", layers_},
        {"num_key_value_heads", kv_heads_},
        {"pad_token_id", id("tokenizer.ggml.padding_token_id")},
        {"rms_norm_eps", epsilon()},
        {"rope_scaling", rope_scaling()},
        {"rope_theta", meta_.real(".rope.freq_base").value_or(10000)},
        {"tie_word_embeddings", !untied_},
        {"torch_dtype", "bfloat16"},
        {"use_cache", true},
        {"vocab_size", vocab_},
    };
  }

  OrderedJson layer_types() const {
    OrderedJson types = OrderedJson::array();
    const Json* pattern = meta_.find(".attention.sliding_window_pattern");
    const bool per_layer = pattern && pattern->is_array();
    if (per_layer && pattern->size() != layers_)
      meta_.invalid("the sliding window pattern is not one flag a layer");
    const uint64_t period = per_layer ? 0 : meta_.integer(".attention.sliding_window_pattern").value_or(6);
    for (uint64_t i = 0; i < layers_; ++i) {
      bool sliding;
      if (!per_layer)
        sliding = period != 0 && (i + 1) % period != 0;
      else if ((*pattern)[i].is_boolean())
        sliding = (*pattern)[i].get<bool>();
      else
        meta_.invalid("the sliding window pattern is not one flag a layer");
      types.push_back(sliding ? "sliding_attention" : "full_attention");
    }
    return types;
  }

  static OrderedJson or_null(std::optional<double> v) { return v ? OrderedJson(*v) : OrderedJson(nullptr); }

  OrderedJson gemma3_config() const {
    if (attention_bias_ || mlp_bias_) meta_.unsupported("gemma3 with biases is not known");
    // Gemma 3 27B alone scales by its width over its heads instead of the head's size, and only its depth
    // tells it apart.
    const uint64_t query_scale = layers_ == 62 ? hidden_ / heads_ : head_dim_;
    return {
        {"architectures", {"Gemma3ForCausalLM"}},
        {"attention_bias", false},
        {"attn_logit_softcapping", or_null(meta_.real(".attn_logit_softcapping"))},
        {"bos_token_id", id("tokenizer.ggml.bos_token_id")},
        {"eos_token_id", id("tokenizer.ggml.eos_token_id")},
        {"final_logit_softcapping", or_null(meta_.real(".final_logit_softcapping"))},
        {"head_dim", head_dim_},
        {"hidden_activation", "gelu_pytorch_tanh"},
        {"hidden_size", hidden_},
        {"intermediate_size", meta_.required(".feed_forward_length")},
        {"layer_types", layer_types()},
        {"max_position_embeddings", meta_.required(".context_length")},
        {"model_type", "gemma3_text"},
        {"num_attention_heads", heads_},
        {"num_hidden_layers", layers_},
        {"num_key_value_heads", kv_heads_},
        {"pad_token_id", id("tokenizer.ggml.padding_token_id")},
        {"query_pre_attn_scalar", query_scale},
        {"rms_norm_eps", epsilon()},
        {"rope_local_base_freq", meta_.real(".rope.freq_base_swa").value_or(10000)},
        {"rope_scaling", rope_scaling()},
        {"rope_theta", meta_.real(".rope.freq_base").value_or(1000000)},
        {"sliding_window", meta_.required(".attention.sliding_window")},
        {"tie_word_embeddings", !untied_},
        {"torch_dtype", "bfloat16"},
        {"use_cache", true},
        {"vocab_size", vocab_},
    };
  }

  OrderedJson generation_config() const {
    OrderedJson config = OrderedJson::object();
    const auto put_id = [&](const char* name, const char* key) {
      if (OrderedJson v = id(key); !v.is_null()) config[name] = std::move(v);
    };
    put_id("bos_token_id", "tokenizer.ggml.bos_token_id");
    put_id("eos_token_id", "tokenizer.ggml.eos_token_id");
    put_id("pad_token_id", "tokenizer.ggml.padding_token_id");
    // Chat models end a turn with a token of its own; Hugging Face lists both as eos.
    if (OrderedJson turn = id("tokenizer.ggml.eot_token_id");
        !turn.is_null() && turn != config.value("eos_token_id", OrderedJson())) {
      OrderedJson both = OrderedJson::array();
      if (config.contains("eos_token_id")) both.push_back(config["eos_token_id"]);
      both.push_back(turn);
      config["eos_token_id"] = both;
    }
    const auto put_real = [&](const char* name, const char* key) {
      if (const auto v = meta_.real(key)) config[name] = *v;
    };
    put_real("temperature", "general.sampling.temp");
    put_real("top_p", "general.sampling.top_p");
    put_real("min_p", "general.sampling.min_p");
    put_real("repetition_penalty", "general.sampling.penalty_repeat");
    if (const auto k = meta_.integer("general.sampling.top_k")) config["top_k"] = *k;
    if (config.contains("temperature") || config.contains("top_p") || config.contains("top_k"))
      config["do_sample"] = config.value("temperature", 1.0) > 0;
    return config;
  }

  OrderedJson tokenizer_config() const {
    OrderedJson config = OrderedJson::object();
    const Json* tokens = meta_.find("tokenizer.ggml.tokens");
    const auto put_token = [&](const char* name, const std::string& key) {
      const auto v = meta_.integer(key);
      if (!v || !tokens || !tokens->is_array() || *v >= tokens->size()) return;
      const Json& token = (*tokens)[*v];
      if (!token.is_string()) meta_.invalid("tokenizer.ggml.tokens holds something other than strings");
      config[name] = meta_.text(token, "token " + std::to_string(*v));
    };
    put_token("bos_token", "tokenizer.ggml.bos_token_id");
    put_token("eos_token", "tokenizer.ggml.eos_token_id");
    put_token("pad_token", "tokenizer.ggml.padding_token_id");
    put_token("unk_token", "tokenizer.ggml.unknown_token_id");
    if (const auto add = meta_.boolean("tokenizer.ggml.add_bos_token")) config["add_bos_token"] = *add;
    if (const auto add = meta_.boolean("tokenizer.ggml.add_eos_token")) config["add_eos_token"] = *add;
    return config;
  }

  Metadata meta_;
  std::vector<Tensor> tensors_;
  bool gemma_;
  uint64_t layers_ = 0, hidden_ = 0, heads_ = 0, kv_heads_ = 0, head_dim_ = 0, vocab_ = 0;
  bool attention_bias_ = false, mlp_bias_ = false, untied_ = false;
  std::vector<float> rope_frequencies_;
};

}  // namespace

GgufModel translate_gguf(std::vector<Tensor> tensors, const Json& metadata, const std::string& what) {
  return Translator(std::move(tensors), metadata, what).translate();
}

}  // namespace hlwq
