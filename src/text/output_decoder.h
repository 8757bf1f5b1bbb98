// Generated token ids in, events out: a tokenizer's stream and an output parser in step.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "text/output_parser.h"
#include "text/tokenizer.h"

namespace hlwq {

class OutputDecoder {
 public:
  /// skip_special: special tokens that are no markers leave no text. expect_calls: see OutputParser. The
  /// tokenizer must outlive this.
  OutputDecoder(const Tokenizer& tokenizer, OutputFormat format, bool skip_special, bool expect_calls = true);

  /// Looks whether the prompt ends in an opened thought (some templates' generation prompts do); call it
  /// before the first push.
  void see_prompt(std::span<const int32_t> prompt);

  std::vector<OutputEvent> push(int32_t id);
  std::vector<OutputEvent> finish();

  bool thinking() const { return parser_.thinking(); }
  /// The tokens that close a thought; empty where the format has none.
  std::vector<int32_t> closing_ids() const;

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  OutputParser parser_;
  std::unique_ptr<Tokenizer::Stream> stream_;
};

}  // namespace hlwq
