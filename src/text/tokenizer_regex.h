// Regular expressions of tokenizer.json (Oniguruma syntax) on PCRE2, with limits.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hlwq::tok {

struct Span {
  size_t begin, end;
  bool match;
};

/// Immutable; shared between threads.
class Regex {
 public:
  /// Throws Error(kInvalidFile) for a pattern that does not compile, Error(kUnsupported) for Oniguruma-only
  /// syntax.
  Regex(std::string_view pattern, const std::string& what);

  /// All matches and the text between them, in order, covering `text` (valid UTF-8).
  /// Throws Error(kInvalidArgument) when matching goes over its limits.
  std::vector<Span> find_all(std::string_view text) const;

 private:
  std::shared_ptr<const void> code_;        // pcre2_code
  std::shared_ptr<const void> newer_code_;  // with the characters that PCRE2's tables lack; slower
  std::string pattern_;
};

/// The PCRE2 spelling of an Oniguruma pattern. newer: categories include the characters that PCRE2's tables
/// lack. Throws Error(kUnsupported) for what PCRE2 cannot express.
std::string to_pcre(std::string_view pattern, const std::string& what, bool newer);

/// A literal to look for: the same contract as Regex::find_all.
std::vector<Span> find_literal(std::string_view text, std::string_view literal);

}  // namespace hlwq::tok
