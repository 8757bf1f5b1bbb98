// From logits to the next token.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/json.h"

namespace hlwq {

/// Hugging Face's and OpenAI's names and meanings. Order: bias, penalties, temperature, top-k, top-p, min-p.
struct SamplingParams {
  float temperature = 1;         ///< 0: greedy
  int top_k = 0;                 ///< keep the k likeliest; 0: all
  float top_p = 1;               ///< keep the smallest set with this much probability
  float min_p = 0;               ///< keep what has at least this fraction of the top probability
  float repetition_penalty = 1;  ///< divides positive, multiplies negative logits of every token seen
  float presence_penalty = 0;    ///< subtracted once from each token generated
  float frequency_penalty = 0;   ///< subtracted per occurrence among the generated tokens
  std::map<int32_t, float> logit_bias = {};
  uint64_t seed = 0;
};

/// Defaults from generation_config.json (do_sample false means greedy); keys that are absent keep the
/// struct's values. Throws Error(kInvalidFile) for values out of range.
SamplingParams sampling_defaults(const OrderedJson& generation_config);
/// Throws Error(kInvalidArgument) naming the parameter that is out of range.
void validate(const SamplingParams& params);

class Sampler {
 public:
  explicit Sampler(const SamplingParams& params);
  /// Counts a prompt token (repetition penalty).
  void see_prompt(std::span<const int32_t> ids);
  /// Chooses the next token from raw logits and counts it as generated. Same seed, same logits: same tokens.
  int32_t sample(std::span<const float> logits);
  /// Counts a token that was chosen elsewhere as generated.
  void see_generated(int32_t id) { ++seen_[id].generated; }

 private:
  SamplingParams params_;
  std::mt19937_64 random_;
  struct Count {
    bool prompt = false;
    uint32_t generated = 0;
  };
  std::unordered_map<int32_t, Count> seen_;
  std::vector<float> work_;
  std::vector<int32_t> order_;
};

struct TokenLogprob {
  int32_t id;
  float logprob;
};
/// log-softmax of the raw logits at `id`, and of the `top` likeliest tokens, likeliest first.
struct TokenLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;
};
TokenLogprobs token_logprobs(std::span<const float> logits, int32_t id, int top);

}  // namespace hlwq
