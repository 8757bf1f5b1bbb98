// Where the reference tokenizer's Unicode tables are newer or older than those of PCRE2 and utf8proc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

namespace hlwq::unicode {

struct Range {
  uint32_t first, last;
};

/// Characters that Unicode 15 and 16 gave to a category ("Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "Nd", "P",
/// "S") or to the script "Han", and that PCRE2 10.42 does not know; empty for other names.
std::span<const Range> newer_characters(std::string_view category);
/// All of those together.
std::span<const Range> newer_characters();
/// Numbers newer than Unicode 14.
std::span<const Range> newer_numeric();
/// Characters with a combining class or a decomposition that the reference's normalizers (about Unicode 9)
/// leave alone.
std::span<const Range> unnormalized_characters();

inline bool contains(std::span<const Range> table, uint32_t c) {
  const auto it =
      std::lower_bound(table.begin(), table.end(), c, [](const Range& r, uint32_t v) { return r.last < v; });
  return it != table.end() && it->first <= c;
}

}  // namespace hlwq::unicode
