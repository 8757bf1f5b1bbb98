// Perplexity, and KL divergence and top-1 agreement against a base model, over windows of a text.
#pragma once

#include <cstdint>
#include <memory>
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

/// Evaluates models one after another over the same windows of a text. Windows start every `stride` tokens;
/// in each, only tokens that no earlier window predicted count.
class Evaluator {
 public:
  /// `base` may be null; it and `text` must outlive this. Final hidden states of the base are kept from the
  /// first run on, up to `keep_bytes`: later runs then need only its logits. Throws Error(kInvalidArgument)
  /// for too little text or a window that the base doesn't take.
  Evaluator(const Model* base, Engine& engine, std::span<const int32_t> text, const EvalOptions& options,
            uint64_t keep_bytes = 0);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;

  /// The model's cache is `kv`. Throws Error(kInvalidArgument) for a vocabulary that isn't the base's.
  EvalResult run(const Model& model, const KvSettings& kv, const Progress& progress = {});

 private:
  class Runner;
  void read_base(uint64_t k, std::span<const int32_t> window);

  const Model* base_;
  Engine& engine_;
  std::span<const int32_t> text_;
  EvalOptions options_;
  uint64_t keep_bytes_;
  std::unique_ptr<Runner> base_runner_;
  std::vector<std::vector<float>> base_states_;  ///< of the first windows
};

/// One model, with options.kv.
EvalResult evaluate(const Model& model, const Model* base, Engine& engine, std::span<const int32_t> text,
                    const EvalOptions& options, const Progress& progress = {});

}  // namespace hlwq
