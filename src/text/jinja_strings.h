// Python's string methods on Text: every character keeps its origin.
#pragma once

#include <optional>
#include <string>

#include "text/jinja_value.h"

namespace hlwq::jinja {

enum class Case : uint8_t { kUpper, kLower, kTitle, kCapitalize, kSwap };

/// Without leading / trailing characters of `chars` (white space when absent).
Text strip(const Text& text, const std::optional<std::string>& chars, bool left, bool right);
/// str.split / rsplit; separator absent: on runs of white space; limit < 0: none.
Values split(Budget& budget, const Text& text, const std::optional<std::string>& separator, int64_t limit,
             bool from_right);
Values split_lines(Budget& budget, const Text& text, bool keep_ends);
/// The first `limit` occurrences (all when negative).
Text replace(Budget& budget, const Text& text, const Text& from, const Text& to, int64_t limit);
Text change_case(Budget& budget, const Text& text, Case how);
Text join(Budget& budget, const Text& separator, const std::vector<Text>& parts);
/// Padded to `width` code points with `fill`; align '<', '>' or '^' (format's centring) or 'c'
/// (str.center's).
Text pad(Budget& budget, const Text& text, int64_t width, const std::string& fill, char align);

}  // namespace hlwq::jinja
