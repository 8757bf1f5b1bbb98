// Prompt in, answer out: the decode loop, with stop strings, stop tokens, thoughts, tool calls, logprobs and
// streaming.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "engine/session.h"
#include "text/output_format.h"

namespace hlwq {

struct ToolCall {
  std::string id;  ///< 9 letters and digits (some templates insist), the same for the same prompt and place
  std::string name;
  OrderedJson arguments;  ///< an object
};

struct GenerateOptions {
  SamplingParams sampling;
  int64_t max_tokens = -1;  ///< -1: until a stop or the end of the context
  /// Generation ends before the first of these in the answer's text (not in thoughts or calls).
  std::vector<std::string> stop;
  std::set<int32_t> stop_ids;  ///< usually stop_tokens(model); empty: never stop
  int logprobs = -1;           ///< >= 0: report the chosen token's and this many top tokens' logprobs
  bool skip_special = true;    ///< special tokens are left out of the text
  const std::atomic<bool>* cancelled = nullptr;
  Progress prefill;  ///< progress of reading the prompt

  /// How thoughts and calls are told from text: chat_format(model) for a chat; absent: everything is text.
  std::optional<OutputFormat> format;
  bool expect_calls = true;      ///< tools were declared (see OutputParser)
  int64_t thinking_budget = -1;  ///< >= 0: thoughts are closed by force after this many tokens in all
  std::function<void(const std::string&)> on_thinking;  ///< as on_text, for thoughts
  std::function<void(const ToolCall&)> on_tool_call;
};

struct GenerateTiming {
  uint64_t prefill_tokens = 0, decode_tokens = 0;
  double prefill_s = 0, decode_s = 0;
};

struct GenerateResult {
  /// Every token sampled or forced (the end of a thought over its budget), a final stop token included.
  std::vector<int32_t> ids;
  std::string text;  ///< the visible answer, without stop tokens, cut before a stop string
  std::string thinking;
  std::vector<ToolCall> tool_calls;  ///< the complete ones
  std::string cut_call;              ///< the source of a call that the end of the answer cut off
  std::vector<std::string> notes;    ///< why parts of the text that look like calls are none
  uint64_t thinking_tokens = 0;
  bool thinking_cut = false;  ///< a thought was closed because of the budget
  /// "stop", "tool_calls" (a stop token after calls), "length" (max_tokens or context end) or "cancelled"
  std::string finish_reason;
  std::vector<TokenLogprobs> logprobs;  ///< one per id when asked for
  GenerateTiming timing;
};

/// Sets the session to `prompt` (reusing what it shares with what is there) and generates. `on_text` gets
/// pieces of text as soon as they are certain; their concatenation is result.text. The session ends holding
/// prompt + ids, except a token that was sampled last and never fed. Without a tokenizer the text stays
/// empty. Throws Error(kContextFull) when the prompt, or prompt + max_tokens, does not fit.
GenerateResult generate(Session& session, const Prompt& prompt, const GenerateOptions& options,
                        const std::function<void(const std::string&)>& on_text = {});
GenerateResult generate(Session& session, std::span<const int32_t> prompt, const GenerateOptions& options,
                        const std::function<void(const std::string&)>& on_text = {});

/// Ids that end a generation: generation_config's eos_token_id, else config's, plus tokenizer_config's
/// eos_token, plus the tokens that end a turn in the model's chat format.
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
