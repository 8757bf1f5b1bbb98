#include "quant/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hlwq/error.h"

namespace hlwq {
namespace {

using testing::HasSubstr;

Tensor tensor(std::string name, std::vector<uint64_t> shape, DType dtype = DType::kBF16) {
  Tensor t;
  t.name = std::move(name);
  t.shape = std::move(shape);
  t.dtype = dtype;
  return t;
}

/// Bits of a [256, 1024] weight of that name under a policy, 0 when kept.
int bits(const QuantPolicy& policy, const std::string& name) {
  const QuantDecision d = policy.decide(tensor(name, {256, 1024}), false);
  return d.format ? d.format->bits : 0;
}

std::string error_of(std::string_view json) {
  try {
    QuantPolicy::from_json(json, "policy.json");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidFile);
    return e.what();
  }
  return "";
}

TEST(Policy, DefaultGivesTheEmbeddingOneBitMore) {
  const QuantPolicy p = QuantPolicy::named("default");
  EXPECT_EQ(bits(p, "model.layers.3.self_attn.q_proj.weight"), 5);
  EXPECT_EQ(bits(p, "model.layers.3.mlp.down_proj.weight"), 5);
  EXPECT_EQ(bits(p, "model.language_model.embed_tokens.weight"), 6);
  EXPECT_EQ(bits(p, "lm_head.weight"), 6);
}

TEST(Policy, OneWidthForAll) {
  for (int b = 2; b <= 8; ++b) {
    const QuantPolicy p = QuantPolicy::named(std::string("q") + std::to_string(b));
    EXPECT_EQ(bits(p, "lm_head.weight"), b);
    EXPECT_EQ(bits(p, "model.layers.0.mlp.up_proj.weight"), b);
  }
}

TEST(Policy, PublishedAssignment) {
  const QuantPolicy p = QuantPolicy::named("published");
  const std::pair<const char*, int> expected[] = {
      {"model.embed_tokens.weight", 5},
      {"lm_head.weight", 6},
      {"model.layers.0.self_attn.q_proj.weight", 5},
      {"model.layers.0.self_attn.k_proj.weight", 5},
      {"model.layers.0.self_attn.v_proj.weight", 5},
      {"model.layers.0.self_attn.o_proj.weight", 6},
      {"model.layers.0.linear_attn.out_proj.weight", 6},
      {"model.layers.0.mlp.gate_proj.weight", 3},
      {"model.layers.0.mlp.up_proj.weight", 3},
      {"model.layers.0.mlp.gate_up_proj.weight", 3},
      {"model.layers.0.mlp.down_proj.weight", 4},
      {"model.layers.0.linear_attn.in_proj.weight", 5},
      {"model.layers.0.other.weight", 5},
  };
  for (const auto& [name, b] : expected) EXPECT_EQ(bits(p, name), b) << name;
}

TEST(Policy, WhatIsNeverQuantized) {
  const QuantPolicy p = QuantPolicy::named("q5");
  for (const char* name :
       {"model.layers.0.mlp.gate.weight", "model.layers.0.router.proj.weight", "model.layers.0.q_norm.weight",
        "model.vision_tower.encoder.layers.0.mlp.up_proj.linear.weight",
        "model.embed_vision.embedding_projection.weight", "model.audio_tower.layers.0.linear.weight",
        "model.embed_audio.embedding_projection.weight", "multi_modal_projector.linear_1.weight",
        "model.vision_model.head.weight", "visual.blocks.0.attn.qkv.weight", "model.layers.0.conv1d.weight",
        "model.embed_positions.weight", "transformer.wpe.weight", "model.layers.0.mlp.up_proj.bias",
        "model.vision_tower.patch_embedder.position_embedding_table", "model.layers.0.mamba.A_log"})
    EXPECT_EQ(bits(p, name), 0) << name;
  EXPECT_FALSE(p.decide(tensor("a.weight", {1024}), false).format);
  EXPECT_FALSE(p.decide(tensor("a.weight", {}), false).format);
  EXPECT_FALSE(p.decide(tensor("a.weight", {2, 2, 64, 64}), false).format);
  EXPECT_FALSE(p.decide(tensor("a.weight", {64, 64}, DType::kI32), false).format);
  EXPECT_FALSE(p.decide(tensor("a.weight", {0, 64}), false).format);
  // A dense MLP's gate is no router.
  EXPECT_EQ(bits(p, "model.layers.0.mlp.gate_proj.weight"), 5);
}

TEST(Policy, StackedExpertsAreMatrices) {
  const QuantPolicy p = QuantPolicy::named("q4");
  EXPECT_TRUE(p.decide(tensor("model.layers.0.experts.gate_up_proj", {8, 128, 64}), false).format);
  EXPECT_FALSE(p.decide(tensor("model.layers.0.something", {8, 128, 64}), false).format);
}

TEST(Policy, BlocksFollowTheColumns) {
  const QuantPolicy p = QuantPolicy::named("q5");
  const auto block = [&](uint64_t cols, bool pad) {
    const QuantDecision d = p.decide(tensor("a.weight", {8, cols}), pad);
    return d.format ? d.format->block : 0;
  };
  EXPECT_EQ(block(5376, false), 128);
  EXPECT_EQ(block(576, false), 64);
  EXPECT_EQ(block(1056, false), 32);
  EXPECT_EQ(block(576, true), 128);
  EXPECT_EQ(block(1000, true), 128);
  const QuantDecision d = p.decide(tensor("a.weight", {8, 1000}), false);
  EXPECT_FALSE(d.format);
  EXPECT_TRUE(d.unfit);
  EXPECT_THAT(d.reason, HasSubstr("1000 columns"));
}

TEST(Policy, JsonRulesFirstMatchWins) {
  const QuantPolicy p = QuantPolicy::from_json(R"({
    "default": {"bits": 3},
    "rules": [{"match": "*.layers.0.*", "bits": 8},
              {"match": "re:layers\\.(1|2)\\.mlp\\.(up|gate)_proj", "bits": 4, "block": 64},
              {"match": "lm_head.weight", "bits": null},
              {"match": "*norm*", "bits": 5}]})",
                                               "policy.json");
  EXPECT_EQ(bits(p, "model.layers.0.mlp.up_proj.weight"), 8);
  EXPECT_EQ(bits(p, "model.layers.1.mlp.up_proj.weight"), 4);
  EXPECT_EQ(bits(p, "model.layers.3.mlp.up_proj.weight"), 3);
  EXPECT_EQ(bits(p, "lm_head.weight"), 0);
  EXPECT_EQ(bits(p, "model.norm.weight"), 0) << "no rule makes a norm quantizable";
  EXPECT_EQ(p.decide(tensor("model.layers.2.mlp.gate_proj.weight", {8, 1024}), false).format->block, 64);
  EXPECT_EQ(bits(QuantPolicy::from_json(R"([{"match": "*", "bits": 7}])", "p"), "a.weight"), 7);
}

