// Text <-> token ids, from tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace hlwq {

/// Immutable once made; shared between threads.
class Tokenizer {
 public:
  /// From the text of a tokenizer.json. Throws Error(kInvalidFile | kUnsupported) naming the component.
  static std::shared_ptr<const Tokenizer> from_json(std::string_view text, const std::string& what);
  virtual ~Tokenizer() = default;

  /// add_special: apply the post-processor (BOS and the like).
  /// parse_special: spell special tokens in `text` out to their ids (template output); false for user text,
  /// which then can never become a special token. Added tokens that are not special are matched either way.
  /// Invalid UTF-8 is replaced by U+FFFD first. Same ids as the PyPI package `tokenizers`.
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special, bool parse_special) const = 0;
  /// Text with some spans allowed to hold special tokens and others not (chat templates with user text
  /// inside).
  struct Piece {
    std::string text;
    bool trusted;  ///< special tokens are recognised in it
  };
  /// Encodes the concatenation as one text; special tokens are recognised only inside trusted pieces.
  virtual std::vector<int32_t> encode_pieces(std::span<const Piece> pieces) const = 0;

  virtual std::string decode(std::span<const int32_t> ids, bool skip_special) const = 0;
  virtual int32_t vocab_size() const = 0;                 ///< highest id + 1
  virtual std::string id_to_token(int32_t id) const = 0;  ///< the vocabulary's spelling; "" when out of range
  virtual int32_t token_to_id(std::string_view token) const = 0;  ///< -1 when absent
  virtual bool is_special(int32_t id) const = 0;

  /// Decodes a stream: push(id) returns the text that is now certain, never half a character; finish() the
  /// rest. The concatenation equals decode() of all ids.
  class Stream {
   public:
    virtual ~Stream() = default;
    virtual std::string push(int32_t id) = 0;
    virtual std::string finish() = 0;
  };
  virtual std::unique_ptr<Stream> stream(bool skip_special) const = 0;
};

/// A tokenizer.json document equal to the tokenizer embedded in a GGUF file (tokenizer.ggml.*: "gpt2"
/// byte-level BPE with its `pre` type, "llama" SentencePiece BPE with scores). Throws Error(kUnsupported)
/// naming an unknown kind.
std::string tokenizer_json_from_gguf(const Json& metadata);

}  // namespace hlwq
