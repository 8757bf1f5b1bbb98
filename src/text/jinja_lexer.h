// Template source to tokens: tags, white-space control, comments, raw blocks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hlwq::jinja {

enum class TokenKind : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;  ///< data, the name, the decoded string, the operator
  int64_t integer = 0;
  double real = 0;
};

/// Ends with a kEnd token. Throws Error(kInvalidFile) naming the line.
std::vector<Token> tokenize(std::string_view source);

/// Throws Error(kInvalidFile): "chat template, line N: message".
[[noreturn]] void syntax_error(int line, const std::string& message);

}  // namespace hlwq::jinja