TEST(Policy, LagsOfNamesWhereTheWidthHasThem) {
  const auto format = [](const char* policy, const char* name) {
    return *QuantPolicy::named(policy).decide(tensor(name, {256, 1024}), false).format;
  };
  const char *linear = "model.layers.0.mlp.up_proj.weight", *embedding = "model.embed_tokens.weight";
  EXPECT_EQ(format("default-l2", linear), (HlwqFormat{5, 2, 128}));
  EXPECT_EQ(format("default-l2", embedding), (HlwqFormat{6, 2, 128}));
  EXPECT_EQ(format("q4", linear), (HlwqFormat{4, 1, 128}));
  EXPECT_EQ(format("q4-l3", linear), (HlwqFormat{4, 3, 128}));
  EXPECT_EQ(format("q5-l3", linear), (HlwqFormat{5, 2, 128})) << "three lags end at 4 bits";
  EXPECT_EQ(format("q8-l2", linear), (HlwqFormat{8, 1, 128})) << "coupled tables end at 6 bits";
  EXPECT_EQ(format("published-l2", linear), (HlwqFormat{3, 2, 128}));
  EXPECT_EQ(QuantPolicy::named("q4-l2").name(), "q4-l2");
  for (const char* name : {"q4-l1", "q4-l4", "-l2", "q9-l2"})
    EXPECT_THROW(QuantPolicy::named(name), Error) << name;
}

TEST(Policy, JsonSaysLagsAndWhatItIsAbout) {
  const QuantPolicy p = QuantPolicy::from_json(R"({
    "about": {"made by": "somebody", "sensitivity": {"a.weight": 1e-3}, "notes": [1, null]},
    "default": {"bits": 4, "lags": 2},
    "rules": [{"match": "a.weight", "bits": 3, "lags": 3, "block": 64}]})",
                                               "policy.json");
  const auto format = [&](const char* name) { return *p.decide(tensor(name, {256, 1024}), false).format; };
  EXPECT_EQ(format("a.weight"), (HlwqFormat{3, 3, 64}));
  EXPECT_EQ(format("b.weight"), (HlwqFormat{4, 2, 128}));
  EXPECT_THAT(error_of(R"({"default": {"bits": 7, "lags": 2}})"), HasSubstr("lags"));
  EXPECT_THAT(error_of(R"([{"match": "*", "bits": 5, "lags": 3}])"), HasSubstr("rule 1"));
  EXPECT_THAT(error_of(R"([{"match": "*", "bits": 5, "lags": 0}])"), HasSubstr("lags"));
}

TEST(Policy, JsonMistakesAreNamed) {
  EXPECT_THAT(error_of("{"), HasSubstr("policy.json"));
  EXPECT_THAT(error_of("3"), HasSubstr("list of rules"));
  EXPECT_THAT(error_of(R"([{"match": "*"}])"), HasSubstr("rule 1"));
  EXPECT_THAT(error_of(R"([{"match": "*", "bits": 9}])"), HasSubstr("2 to 8"));
  EXPECT_THAT(error_of(R"([{"match": "*", "bits": 4, "block": 100}])"), HasSubstr("block"));
  EXPECT_THAT(error_of(R"([{"match": "*", "bits": "4"}])"), HasSubstr("integer"));
  EXPECT_THAT(error_of(R"([{"bits": 4}])"), HasSubstr("match"));
  EXPECT_THAT(error_of(R"([{"match": "re:(", "bits": 4}])"), HasSubstr("malformed"));
  EXPECT_THAT(error_of(R"([{"match": "*", "bits": 4, "bit": 3}])"), HasSubstr("unknown key"));
  EXPECT_THAT(error_of(R"({"rule": []})"), HasSubstr("unknown key"));
  for (const char* name : {"", "q1", "q9", "Q55", "best"})
    EXPECT_THROW(QuantPolicy::named(name), Error) << name;
}

TEST(Glob, Matches) {
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("a*c", "abbbc"));
  EXPECT_TRUE(glob_match("*a?c*", "xxabcyy"));
  EXPECT_TRUE(glob_match("**a**", "a"));
  EXPECT_TRUE(glob_match("*aab", "aaaab"));
  EXPECT_FALSE(glob_match("a", "ab"));
  EXPECT_FALSE(glob_match("?", ""));
  EXPECT_FALSE(glob_match("a*d", "abc"));
  EXPECT_TRUE(glob_match("a*", "a*"));
  EXPECT_FALSE(glob_match(std::string(40, '*') + "b", std::string(5000, 'a')));
}

}  // namespace
}  // namespace hlwq
