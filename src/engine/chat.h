// A conversation rendered by the model's own chat template.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/generate.h"
#include "model/model.h"
#include "text/output_format.h"

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
/// How the model writes thoughts and calls; "plain" without a tokenizer.
OutputFormat chat_format(const Model& model);

// Messages, as OpenAI and transformers write them. What of them a later prompt repeats (thoughts above all)
// is the template's decision. Arguments of calls may be objects or text; templates get objects.

/// {"role": role, "content": content}
OrderedJson chat_message(const std::string& role, const std::string& content);
/// {"role": "assistant", "content", "reasoning_content" and "tool_calls" where there are any}. A call that
/// was cut off stays part of the content.
OrderedJson assistant_message(const GenerateResult& answer);
/// {"role": "tool", "tool_call_id", "name", "content"}
OrderedJson tool_message(const std::string& call_id, const std::string& name, const std::string& content);
/// The calls of the last assistant message that no tool message has answered yet.
std::vector<ToolCall> waiting_calls(const OrderedJson& messages);
/// [{"id", "type": "function", "function": {"name", "arguments": {...}}}]
OrderedJson tool_calls_json(const std::vector<ToolCall>& calls);

}  // namespace hlwq
