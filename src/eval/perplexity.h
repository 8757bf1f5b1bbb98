// Perplexity, and KL divergence and top-1 agreement against a base model, over windows of a text.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "engine/engine.h"
#include "model/model.h"

namespace hlwq {

struct EvalOptions {
  uint64_t window = 512;  ///< tokens per window, BOS included
  uint64_t stride =
      0;  ///< tokens between window starts; 0: window - 1 (no overlap, each token predicted once)
  uint64_t max_windows = 0;  ///< 0: all
  int32_t bos =
      -1;  ///< put first in every window; -1: none (then the first token of a window isn't predicted)
  KvSettings kv = {};       ///< of the model
  KvSettings base_kv = {};  ///< of the base
};

struct EvalResult {
  uint64_t windows = 0, tokens = 0;  ///< tokens predicted
  double nll = 0, ppl = 0;           ///< mean over tokens, nats
  double seconds = 0;                ///< of the evaluated model alone
  // Against the base model, when one was given:
  bool has_base = false;
  double base_nll = 0, base_ppl = 0;
  double kl_mean = 0, kl_median = 0, kl_p99 = 0;  ///< KL(base || model) in nats per token
  double top1 = 0;  ///< fraction of tokens where both models' likeliest token is the same
};

/// Windows start every `stride` tokens; in each, only tokens that no earlier window predicted count.
/// The base, when given, must have the same vocabulary. Throws Error(kInvalidArgument) for too little text.
EvalResult evaluate(const Model& model, const Model* base, Engine& engine, std::span<const int32_t> text,
                    const EvalOptions& options, const Progress& progress = {});

/// The BOS to use in windows: tokenizer_config's / config's bos_token_id; -1 when the model has none.
int32_t bos_token(const Model& model);

}  // namespace hlwq
