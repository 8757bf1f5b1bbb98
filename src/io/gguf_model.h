// A GGUF model as Hugging Face would have it: tensor names, config, generation and tokenizer configs.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "io/tensor.h"

namespace hlwq {

struct GgufModel {
  std::vector<Tensor> tensors;  ///< Hugging Face names; rope_heads and add undo what the converter did
  OrderedJson config;
  OrderedJson generation_config;
  OrderedJson tokenizer_config;
  std::string chat_template;
};

/// Translates parsed GGUF contents of the architectures llama and gemma3 (text); `what` names the file in
/// errors. Throws Error(kUnsupported) for other architectures, tensors and rope scalings, kInvalidFile for
/// missing or absurd values.
GgufModel translate_gguf(std::vector<Tensor> tensors, const Json& metadata, const std::string& what);

}  // namespace hlwq
