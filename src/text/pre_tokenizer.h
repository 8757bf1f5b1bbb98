// The pre-tokenizers of tokenizer.json: text -> words.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace hlwq::tok {

/// Text that lives as long as the arena.
class TextArena {
 public:
  char* allocate(size_t bytes);
  std::string_view keep(std::string_view text);

 private:
  std::vector<std::unique_ptr<char[]>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

struct Word {
  std::string_view text;  ///< valid UTF-8, not empty
  bool at_start;          ///< begins where the whole input begins
};

/// Immutable; shared between threads.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Appends the words that `word` splits into.
  virtual void split(const Word& word, TextArena& arena, std::vector<Word>& out) const = 0;
};

/// Null for JSON null. Throws Error(kUnsupported) naming an unknown type, Error(kInvalidFile) for bad fields.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Json& spec, const std::string& what);

/// The visible character that byte-level vocabularies write for a byte.
uint32_t byte_level_char(unsigned char byte);

}  // namespace hlwq::tok
