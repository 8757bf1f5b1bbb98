// The decoders of tokenizer.json, as streams: token spellings in, text out as soon as it is certain.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace hlwq::tok {

/// One stage at work on one sequence of tokens; not shared.
class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  /// Takes one token (or, after a stage that fuses, the next part of the only token); appends what is
  /// certain.
  virtual void push(std::string_view token, std::vector<std::string>& out) = 0;
  virtual void finish(std::vector<std::string>& out) = 0;
};

/// A decoder's description; immutable, shared between threads.
class Decoder {
 public:
  virtual ~Decoder() = default;
  /// in_parts: what arrives are parts of one token rather than tokens.
  virtual std::unique_ptr<DecodeStage> start(bool in_parts) const = 0;
  /// Whether its output is parts of one token.
  virtual bool fuses(bool in_parts) const = 0;
};

/// For JSON null: the tokens with a space between. Throws Error(kUnsupported) naming an unknown type,
/// Error(kInvalidFile) for bad fields.
std::unique_ptr<Decoder> make_decoder(const Json& spec, const std::string& what);

}  // namespace hlwq::tok
