// How a model writes thoughts and tool calls: a small table, and which row a model belongs to.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace hlwq {

enum class CallSyntax {
  kNone,
  kGemma4,  ///< call:NAME{key:value}, bare keys, strings between quote markers
  kJson,    ///< {"name": ..., "arguments": {...}} between markers (Hermes, Qwen)
  kLlama3,  ///< {"name": ..., "parameters": {...}} as the whole answer, after a marker or without one
};

struct Marker {
  std::string text;  ///< empty: the format has no such marker
  int32_t id = -1;   ///< the token that it is; -1: it is spelt in ordinary text
};

struct OutputFormat {
  std::string name = "plain";  ///< "gemma4", "hermes", "llama3" or "plain" (everything is text)
  CallSyntax calls = CallSyntax::kNone;
  Marker think_open, think_close, call_open, call_close;
  Marker quote;                   ///< around strings inside a call
  std::string think_name;         ///< what follows think_open and is no part of the thought
  std::vector<std::string> ends;  ///< tokens that end the model's turn

  /// The marker that is this token, or null.
  const Marker* marker(int32_t id) const;
};

/// The row that fits a model: by the tokens it has, then by what its chat template mentions. A marker that
/// the tokenizer has as a token counts only as that token; one that it lacks is looked for in the text.
OutputFormat output_format(std::string_view chat_template, const Tokenizer& tokenizer);

}  // namespace hlwq
