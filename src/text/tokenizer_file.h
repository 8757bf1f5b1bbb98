// Reads tokenizer.json in one pass: the vocabulary and the merges stream into flat tables, the rest becomes
// Json.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/bpe.h"

namespace hlwq::tok {

struct TokenizerFile {
  Json rest;  ///< the document without model.vocab (when an object) and model.merges
  Vocab vocab;
  bool has_vocab = false;

  /// merges, unresolved: two spellings in one arena
  struct MergeText {
    size_t begin;
    uint32_t left, right;  ///< lengths; the right one follows the left one
  };
  std::string merge_arena;
  std::vector<MergeText> merges;

  /// Ids above this would make tables much larger than the file; checked for vocabulary and added tokens.
  int64_t max_id = 0;
};

/// Throws Error(kInvalidFile) naming the place.
TokenizerFile read_tokenizer_file(std::string_view text, const std::string& what);

}  // namespace hlwq::tok
