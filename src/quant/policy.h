// Which tensors are quantised, and how finely: policies from names, widths and JSON files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tensor.h"
#include "quant/layout.h"

namespace hlwq {

/// What becomes of one tensor: a format, or none and the reason why it stays as it is.
struct QuantDecision {
  std::optional<HlwqFormat> format;
  std::string reason;  ///< "norm", "vision or audio part"...; empty when quantised
  /// True when the policy wanted it quantised and its shape forbids it: worth telling the user.
  bool unfit = false;
};

/// Maps tensors to formats. Only weights of linears and embeddings ever qualify (see why_not_eligible),
/// whatever a policy says: norms, biases, routers, convolutions, position tables, vision and audio towers
/// stay as they are.
class QuantPolicy {
 public:
  /// "default": 5 bits, 6 for the token embedding and lm_head (not for per-layer embedding tables).
  /// "q2".."q8": one width for all. "published": the published mixed assignment (embedding 5, lm_head 6,
  /// q/k/v 5, o 6, gate/up 3, down 4). A suffix "-l2" or "-l3" asks for coupled codebooks with that many lags
  /// wherever the width has them ("q4-l2"). Throws Error(kInvalidArgument) listing the names.
  static QuantPolicy named(std::string_view name);

  /// {"default": {"bits": 5}, "rules": [{"match": "*.down_proj.weight", "bits": 4, "lags": 2, "block": 64},
  /// ...]}, or
  /// the bare list of rules; "about" may hold anything and is ignored. "match" is a glob (* and ?) over the
  /// whole tensor name, or "re:" and an ECMAScript regular expression found anywhere in it; the first match
  /// wins; "bits": null keeps the tensor; no match takes the default (5 bits). Throws Error(kInvalidFile)
  /// naming `what` and the rule.
  static QuantPolicy from_json(std::string_view text, const std::string& what);

  /// A block of 128 with zero padding when `pad`, otherwise natural_block(cols); a rule's block is taken as
  /// it is.
  QuantDecision decide(const Tensor& tensor, bool pad) const;

  const std::string& name() const { return name_; }

 private:
  struct Choice {
    std::optional<int> bits;  // none: keep
    int block = 0;            // 0: natural
    int lags = 1;
  };
  enum class Match { kSubstring, kSuffix, kGlob, kRegex };
  struct Rule {
    Match kind;
    std::string pattern;
    Choice choice;
  };
  static bool matches(const Rule& rule, const std::string& name);

  std::string name_;
  std::vector<Rule> rules_;
  Choice default_{5, 0};
};

/// Why a tensor is never quantised ("norm", "router", "bias"...), or "" when it may be: a float matrix (or
/// stacked expert matrices, rows = all leading dimensions) that is the weight of a linear or an embedding.
std::string why_not_eligible(const Tensor& tensor);

/// * matches any run of characters, ? any one; the whole of `text` must match.
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace hlwq
