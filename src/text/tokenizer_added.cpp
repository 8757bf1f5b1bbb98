#include "text/tokenizer_added.h"

#include <algorithm>
#include <numeric>

#include "hlwq/error.h"
#include "text/unicode.h"

namespace hlwq::tok {
namespace {

constexpr size_t kMaxSpelling = 512;

bool word_before(std::string_view text, size_t pos) {
  if (pos == 0) return false;
  size_t start = pos - 1, length;
  while ((static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  return unicode::is_word(unicode::decode_at(text, start, length));
}

bool word_after(std::string_view text, size_t pos) {
  size_t length;
  return pos < text.size() && unicode::is_word(unicode::decode_at(text, pos, length));
}

size_t skip_space_back(std::string_view text, size_t pos) {
  while (pos > 0) {
    size_t start = pos - 1, length;
    while ((static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    if (!unicode::is_white_space(unicode::decode_at(text, start, length))) break;
    pos = start;
  }
  return pos;
}

size_t skip_space(std::string_view text, size_t pos) {
  size_t length;
  while (pos < text.size() && unicode::is_white_space(unicode::decode_at(text, pos, length))) pos += length;
  return pos;
}

}  // namespace

void AddedTokens::build(const std::vector<AddedToken>& tokens, const std::vector<std::string>& spellings,
                        const std::string& what) {
  // Sorted spellings make each node's edges contiguous when the trie is built level by level.
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < tokens.size(); ++i) {
    if (spellings[i].size() > kMaxSpelling)
      throw Error(ErrorCode::kUnsupported, what + ": an added token of " +
                                               std::to_string(spellings[i].size()) + " bytes (id " +
                                               std::to_string(tokens[i].id) + "); the longest supported is " +
                                               std::to_string(kMaxSpelling));
    if (!spellings[i].empty()) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return spellings[a] < spellings[b]; });
  // Of equal spellings the first one stays.
  order.erase(std::unique(order.begin(), order.end(),
                          [&](uint32_t a, uint32_t b) { return spellings[a] == spellings[b]; }),
              order.end());
  std::vector<std::string_view> keys;
  for (uint32_t i : order) {
    tokens_.push_back(tokens[i]);
    keys.push_back(spellings[i]);
  }

  struct Range {
    uint32_t node;
    size_t begin, end, depth;
  };
  nodes_.assign(1, Node{});
  std::vector<Range> queue{{0, 0, keys.size(), 0}};
  for (size_t q = 0; q < queue.size(); ++q) {
    Range r = queue[q];
    if (r.begin < r.end && keys[r.begin].size() == r.depth)
      nodes_[r.node].token = static_cast<int32_t>(r.begin++);
    nodes_[r.node].first_edge = static_cast<uint32_t>(edges_.size());
    while (r.begin < r.end) {
      const char byte = keys[r.begin][r.depth];
      size_t end = r.begin;
      while (end < r.end && keys[end][r.depth] == byte) ++end;
      const auto child = static_cast<uint32_t>(nodes_.size());
      nodes_.push_back({});
      edges_.push_back({static_cast<uint8_t>(byte), child});
      ++nodes_[r.node].edges;
      if (r.node == 0) root_[static_cast<uint8_t>(byte)] = child;
      queue.push_back({child, r.begin, end, r.depth + 1});
      r.begin = end;
    }
  }
}

bool AddedTokens::has_special() const {
  return std::any_of(tokens_.begin(), tokens_.end(), [](const AddedToken& t) { return t.special; });
}

int32_t AddedTokens::longest_at(std::string_view text, size_t pos, const Trust& trust, size_t& end,
                                bool& passed_over) const {
  uint32_t node = root_[static_cast<uint8_t>(text[pos])];
  int32_t best = -1;
  size_t doubted = 0;  // untrusted bytes in text[pos, at)
  for (size_t at = pos + 1; node; ++at) {
    if (trust.untrusted) doubted += (*trust.untrusted)[at - 1];
    if (const int32_t token = nodes_[node].token; token >= 0) {
      const bool special = tokens_[static_cast<size_t>(token)].special;
      const bool straddles = special && doubted > 0 && doubted < at - pos;
      if (!straddles) {
        best = token;
        end = at;
        passed_over = special && (!trust.special || doubted > 0);
      }
    }
    if (at == text.size()) break;
    const Node& n = nodes_[node];
    const auto* first = edges_.data() + n.first_edge;
    const auto* last = first + n.edges;
    const auto* e = std::lower_bound(first, last, static_cast<uint8_t>(text[at]),
                                     [](const Edge& a, uint8_t b) { return a.byte < b; });
    node = e != last && e->byte == static_cast<uint8_t>(text[at]) ? e->node : 0;
  }
  return best;
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text, const Trust& trust) const {
  std::vector<Part> parts;
  size_t done = 0;
  for (size_t pos = 0; pos < text.size() && !tokens_.empty();) {
    size_t match_end = pos;
    bool passed_over = false;
    const int32_t index = longest_at(text, pos, trust, match_end, passed_over);
    if (index < 0) {
      ++pos;
      continue;
    }
    size_t begin = pos, end = match_end;
    pos = match_end;
    if (passed_over) continue;
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    if (token.single_word && (word_before(text, begin) || word_after(text, end))) continue;
    if (token.lstrip) begin = std::max(skip_space_back(text, begin), done);
    if (token.rstrip) end = skip_space(text, end);
    if (done < begin) parts.push_back({done, begin, -1});
    parts.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
  return parts;
}

}  // namespace hlwq::tok
