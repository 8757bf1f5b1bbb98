// A loaded model: files, weights, tokenizer and chat template, ready to run and shared between sequences.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "io/model_source.h"
#include "model/transformer.h"
#include "model/vision_tower.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace hlwq {

class Model {
 public:
  /// Maps the files and checks every weight. Nothing is read from disk beyond headers, norms and the
  /// tokenizer.
  static std::shared_ptr<const Model> load(const std::filesystem::path& path);

  const ModelSource& source() const { return source_; }
  const ModelSpec& spec() const { return transformer_->spec(); }
  const Transformer& transformer() const { return *transformer_; }
  /// Null for a text model, and for a checkpoint that left the encoder's weights out.
  const VisionTower* vision() const { return vision_.get(); }
  /// Throws Error(kUnsupported) that says why this model takes no images.
  const VisionTower& require_vision() const;
  const WeightStore& weights() const { return *weights_; }
  bool has_tokenizer() const { return tokenizer_ != nullptr; }
  /// Throws Error(kNotFound) when the model came without one.
  const Tokenizer& tokenizer() const;
  const ChatTemplate* chat_template() const { return template_ ? &*template_ : nullptr; }

 private:
  Model() = default;
  ModelSource source_;
  std::unique_ptr<WeightStore> weights_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<VisionTower> vision_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
};

/// The tokenizer of a source: its tokenizer.json, or the one embedded in a GGUF file; null when there is
/// none.
std::shared_ptr<const Tokenizer> load_tokenizer(const ModelSource& source);

/// The BOS to use in windows: tokenizer_config's / config's bos_token_id; -1 when the model has none.
int32_t bos_token(const Model& model);

/// The text of a named special token ("bos_token"), which tokenizer_config.json gives as a string or as an
/// object with "content"; "" when it names none.
std::string special_token(const OrderedJson& tokenizer_config, const char* key);

}  // namespace hlwq
