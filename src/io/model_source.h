// Everything that makes a model, whatever it was stored as: weights under Hugging Face names, config,
// tokenizer, template.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "io/tensor_source.h"

namespace hlwq {

struct ModelSource {
  enum class Kind { kHuggingFace, kGguf };
  Kind kind = Kind::kHuggingFace;
  std::filesystem::path path;             ///< the directory, or the .gguf file
  std::unique_ptr<TensorSource> tensors;  ///< null when the directory has only a config (`hlwq info`)
  OrderedJson config;                     ///< config.json; for GGUF, translated from the metadata
  OrderedJson generation_config;          ///< generation_config.json or {}
  OrderedJson tokenizer_config;           ///< tokenizer_config.json or {}
  std::string tokenizer_json;             ///< text of tokenizer.json; empty for GGUF
  Json gguf_metadata;         ///< GGUF only (tokenizer.ggml.* is turned into a tokenizer by src/text)
  std::string chat_template;  ///< chat_template.jinja, else tokenizer_config's, else GGUF's; may be empty
  /// Files to copy into a derived checkpoint as they are: tokenizer, template, generation and processor
  /// configs, licence. Never config.json or weights; empty for GGUF.
  std::vector<std::filesystem::path> side_files;
};

/// Opens a model directory or .gguf file. Throws Error(kNotFound) saying what is missing,
/// kUnsupported for what we refuse (pickles: *.bin, *.pt; with the reason), kInvalidFile.
/// GGUF architectures llama and gemma3 are translated to Hugging Face names and config; others are
/// kUnsupported.
ModelSource open_model(const std::filesystem::path& path);

}  // namespace hlwq
