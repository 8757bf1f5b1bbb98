#include "text/output_format.h"

#include <array>
#include <functional>

namespace hlwq {
namespace {

struct Row {
  OutputFormat format;
  std::function<bool(std::string_view chat_template, const Tokenizer&)> fits;
};

bool has(const Tokenizer& tokenizer, std::string_view token) { return tokenizer.token_to_id(token) >= 0; }
bool mentions(std::string_view chat_template, std::string_view text) {
  return chat_template.find(text) != std::string_view::npos;
}

/// The first that fits is taken.
const std::array<Row, 3>& table() {
  static const std::array<Row, 3> rows = {{
      {{.name = "gemma4",
        .calls = CallSyntax::kGemma4,
        .think_open = {"<|channel>"},
        .think_close = {"<channel|>"},
        .call_open = {"<|tool_call>"},
        .call_close = {"<tool_call|>"},
        .quote = {"<|\"|>"},
        .think_name = "thought\n",
        .ends = {"<turn|>", "<|tool_response>"}},
       [](std::string_view, const Tokenizer& t) {
         return has(t, "<|channel>") && has(t, "<channel|>") && has(t, "<|tool_call>") &&
                has(t, "<tool_call|>") && has(t, "<|\"|>");
       }},
      {{.name = "hermes",
        .calls = CallSyntax::kJson,
        .think_open = {"<think>"},
        .think_close = {"</think>"},
        .call_open = {"<tool_call>"},
        .call_close = {"</tool_call>"},
        .quote = {},
        .think_name = "",
        .ends = {"<|im_end|>"}},
       [](std::string_view chat, const Tokenizer&) {
         return mentions(chat, "<tool_call>") || mentions(chat, "</think>");
       }},
      {{.name = "llama3",
        .calls = CallSyntax::kLlama3,
        .think_open = {},
        .think_close = {},
        .call_open = {"<|python_tag|>"},
        .call_close = {},
        .quote = {},
        .think_name = "",
        .ends = {"<|eot_id|>", "<|eom_id|>"}},
       [](std::string_view chat, const Tokenizer& t) {
         return has(t, "<|eot_id|>") && mentions(chat, "parameters") && mentions(chat, "tools");
       }},
  }};
  return rows;
}

}  // namespace

const Marker* OutputFormat::marker(int32_t id) const {
  for (const Marker* m : {&think_open, &think_close, &call_open, &call_close, &quote})
    if (m->id >= 0 && m->id == id) return m;
  return nullptr;
}

OutputFormat output_format(std::string_view chat_template, const Tokenizer& tokenizer) {
  for (const Row& row : table()) {
    if (!row.fits(chat_template, tokenizer)) continue;
    OutputFormat format = row.format;
    for (Marker* m :
         {&format.think_open, &format.think_close, &format.call_open, &format.call_close, &format.quote})
      if (!m->text.empty()) m->id = tokenizer.token_to_id(m->text);
    return format;
  }
  return {};
}

}  // namespace hlwq
