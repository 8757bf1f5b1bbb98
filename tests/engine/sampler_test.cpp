#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>

namespace hlwq {
namespace {

std::vector<int> histogram(const SamplingParams& params, const std::vector<float>& logits, int draws) {
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    SamplingParams p = params;
    p.seed = static_cast<uint64_t>(i) * 977 + 5;
    ++counts[static_cast<size_t>(Sampler(p).sample(logits))];
  }
  return counts;
}

const std::vector<float> kLogits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};

TEST(Sampler, GreedyTakesTheLikeliest) {
  Sampler s({.temperature = 0});
  EXPECT_EQ(s.sample(kLogits), 0);
  EXPECT_EQ(s.sample(std::vector<float>{1, 3, 3, 2}), 1) << "ties go to the lower id";
}

// Binomial standard deviation of a count with 20000 draws is at most 71; five of them are allowed.
TEST(Sampler, FrequenciesFollowTheDistribution) {
  const auto counts = histogram({}, kLogits, 20000);
  const double p[] = {0.5, 0.3, 0.15, 0.05};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(counts[i], 20000 * p[i], 355) << i;
}

TEST(Sampler, TemperatureSharpens) {
  const auto counts = histogram({.temperature = 0.5f}, kLogits, 20000);  // p^2, renormalised
  const double sum = 0.25 + 0.09 + 0.0225 + 0.0025;
  EXPECT_NEAR(counts[0], 20000 * 0.25 / sum, 355);
  EXPECT_NEAR(counts[3], 20000 * 0.0025 / sum, 355);
}

TEST(Sampler, TopKTopPMinPCutTheTail) {
  EXPECT_EQ(histogram({.top_k = 2}, kLogits, 2000)[2], 0);
  EXPECT_GT(histogram({.top_k = 2}, kLogits, 2000)[1], 0);
  const auto top_p = histogram({.top_p = 0.7f}, kLogits, 2000);  // 0.5 alone is not enough, 0.5 + 0.3 is
  EXPECT_GT(top_p[1], 0);
  EXPECT_EQ(top_p[2], 0);
  const auto min_p = histogram({.min_p = 0.25f}, kLogits, 4000);  // keeps what has at least 0.125
  EXPECT_GT(min_p[2], 0);
  EXPECT_EQ(min_p[3], 0);
}

TEST(Sampler, PenaltiesAndBiasMoveLogits) {
  Sampler presence({.temperature = 0, .presence_penalty = 10});
  EXPECT_EQ(presence.sample(kLogits), 0);
  EXPECT_EQ(presence.sample(kLogits), 1);
  Sampler frequency({.temperature = 0, .frequency_penalty = 0.3f});
  const std::vector<float> close = {1.0f, 0.5f};  // one use leaves 0.7, two leave 0.4
  EXPECT_EQ(frequency.sample(close), 0);
  EXPECT_EQ(frequency.sample(close), 0);
  EXPECT_EQ(frequency.sample(close), 1);
  Sampler repetition({.temperature = 0, .repetition_penalty = 4});
  repetition.see_prompt(std::vector<int32_t>{0});
  EXPECT_EQ(repetition.sample(close), 1) << "1.0 / 4 < 0.5";
  Sampler negative({.temperature = 0, .repetition_penalty = 4});
  negative.see_prompt(std::vector<int32_t>{0});
  EXPECT_EQ(negative.sample(std::vector<float>{-1, -2}), 1) << "-1 * 4 < -2";
  SamplingParams biased{.temperature = 0};
  biased.logit_bias[3] = 100;
  EXPECT_EQ(Sampler(biased).sample(kLogits), 3);
}

TEST(Sampler, SameSeedSameTokens) {
  Sampler a({.seed = 42}), b({.seed = 42}), c({.seed = 43});
  std::vector<int32_t> x, y, z;
  for (int i = 0; i < 64; ++i) {
    x.push_back(a.sample(kLogits));
    y.push_back(b.sample(kLogits));
    z.push_back(c.sample(kLogits));
  }
  EXPECT_EQ(x, y);
  EXPECT_NE(x, z);
}

TEST(Sampler, RefusesWhatIsOutOfRange) {
  EXPECT_THROW(Sampler({.temperature = -1}), Error);
  EXPECT_THROW(Sampler({.temperature = NAN}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 0}), Error);
  EXPECT_THROW(Sampler({.top_p = 1.5f}), Error);
  EXPECT_THROW(Sampler({.min_p = 2}), Error);
  EXPECT_THROW(Sampler({.repetition_penalty = 0}), Error);
}

TEST(SamplingDefaults, ComeFromGenerationConfig) {
  const auto p = sampling_defaults(OrderedJson::parse(R"({"temperature": 0.7, "top_k": 64, "top_p": 0.95})"));
  EXPECT_FLOAT_EQ(p.temperature, 0.7f);
  EXPECT_EQ(p.top_k, 64);
  EXPECT_FLOAT_EQ(p.top_p, 0.95f);
  EXPECT_EQ(sampling_defaults(OrderedJson::parse(R"({"do_sample": false, "temperature": 0.7})")).temperature,
            0);
  EXPECT_EQ(sampling_defaults(OrderedJson::object()).temperature, 1);
  EXPECT_THROW(sampling_defaults(OrderedJson::parse(R"({"temperature": "hot"})")), Error);
  EXPECT_THROW(sampling_defaults(OrderedJson::parse(R"({"top_p": 7})")), Error);
}

TEST(TokenLogprobs, AreALogSoftmax) {
  const TokenLogprobs t = token_logprobs(kLogits, 2, 3);
  EXPECT_EQ(t.chosen.id, 2);
  EXPECT_NEAR(t.chosen.logprob, std::log(0.15), 1e-6);
  ASSERT_EQ(t.top.size(), 3u);
  EXPECT_EQ(t.top[0].id, 0);
  EXPECT_NEAR(t.top[1].logprob, std::log(0.3), 1e-6);
}

}  // namespace
}  // namespace hlwq
