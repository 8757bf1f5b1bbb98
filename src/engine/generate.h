// Prompt in, text out: the decode loop, with stop strings, stop tokens, logprobs and streaming.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "engine/session.h"

namespace hlwq {

struct GenerateOptions {
  SamplingParams sampling;
  int64_t max_tokens = -1;        ///< -1: until a stop or the end of the context
  std::vector<std::string> stop;  ///< generation ends before the first of these in the text
  std::set<int32_t> stop_ids;     ///< usually stop_tokens(model); empty: never stop
  int logprobs = -1;              ///< >= 0: report the chosen token's and this many top tokens' logprobs
  bool skip_special = true;       ///< special tokens are left out of the text
  const std::atomic<bool>* cancelled = nullptr;
  Progress prefill;  ///< progress of reading the prompt
};

struct GenerateTiming {
  uint64_t prefill_tokens = 0, decode_tokens = 0;
  double prefill_s = 0, decode_s = 0;
};

struct GenerateResult {
  std::vector<int32_t> ids;             ///< every token sampled, a final stop token included
  std::string text;                     ///< without stop tokens, cut before a stop string
  std::string finish_reason;            ///< "stop", "length" (max_tokens or context end) or "cancelled"
  std::vector<TokenLogprobs> logprobs;  ///< one per id when asked for
  GenerateTiming timing;
};

/// Sets the session to `prompt` (reusing what it shares with what is there) and generates. `on_text` gets
/// pieces of text as soon as they are certain; their concatenation is result.text. The session ends holding
/// prompt + ids, except a token that was sampled last and never fed. Without a tokenizer the text stays
/// empty. Throws Error(kContextFull) when the prompt, or prompt + max_tokens, does not fit.
GenerateResult generate(Session& session, std::span<const int32_t> prompt, const GenerateOptions& options,
                        const std::function<void(const std::string&)>& on_text = {});

/// Ids that end a generation: generation_config's eos_token_id, else config's, plus tokenizer_config's
/// eos_token.
std::set<int32_t> stop_tokens(const Model& model);

/// Finds stop strings in streamed text, holding back only what may be the beginning of one.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  /// Text that can be shown after `piece` has arrived; stopped() tells when a stop string was met.
  std::string push(const std::string& piece);
  std::string finish();  ///< what was held back
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace hlwq
