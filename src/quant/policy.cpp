#include "quant/policy.h"

#include <algorithm>
#include <array>
#include <regex>

#include "base/json.h"
#include "hlwq/error.h"
#include "quant/codec.h"

namespace hlwq {
namespace {

constexpr size_t kMaxNameForRegex = 4096;  // std::regex recurses once a character

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

template <size_t n>
bool contains_any(std::string_view text, const std::array<std::string_view, n>& parts) {
  return std::any_of(parts.begin(), parts.end(), [&](std::string_view p) { return contains(text, p); });
}

std::string lowered(std::string_view text) {
  std::string s(text);
  for (char& c : s)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return s;
}

[[noreturn]] void bad(const std::string& what, const std::string& why) {
  throw Error(ErrorCode::kInvalidFile, what + ": " + why);
}

int integer(const Json& value, const std::string& what, const char* key) {
  if (!value.is_number_integer()) bad(what, std::string("\"") + key + "\" must be an integer");
  const auto n = value.get<int64_t>();
  if (n < 0 || n > 1024) bad(what, std::string("\"") + key + "\" is out of range: " + std::to_string(n));
  return static_cast<int>(n);
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view text) {
  // On a mismatch the last star takes one character more; earlier stars never need to be revisited.
  size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t]) && pattern[p] != '*') {
      ++p, ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::string why_not_eligible(const Tensor& tensor) {
  if (!info(tensor.dtype).is_float) return "not a float tensor";
  if (tensor.shape.size() < 2) return contains(tensor.name, "norm") ? "norm" : "vector or scalar";
  if (tensor.shape.size() > 3) return "more than three dimensions";
  const std::string name = lowered(tensor.name);
  static constexpr std::array<std::string_view, 9> kTowers = {
      "vision_tower", "vision_model", "embed_vision",          "audio_tower", "embed_audio",
      "audio_model",  "visual.",      "multi_modal_projector", "mm_projector"};
  if (contains_any(name, kTowers)) return "vision or audio part";
  static constexpr std::array<std::string_view, 5> kPositions = {"position_embedding", "embed_positions",
                                                                 "pos_embed", ".wpe.", "rotary"};
  if (contains_any(name, kPositions)) return "position table";
  if (contains(name, "norm")) return "norm";
  if (contains(name, "conv") || contains(name, "patch_embed")) return "convolution";
  if (contains(name, "router") || name.ends_with("mlp.gate.weight") ||
      name.ends_with("block_sparse_moe.gate.weight"))
    return "router";
  if (name.ends_with("bias")) return "bias";
  if (contains(name, "a_log") || contains(name, "dt_proj") || contains(name, "dt_bias"))
    return "state space parameter";
  const bool stacked_experts = tensor.shape.size() == 3;
  if (stacked_experts && !contains(name, "expert")) return "three dimensions, but not stacked experts";
  if (!stacked_experts && !name.ends_with(".weight")) return "not a linear or an embedding";
  if (tensor.rows() == 0 || tensor.cols() == 0) return "empty";
  return {};
}

QuantPolicy QuantPolicy::named(std::string_view full_name) {
  QuantPolicy p;
  p.name_ = std::string(full_name);
  int lags = 1;
  std::string_view name = full_name;
  for (const int n : {2, 3})
    if (name.ends_with("-l" + std::to_string(n))) {
      lags = n;
      name.remove_suffix(3);
    }
  const auto choice = [lags](int bits) {
    int n = lags;
    while (!has_standard_codebook(bits, n)) --n;
    return Choice{bits, 0, n};
  };
  const auto add = [&](Match kind, const char* pattern, int bits) {
    p.rules_.push_back({kind, pattern, choice(bits)});
  };
  p.default_ = choice(5);
  if (name == "default") {
    // Of Q5's error in the output distribution the embedding makes far more than its share of the parameters.
    for (const char* suffix : {"embed_tokens.weight", "lm_head.weight", "wte.weight",
                               "word_embeddings.weight", "embed_out.weight"})
      add(Match::kSuffix, suffix, 6);
    return p;
  }
  if (name == "published") {
    for (const auto& [part, bits] : std::initializer_list<std::pair<const char*, int>>{{"gate_up_proj", 3},
                                                                                       {"gate_proj", 3},
                                                                                       {"down_proj", 4},
                                                                                       {"out_proj", 6},
                                                                                       {"lm_head", 6},
                                                                                       {"in_proj", 5},
                                                                                       {"up_proj", 3},
                                                                                       {"o_proj", 6},
                                                                                       {"q_proj", 5},
                                                                                       {"k_proj", 5},
                                                                                       {"v_proj", 5},
                                                                                       {"embed", 5}})
      add(Match::kSubstring, part, bits);
    return p;
  }
  if (name.size() == 2 && (name[0] == 'q' || name[0] == 'Q') && name[1] >= '2' && name[1] <= '8') {
    p.default_ = choice(name[1] - '0');
    return p;
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      "no quantization policy is called \"" + p.name_ +
          "\": use default, published, q2 to q8, one of these with -l2 or -l3, or a JSON file of rules");
}

QuantPolicy QuantPolicy::from_json(std::string_view text, const std::string& what) {
  const Json json = parse_json(text, what, {.max_bytes = 4u << 20, .max_depth = 8});
  QuantPolicy p;
  p.name_ = "custom";
  const auto choice = [](const Json& from, const std::string& where) {
    Choice c;
    if (!from.is_object()) bad(where, "must be an object");
    if (!from.contains("bits"))
      bad(where, "\"bits\" is missing: give 2 to 8, or null to keep the tensor as it is");
    if (!from["bits"].is_null()) {
      c.bits = integer(from["bits"], where, "bits");
      if (*c.bits < 2 || *c.bits > 8)
        bad(where, "\"bits\" must be 2 to 8, or null to keep the tensor as it is");
    }
    if (from.contains("lags")) {
      c.lags = integer(from["lags"], where, "lags");
      if (c.bits && !has_standard_codebook(*c.bits, c.lags))
        bad(where, "\"lags\" must be 1; 2 for 2 to 6 bits; or 3 for 2 to 4 bits");
    }
    if (from.contains("block")) {
      c.block = integer(from["block"], where, "block");
      if (!valid(HlwqFormat{5, 1, c.block})) bad(where, "\"block\" must be 32, 64, 128, 256 or 512");
    }
    for (const auto& [key, value] : from.items())
      if (key != "bits" && key != "block" && key != "lags" && key != "match")
        bad(where, "unknown key \"" + key + "\"");
    return c;
  };
  const Json* rules = &json;
  if (json.is_object()) {
    for (const auto& [key, value] : json.items())
      if (key != "default" && key != "rules" && key != "about")
        bad(what, "unknown key \"" + key + "\"; a policy has \"default\", \"rules\" and \"about\"");
    if (json.contains("default")) p.default_ = choice(json["default"], what + ", default");
    static const Json kNone = Json::array();
    rules = json.contains("rules") ? &json["rules"] : &kNone;
  }
  if (!rules->is_array()) bad(what, "a policy is {\"default\": ..., \"rules\": [...]} or a list of rules");
  for (size_t i = 0; i < rules->size(); ++i) {
    const Json& rule = (*rules)[i];
    const std::string where = what + ", rule " + std::to_string(i + 1);
    if (!rule.is_object() || !rule.contains("match") || !rule["match"].is_string())
      bad(where, "must be an object with a string \"match\"");
    Rule r{Match::kGlob, rule["match"].get<std::string>(), choice(rule, where)};
    if (r.pattern.starts_with("re:")) {
      r.kind = Match::kRegex;
      r.pattern.erase(0, 3);
      try {
        std::regex(r.pattern, std::regex::ECMAScript);
      } catch (const std::regex_error& e) {
        bad(where, "the regular expression \"" + r.pattern + "\" is malformed: " + e.what());
      }
    }
    p.rules_.push_back(std::move(r));
  }
  return p;
}

bool QuantPolicy::matches(const Rule& rule, const std::string& name) {
  switch (rule.kind) {
    case Match::kSubstring:
      return contains(name, rule.pattern);
    case Match::kSuffix:
      return name.ends_with(rule.pattern);
    case Match::kGlob:
      return glob_match(rule.pattern, name);
    case Match::kRegex:
      break;
  }
  if (name.size() > kMaxNameForRegex) return false;
  try {
    return std::regex_search(name, std::regex(rule.pattern, std::regex::ECMAScript));
  } catch (const std::regex_error& e) {
    throw Error(ErrorCode::kInvalidArgument, "the regular expression \"" + rule.pattern +
                                                 "\" is too complex for \"" + name + "\": " + e.what());
  }
}

QuantDecision QuantPolicy::decide(const Tensor& tensor, bool pad) const {
  if (std::string why = why_not_eligible(tensor); !why.empty()) return {std::nullopt, std::move(why), false};
  const auto rule =
      std::find_if(rules_.begin(), rules_.end(), [&](const Rule& r) { return matches(r, tensor.name); });
  const Choice& choice = rule != rules_.end() ? rule->choice : default_;
  if (!choice.bits) return {std::nullopt, "kept by the policy", false};
  int block = choice.block;
  if (block == 0) block = pad ? 128 : natural_block(tensor.cols());
  if (block == 0)
    return {std::nullopt,
            "its " + std::to_string(tensor.cols()) + " columns are no multiple of 32, and padding is off",
            true};
  return {HlwqFormat{*choice.bits, choice.lags, block}, {}, false};
}

}  // namespace hlwq
