// Typed, range-checked access to config.json values.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "base/json.h"
#include "model/spec.h"

namespace hlwq {

class ConfigReader {
 public:
  explicit ConfigReader(const OrderedJson& config) : config_(config) {
    if (!config.is_object()) throw Error(ErrorCode::kInvalidFile, "config.json: not an object");
  }

  bool has(const char* key) const { return config_.contains(key) && !config_[key].is_null(); }

  /// An integer in [min, max]; absent or null gives `fallback`, which < 0 means required.
  uint64_t integer(const char* key, int64_t fallback, uint64_t min, uint64_t max) const {
    if (!has(key)) {
      if (fallback < 0)
        throw Error(ErrorCode::kInvalidFile, std::string("config.json: ") + key + " is missing");
      return static_cast<uint64_t>(fallback);
    }
    const auto& v = config_[key];
    if (!v.is_number_integer() || v.get<int64_t>() < 0 || v.get<uint64_t>() < min || v.get<uint64_t>() > max)
      throw Error(ErrorCode::kInvalidFile, std::string("config.json: ") + key + " is " + v.dump() +
                                               ", expected " + std::to_string(min) + " to " +
                                               std::to_string(max));
    return v.get<uint64_t>();
  }

  double number(const char* key, double fallback) const {
    if (!has(key)) return fallback;
    if (!config_[key].is_number() || !std::isfinite(config_[key].get<double>()))
      throw Error(ErrorCode::kInvalidFile, std::string("config.json: ") + key + " is not a number");
    return config_[key].get<double>();
  }

  bool boolean(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!config_[key].is_boolean())
      throw Error(ErrorCode::kInvalidFile, std::string("config.json: ") + key + " is not true or false");
    return config_[key].get<bool>();
  }

  std::string text(const char* key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    if (!config_[key].is_string())
      throw Error(ErrorCode::kInvalidFile, std::string("config.json: ") + key + " is not a string");
    return config_[key].get<std::string>();
  }

  const OrderedJson& json() const { return config_; }

 private:
  const OrderedJson& config_;
};

/// Fields that every family has: sizes, vocabulary, context, epsilon, biases, tied embeddings.
void read_common(const ConfigReader& c, ModelSpec& spec);

/// layer_types as one bool per layer (true: sliding). Without the key: sliding except every `pattern`-th
/// layer, or all full when pattern is 0.
std::vector<bool> read_sliding_layers(const ConfigReader& c, uint64_t layers, uint64_t pattern);

/// A rope from `params` ({rope_type, rope_theta, factor...}; may be null) for one head size. Knows default,
/// linear, llama3 and proportional; Error(kUnsupported) names any other type.
RopeSpec make_rope(const OrderedJson& params, double theta, uint64_t head_dim);

/// The spec of a config.json. Throws Error(kUnsupported) naming an architecture or feature that is not built,
/// kInvalidFile for missing or absurd values.
ModelSpec model_spec(const OrderedJson& config);

/// Gemma 4's image encoder and image tokens; leaves `spec` alone when the config has no vision_config.
void read_gemma4_vision(const OrderedJson& config, ModelSpec& spec);
/// What processor_config.json (or preprocessor_config.json) says beyond the config: the tokens an image gets.
void read_image_processor(const OrderedJson& processor, VisionSpec& vision);

// One file a family.
ModelSpec llama_spec(const OrderedJson& config);
ModelSpec gemma3_spec(const OrderedJson& config);
ModelSpec gemma4_spec(const OrderedJson& config);

}  // namespace hlwq
