// Added tokens: found in the text before anything else splits it, leftmost and longest first.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace hlwq::tok {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< and after it
  bool normalized = false;   ///< sought in the normalised text
  bool special = false;
};

/// Where special tokens may be recognised in a text.
struct Trust {
  bool special = true;                              ///< anywhere at all
  const std::vector<uint8_t>* untrusted = nullptr;  ///< 1 per byte where not; null: everywhere
};

/// One trie of added tokens. Immutable after build().
class AddedTokens {
 public:
  struct Part {
    size_t begin, end;
    int32_t id;  ///< -1: text between tokens
  };

  /// `spellings[i]` is what to look for in place of tokens[i].content.
  /// Throws Error(kUnsupported) for a spelling longer than 512 bytes: matching time is bounded by text times
  /// spelling.
  void build(const std::vector<AddedToken>& tokens, const std::vector<std::string>& spellings,
             const std::string& what);
  bool empty() const { return tokens_.empty(); }
  bool has_special() const;
  /// Cuts `text` (valid UTF-8) into tokens and the text between them. A special token in untrusted text is
  /// passed over as ordinary text; one that straddles a border of trust is not seen at all, so it cannot hide
  /// a trusted one.
  std::vector<Part> split(std::string_view text, const Trust& trust) const;

 private:
  struct Node {
    uint32_t first_edge = 0;
    uint16_t edges = 0;
    int32_t token = -1;  // index in tokens_
  };
  struct Edge {
    uint8_t byte;
    uint32_t node;
  };
  /// The longest token at `pos` that `trust` lets be seen, or -1; `end` gets its end.
  int32_t longest_at(std::string_view text, size_t pos, const Trust& trust, size_t& end,
                     bool& passed_over) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  uint32_t root_[256] = {};  // node for each first byte, 0 = none
};

}  // namespace hlwq::tok
