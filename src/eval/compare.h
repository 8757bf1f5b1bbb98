// Many quantised variants of one model side by side: each is made, measured against the model and removed.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "eval/baselines.h"
#include "eval/perplexity.h"
#include "quant/policy.h"

namespace hlwq {

struct Variant {
  std::string name;
  std::optional<QuantPolicy> policy;           ///< an HLWQ checkpoint made by this policy, or
  std::optional<Baseline> baseline;            ///< rounded by this, or
  std::string gguf_type;                       ///< encoded by llama.cpp as this ("Q4_K_M"), or
  std::optional<std::filesystem::path> given;  ///< a model that is there already
};

/// A name of QuantPolicy::named, int4, nf4, a GGUF type ("q4_k_m"), a policy file (.json) or the path of a
/// model. Throws Error(kInvalidArgument) that lists the names; what QuantPolicy::from_json throws.
Variant parse_variant(const std::string& name);

struct CompareRow {
  std::string name;
  std::string family;          ///< what shares a line in a chart: "HLWQ", "HLWQ, 2 lags", "GGUF", "other"
  std::string missing;         ///< why there are no figures; empty when there are
  uint64_t weight_bytes = 0;   ///< of the text model, in the variant's own format
  double bits_per_weight = 0;  ///< over the matrices of the text model, scales and norms included
  EvalResult result;
};

class Comparison {
 public:
  /// Variants are made in a new directory inside `work`, removed at the end. `llama_quantize` is the command
  /// for GGUF types, words apart by spaces; empty: llama-quantize on the PATH. All references must outlive
  /// this. Throws as Evaluator does.
  Comparison(const Model& base, Engine& engine, std::span<const int32_t> text, const EvalOptions& options,
             const std::filesystem::path& work, std::string llama_quantize);
  ~Comparison();
  Comparison(const Comparison&) = delete;

  /// `making` counts what quantising does, `evaluating` windows. A variant whose tool isn't there gives a row
  /// that says so; whatever else fails throws.
  CompareRow run(const Variant& variant, const Progress& making, const Progress& evaluating);

 private:
  CompareRow measure(const Variant& variant, const std::filesystem::path& path,
                     const std::map<std::string, uint64_t>& coded, const Progress& progress);

  const Model& base_;
  Engine& engine_;
  KvSettings kv_;
  Evaluator evaluator_;
  std::filesystem::path directory_;
  std::string llama_quantize_;
};

}  // namespace hlwq
