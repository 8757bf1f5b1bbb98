// What a Gemma 4 config.json becomes: all members of the family, both ways of writing what differs by layer.
#include <gtest/gtest.h>

#include "model/config_reader.h"
#include "model/kv_cache.h"

namespace hlwq {
namespace {

// The text config of a small dense model in the published style: flat keys, no per_layer_config.
OrderedJson text_config() {
  return OrderedJson::parse(R"({
    "model_type": "gemma4_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64,
    "num_global_key_value_heads": 1, "attention_k_eq_v": true, "vocab_size": 300, "sliding_window": 16,
    "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention",
                    "sliding_attention", "full_attention"]})");
}

OrderedJson with(OrderedJson config, const char* patch) {
  config.update(OrderedJson::parse(patch));
  return config;
}

ErrorCode code_of(const OrderedJson& config) {
  try {
    model_spec(config);
  } catch (const Error& e) {
    return e.code();
  }
  ADD_FAILURE() << "accepted: " << config.dump();
  return ErrorCode::kIo;
}

TEST(Gemma4Spec, DenseHeadsInBothStyles) {
  OrderedJson layered = text_config();
  for (const char* key : {"global_head_dim", "num_global_key_value_heads"}) layered.erase(key);
  layered["per_layer_config"] = OrderedJson::parse(
      R"({"01": {"head_dim": 64, "num_key_value_heads": 1}, "3": {"head_dim": 64, "num_key_value_heads": 1},
          "5": {"head_dim": 64, "num_key_value_heads": 1}})");
  for (const OrderedJson& config : {text_config(), layered}) {
    const ModelSpec spec = model_spec(config);
    for (uint64_t i = 0; i < 6; ++i) {
      const LayerSpec& l = spec.layers[i];
      const bool full = i % 2 == 1;
      EXPECT_EQ(l.head_dim, full ? 64u : 32u);
      EXPECT_EQ(l.kv_heads, full ? 1u : 2u);
      EXPECT_EQ(l.window, full ? 0u : 16u);
      EXPECT_EQ(l.k_is_v, full);
      EXPECT_EQ(l.kv_from, -1);
      EXPECT_EQ(l.intermediate, 96u);
    }
    EXPECT_EQ(spec.experts, 0u);
    EXPECT_EQ(spec.per_layer_width, 0u);
    EXPECT_FALSE(spec.image_bidirectional);
    EXPECT_EQ(spec.image_token, -1);
  }
}

TEST(Gemma4Spec, AbsentKeysTakeTheReferencesDefaults) {
  const ModelSpec spec = model_spec(OrderedJson::parse(R"({
    "model_type": "gemma4_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7,
    "num_attention_heads": 4, "vocab_size": 300})"));
  for (uint64_t i = 0; i < 7; ++i) {
    const bool full = i == 5 || i == 6;  // every sixth, and the last one whatever the pattern says
    EXPECT_EQ(spec.layers[i].window, full ? 0u : 512u) << i;
    EXPECT_EQ(spec.layers[i].head_dim, full ? 512u : 256u) << i;
    EXPECT_EQ(spec.layers[i].kv_heads, 4u);
    EXPECT_FALSE(spec.layers[i].k_is_v);
  }
  EXPECT_EQ(spec.per_layer_width, 256u);
  EXPECT_EQ(spec.per_layer_vocab, 262144u);
  EXPECT_EQ(spec.pad_token, 0);
}

TEST(Gemma4Spec, ExpertsComeWithTheirCounts) {
  const OrderedJson config = with(text_config(), R"({"enable_moe_block": true, "num_experts": 8,
    "top_k_experts": 3, "moe_intermediate_size": 40})");
  const ModelSpec spec = model_spec(config);
  EXPECT_EQ(spec.experts, 8u);
  EXPECT_EQ(spec.top_k, 3u);
  EXPECT_EQ(spec.expert_intermediate, 40u);
  EXPECT_EQ(code_of(with(config, R"({"top_k_experts": 9})")), ErrorCode::kInvalidFile);
  EXPECT_EQ(code_of(with(config, R"({"num_experts": null})")), ErrorCode::kInvalidFile);
  EXPECT_EQ(code_of(with(config, R"({"moe_intermediate_size": 1})")), ErrorCode::kInvalidFile);
}

TEST(Gemma4Spec, LastLayersShareAndAreWide) {
  const OrderedJson config = with(text_config(), R"({"num_kv_shared_layers": 3, "use_double_wide_mlp": true,
    "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 300, "pad_token_id": 7})");
  const ModelSpec spec = model_spec(config);
  // Layers 0 1 2 have keys (sliding, full, sliding); 3 and 5 are full, 4 slides.
  const int64_t from[] = {-1, -1, -1, 1, 2, 1};
  for (uint64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(spec.layers[i].kv_from, from[i]) << i;
    EXPECT_EQ(spec.layers[i].intermediate, i < 3 ? 96u : 192u) << i;
  }
  EXPECT_EQ(spec.pad_token, 7);
  // No full layer is left to share with; all layers; pad tokens without a row.
  EXPECT_EQ(code_of(with(config, R"({"num_kv_shared_layers": 5})")), ErrorCode::kInvalidFile);
  EXPECT_EQ(code_of(with(config, R"({"num_kv_shared_layers": 6})")), ErrorCode::kInvalidFile);
  EXPECT_EQ(code_of(with(config, R"({"pad_token_id": 300})")), ErrorCode::kInvalidFile);
  EXPECT_EQ(code_of(with(config, R"({"per_layer_config": {"5": {"head_dim": 32}}})")),
            ErrorCode::kInvalidFile);
}

TEST(Gemma4Spec, ImageTokensStandBesideTheText) {
  OrderedJson config = OrderedJson::parse(R"({"model_type": "gemma4", "vision_config": {}, "boi_token_id": 11,
    "image_token_id": 12, "eoi_token_id": null})");
  config["text_config"] = with(text_config(), R"({"use_bidirectional_attention": "vision"})");
  const ModelSpec spec = model_spec(config);
  EXPECT_EQ(spec.begin_image_token, 11);
  EXPECT_EQ(spec.image_token, 12);
  EXPECT_EQ(spec.end_image_token, -1);
  EXPECT_TRUE(spec.image_bidirectional);
  EXPECT_EQ(spec.prefix, "model.language_model.");
  config.erase("image_token_id");
  EXPECT_EQ(model_spec(config).image_token, 258880);
  config["vision_config"] = nullptr;
  EXPECT_EQ(model_spec(config).image_token, -1);
  EXPECT_EQ(code_of(with(text_config(), R"({"use_bidirectional_attention": "all"})")),
            ErrorCode::kUnsupported);
}

TEST(Gemma4Spec, SharedLayersTakeNoCache) {
  const OrderedJson config = text_config();
  const ModelSpec whole = model_spec(config),
                  shared = model_spec(with(config, R"({"num_kv_shared_layers": 4})"));
  for (KvSettings kv : {KvSettings::f32(), KvSettings::bf16()}) {
    kv.share = KvShare::kOff;
    const uint64_t pair = KvCache::bytes(shared, 100, 8, kv);  // layers 0 and 1 of three like pairs
    EXPECT_EQ(KvCache::bytes(whole, 100, 8, kv), 3 * pair);
    KvCache cache(shared, 100, 8, kv);
    EXPECT_EQ(cache.allocated_bytes(), pair);
    EXPECT_TRUE(cache.truncate(0));
  }
}

}  // namespace
}  // namespace hlwq
