#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace hlwq {
namespace {

template <class T>
void take_number(const OrderedJson& config, const char* key, T& value) {
  if (!config.is_object() || !config.contains(key) || config[key].is_null()) return;
  if (!config[key].is_number())
    throw Error(ErrorCode::kInvalidFile, std::string("generation_config.json: ") + key + " is not a number");
  value = static_cast<T>(config[key].get<double>());
}

[[noreturn]] void out_of_range(const char* name, const char* range) {
  throw Error(ErrorCode::kInvalidArgument, std::string(name) + " must be " + range);
}

// 53 random bits in [0, 1): the same on every platform, unlike std::uniform_real_distribution.
double uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

}  // namespace

SamplingParams sampling_defaults(const OrderedJson& config) {
  SamplingParams p;
  take_number(config, "temperature", p.temperature);
  take_number(config, "top_k", p.top_k);
  take_number(config, "top_p", p.top_p);
  take_number(config, "min_p", p.min_p);
  take_number(config, "repetition_penalty", p.repetition_penalty);
  if (config.is_object() && config.contains("do_sample") && config["do_sample"] == false) p.temperature = 0;
  try {
    validate(p);
  } catch (const Error& e) {
    throw Error(ErrorCode::kInvalidFile, std::string("generation_config.json: ") + e.what());
  }
  return p;
}

void validate(const SamplingParams& p) {
  if (!(p.temperature >= 0) || !std::isfinite(p.temperature))
    out_of_range("temperature", "0 (greedy) or more");
  if (p.top_k < 0) out_of_range("top_k", "0 (off) or more");
  if (!(p.top_p > 0 && p.top_p <= 1)) out_of_range("top_p", "above 0 and at most 1");
  if (!(p.min_p >= 0 && p.min_p <= 1)) out_of_range("min_p", "between 0 and 1");
  if (!(p.repetition_penalty > 0) || !std::isfinite(p.repetition_penalty))
    out_of_range("repetition_penalty", "above 0");
  if (!std::isfinite(p.presence_penalty)) out_of_range("presence_penalty", "a finite number");
  if (!std::isfinite(p.frequency_penalty)) out_of_range("frequency_penalty", "a finite number");
  for (const auto& [id, bias] : p.logit_bias)
    if (std::isnan(bias)) out_of_range("logit_bias", "a number");
}

Sampler::Sampler(const SamplingParams& params) : params_(params), random_(params.seed) { validate(params); }

void Sampler::see_prompt(std::span<const int32_t> ids) {
  for (int32_t id : ids) seen_[id].prompt = true;
}

int32_t Sampler::sample(std::span<const float> logits) {
  work_.assign(logits.begin(), logits.end());
  const auto in_range = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < work_.size(); };
  for (const auto& [id, bias] : params_.logit_bias)
    if (in_range(id)) work_[static_cast<size_t>(id)] += bias;
  for (const auto& [id, count] : seen_) {
    if (!in_range(id)) continue;
    float& x = work_[static_cast<size_t>(id)];
    if (params_.repetition_penalty != 1)
      x = x > 0 ? x / params_.repetition_penalty : x * params_.repetition_penalty;
    if (count.generated)
      x -= params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count.generated);
  }
  const auto best = static_cast<int32_t>(std::max_element(work_.begin(), work_.end()) - work_.begin());
  int32_t chosen = best;
  if (params_.temperature > 0) {
    order_.resize(work_.size());
    std::iota(order_.begin(), order_.end(), 0);
    // Ties are broken by id, so that the order never depends on the sort.
    const auto likelier = [&](int32_t a, int32_t b) {
      const float x = work_[static_cast<size_t>(a)], y = work_[static_cast<size_t>(b)];
      return x != y ? x > y : a < b;
    };
    size_t kept = params_.top_k > 0 ? std::min<size_t>(order_.size(), static_cast<size_t>(params_.top_k))
                                    : order_.size();
    const bool need_order = params_.top_p < 1;
    if (kept < order_.size())
      std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(kept), order_.end(),
                        likelier);
    else if (need_order)
      std::sort(order_.begin(), order_.end(), likelier);
    const double top = work_[static_cast<size_t>(best)];
    std::vector<double> p(kept);
    double sum = 0;
    for (size_t i = 0; i < kept; ++i)
      sum += p[i] =
          std::exp((static_cast<double>(work_[static_cast<size_t>(order_[i])]) - top) / params_.temperature);
    if (need_order) {
      double cumulative = 0;
      size_t n = 0;
      while (n < kept && cumulative < params_.top_p * sum) cumulative += p[n++];
      kept = std::max<size_t>(n, 1);
    }
    if (params_.min_p > 0)  // p of the likeliest is 1 here; drop the rest in place
      for (size_t i = 0; i < kept; ++i)
        if (p[i] < params_.min_p) p[i] = 0;
    sum = std::accumulate(p.begin(), p.begin() + static_cast<std::ptrdiff_t>(kept), 0.0);
    double point = uniform(random_) * sum;
    for (size_t i = 0; i < kept; ++i) {
      if (p[i] == 0) continue;
      chosen = order_[i];
      if ((point -= p[i]) < 0) break;
    }
  }
  ++seen_[chosen].generated;
  return chosen;
}

TokenLogprobs token_logprobs(std::span<const float> logits, int32_t id, int top) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x - max));
  const double lse = max + std::log(sum);
  const auto logprob = [&](int32_t i) { return static_cast<float>(logits[static_cast<size_t>(i)] - lse); };
  TokenLogprobs result{{id, logprob(id)}, {}};
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t n = std::min<size_t>(order.size(), static_cast<size_t>(std::max(top, 0)));
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n), order.end(),
                    [&](int32_t a, int32_t b) {
                      const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  for (size_t i = 0; i < n; ++i) result.top.push_back({order[i], logprob(order[i])});
  return result;
}

}  // namespace hlwq
