// A conversation rendered by the model's own chat template.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model.h"

namespace hlwq {

/// Variables of a template besides the messages.
struct ChatOptions {
  bool add_generation_prompt = true;
  OrderedJson tools;  ///< null: none
  OrderedJson extra;  ///< object of further variables (enable_thinking...); null: none
};

/// The whole variables object for ChatTemplate::render (bos_token, eos_token... from tokenizer_config).
OrderedJson chat_variables(const Model& model, const OrderedJson& messages, const ChatOptions& options);
/// The rendered prompt as text. Throws Error(kUnsupported) when the model has no chat template.
std::string chat_prompt(const Model& model, const OrderedJson& messages, const ChatOptions& options = {});
/// The rendered prompt as ids; text that came from the messages never becomes a special token.
std::vector<int32_t> chat_ids(const Model& model, const OrderedJson& messages,
                              const ChatOptions& options = {});
/// {"role": role, "content": content}
OrderedJson chat_message(const std::string& role, const std::string& content);

}  // namespace hlwq
