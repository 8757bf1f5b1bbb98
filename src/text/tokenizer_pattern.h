// A "pattern" of tokenizer.json: {"String": ...} or {"Regex": ...}.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer_regex.h"

namespace hlwq::tok {

class Pattern {
 public:
  /// Throws Error(kInvalidFile | kUnsupported) as Regex does.
  Pattern(const Json& spec, const std::string& what);
  /// Matches and the text between them, covering `text`.
  std::vector<Span> find_all(std::string_view text) const {
    return regex_ ? regex_->find_all(text) : find_literal(text, literal_);
  }
  /// Set when the pattern is a literal.
  const std::string* literal() const { return regex_ ? nullptr : &literal_; }

 private:
  std::string literal_;
  std::optional<Regex> regex_;
};

}  // namespace hlwq::tok
