// The memory plan of the published Gemma 4 31B from its config alone, figure by figure.
#include "engine/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "engine/fit.h"
#include "model/config_reader.h"
#include "model/tensor_list.h"
#include "quant/quantize.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

ModelSource source_of(const std::string& name) {
  ModelSource source;
  source.config = read_ordered_json(fs::path(HLWQ_TEST_DATA) / "golden" / "configs" / (name + ".json"));
  return source;
}

/// These settings with keys stored beside values, or rebuilt from them where the model allows.
KvSettings stored_keys(KvSettings kv) {
  kv.share = KvShare::kOff;
  return kv;
}

double gb(uint64_t bytes) { return static_cast<double>(bytes) / 1e9; }

class Gemma31B : public testing::Test {
 protected:
  ModelSource source = source_of("gemma-4-31B");
  ModelSpec spec = model_spec(source.config);
  WeightPlanner planner{source, spec};
  static constexpr uint64_t kContext = 262144;
  KvParts parts(const KvSettings& kv, uint64_t chunk = 1) { return kv_parts(spec, kContext, chunk, kv); }
};

TEST_F(Gemma31B, WeightsAreThePublishedOnes) {
  const WeightSizes stored = planner.stored();
  EXPECT_TRUE(planner.from_config());
  EXPECT_EQ(stored.params, 31273088876u);  // what the hub counts in the published files
  EXPECT_EQ(stored.text_params, 30697345340u);
  EXPECT_EQ(stored.checkpoint(), 2 * stored.params);
  EXPECT_EQ(stored.vision, 2 * (stored.params - stored.text_params));
  EXPECT_NEAR(gb(stored.vision), 1.1, 0.06);  // vision tower in BF16
  EXPECT_EQ(stored.audio, 0u);
  EXPECT_EQ(stored.bits_per_weight, 16);
}

TEST_F(Gemma31B, FiveBitsMakeNineteenPointSevenGigabytes) {
  const WeightSizes q5 = planner.quantized(QuantPolicy::named("q5"));
  EXPECT_NEAR(gb(q5.text), 19.7, 0.05);
  EXPECT_EQ(q5.vision, planner.stored().vision);
  EXPECT_DOUBLE_EQ(q5.bits_per_weight, 5.125);  // every input dimension is a multiple of 128
  EXPECT_EQ(q5.tables, 32u * 4);
  // The default policy gives the tied embedding one bit more: 0.18 GB.
  const WeightSizes usual = planner.quantized(QuantPolicy::named("default"));
  EXPECT_EQ(usual.text - q5.text, 262144u * 5376 / 8);
  EXPECT_NEAR(gb(usual.text - q5.text), 0.18, 0.005);
}

TEST_F(Gemma31B, TheLargestRateIsWhereThePlanFills) {
  const WeightSizes q4 = planner.quantized(QuantPolicy::named("q4"));
  const WeightSizes usual = planner.quantized(QuantPolicy::named("default-l2"));
  EXPECT_EQ(q4.coded_params * 33, q4.coded * 64);  // 4.125 bits are 33 / 64 of a byte
  const uint64_t extra = 157'000'000, memory = 24564ull << 20;
  for (const uint64_t context : {uint64_t{1024}, uint64_t{32768}, kContext})
    for (const int bits : {16, 4, 3}) {
      const KvSettings kv = KvSettings::preset(bits);
      const FittingRate rate = largest_rate(spec, q4, extra, context, 512, kv, memory);
      const double bytes = rate.bits_per_weight / 8 * static_cast<double>(q4.coded_params);
      const auto coded = static_cast<uint64_t>(bytes + 0.5);
      EXPECT_EQ(plan_memory(spec, q4.text - q4.coded + coded, q4.vision + extra, context, 512, kv).total,
                memory);
      EXPECT_EQ(rate.checkpoint, q4.checkpoint() - q4.coded + coded);
      // Any policy that quantizes the same tensors gives the same answer.
      EXPECT_DOUBLE_EQ(largest_rate(spec, usual, extra, context, 512, kv, memory).bits_per_weight,
                       rate.bits_per_weight);
    }
  EXPECT_EQ(largest_rate(spec, q4, 0, 1024, 512, KvSettings::bf16(), 1'000'000'000).bits_per_weight, 0);
}

TEST_F(Gemma31B, PlainCache) {
  const KvParts bf16 = parts(stored_keys(KvSettings::bf16()));
  EXPECT_EQ(bf16.full_per_token, 81920u);
  EXPECT_NEAR(gb(bf16.full_per_token * kContext), 21.5, 0.05);
  // With chunks of one token a sliding layer keeps its window and nothing more.
  EXPECT_EQ(bf16.sliding, 50u * 16 * 256 * 1024 * 2 * 2);
  EXPECT_NEAR(gb(bf16.sliding), 0.84, 0.005);
}

// Rebuilding keys takes cosines and sines of the 64 rotating pairs for every position, as floats.
constexpr uint64_t kRopePerToken = 64 * 2 * 4;

TEST_F(Gemma31B, CacheInCodes) {
  const KvParts both = parts(stored_keys(KvSettings::uniform(3)));
  EXPECT_EQ(both.full_per_token, 15520u);  // codes and FP16 norms
  EXPECT_NEAR(gb(both.full_per_token * kContext), 4.1, 0.05);
  EXPECT_EQ(both.sliding, 50u * 16 * 1024 * 2 * (256 * 3 / 8 + 2));
  EXPECT_NEAR(gb(both.sliding), 0.16, 0.005);

  const KvParts values = parts(KvSettings::uniform(3));
  EXPECT_EQ(values.full_per_token, 7760u + kRopePerToken);
  EXPECT_NEAR(gb(7760 * kContext), 2.0, 0.05);
  EXPECT_EQ(values.sliding, both.sliding);
  EXPECT_EQ(parts(KvSettings::bf16()).full_per_token, 81920u / 2 + kRopePerToken);
}

// Five bits, images and the whole context on one card of 24 GB.
TEST_F(Gemma31B, WholeContextInTwentyFourGigabytes) {
  const WeightSizes q5 = planner.quantized(QuantPolicy::named("q5"));
  const auto sum = [&](const KvSettings& kv) {
    const KvParts p = parts(kv);
    return gb(q5.text + q5.vision + (p.full_per_token - kRopePerToken) * kContext + p.sliding);
  };
  EXPECT_NEAR(sum(KvSettings::uniform(3)), 23.0, 0.05);
  KvSettings four = KvSettings::uniform(4);
  four.sliding = {16, 16};
  EXPECT_NEAR(sum(four), 24.3, 0.1);

  const auto card = std::find_if(gpu_cards().begin(), gpu_cards().end(),
                                 [](const GpuCard& c) { return c.name == "24 GB"; });
  EXPECT_EQ(card->bytes, 24564ull << 20);
  const auto longest = [&](const KvSettings& kv) {
    return largest_context(spec, q5.text, q5.vision, 256, kv, card->bytes - kGpuReserve);
  };
  EXPECT_EQ(longest(KvSettings::uniform(3)), kContext);
  EXPECT_EQ(longest(four), kContext);
  EXPECT_LT(longest(stored_keys(KvSettings::bf16())), 50000u);  // "about 40K" is what engines reach today
}

TEST_F(Gemma31B, PlansAddUp) {
  const WeightSizes q5 = planner.quantized(QuantPolicy::named("q5"));
  const KvSettings kv = KvSettings::bf16();
  const MemoryPlan plan = plan_memory(spec, q5.text, q5.vision, 4096, 256, kv);
  EXPECT_EQ(plan.weights, q5.text);
  EXPECT_EQ(plan.vision, q5.vision);
  EXPECT_EQ(plan.kv, KvCache::bytes(spec, 4096, 256, kv));
  EXPECT_EQ(plan.total, plan.weights + plan.vision + plan.kv + plan.scratch);
}

TEST_F(Gemma31B, LargestContextIsTheEdge) {
  const WeightSizes q5 = planner.quantized(QuantPolicy::named("q5"));
  const KvSettings kv = stored_keys(KvSettings::bf16());
  const auto total = [&](uint64_t context) {
    return plan_memory(spec, q5.text, q5.vision, context, 256, kv).total;
  };
  uint64_t last = 0;
  for (const GpuCard& card : gpu_cards()) {
    const uint64_t memory = card.bytes - kGpuReserve;
    const uint64_t context = largest_context(spec, q5.text, q5.vision, 256, kv, memory);
    EXPECT_GE(context, last);
    last = context;
    EXPECT_TRUE(context == 0 || total(context) <= memory) << card.name;
    EXPECT_TRUE(context == kContext || total(context + 1) > memory) << card.name;
  }
  EXPECT_EQ(last, kContext);
  EXPECT_EQ(largest_context(spec, q5.text, q5.vision, 256, kv, total(1) - 1), 0u);
  EXPECT_EQ(largest_context(spec, q5.text, q5.vision, 256, kv, total(kContext)), kContext);
  EXPECT_EQ(largest_context(spec, q5.text, q5.vision, 256, kv, total(kContext) - 1), kContext - 1);
}

// The other members of the family; tests/golden/configs/README.md says what the hub counts.
TEST(WeightPlanner, GemmaFourFamily) {
  struct Case {
    const char* name;
    uint64_t params, vision, audio;
  };
  for (const Case& c : {Case{"gemma-4-26B-A4B", 25805936206, 572794416, 0},
                        Case{"gemma-4-E2B", 5104298467, 168544704, 307184384},
                        Case{"gemma-4-12B", 11959730224, 49922304, 2457600}}) {
    const ModelSource source = source_of(c.name);
    const ModelSpec spec = model_spec(source.config);
    const WeightPlanner planner(source, spec);
    const WeightSizes stored = planner.stored();
    EXPECT_TRUE(planner.notes().empty());
    EXPECT_EQ(stored.params, c.params) << c.name;
    EXPECT_EQ(stored.vision, 2 * c.vision) << c.name;
    EXPECT_EQ(stored.audio, 2 * c.audio) << c.name;
    // Layers that share keys and values take nothing.
    uint64_t per_token = 0;
    for (const LayerSpec& l : spec.layers)
      if (!l.window && l.kv_from < 0) per_token += 2 * 2 * l.kv_heads * l.head_dim;
    const KvSettings kv = stored_keys(KvSettings::bf16());
    EXPECT_EQ(kv_parts(spec, spec.max_context, 256, kv).full_per_token, per_token) << c.name;
  }
}

// Sizes of the published Gemma 3 with images; the hub's counts of their weights.
TEST(WeightPlanner, GemmaThreeWithImages) {
  const OrderedJson vision{{"model_type", "siglip_vision_model"},
                           {"hidden_size", 1152},
                           {"image_size", 896},
                           {"intermediate_size", 4304},
                           {"num_attention_heads", 16},
                           {"num_hidden_layers", 27},
                           {"patch_size", 14}};
  struct Case {
    uint64_t hidden, inner, layers, heads, kv_heads, head_dim, params;
  };
  for (const Case& c :
       {Case{2560, 10240, 34, 8, 4, 256, 4300079472}, Case{3840, 15360, 48, 16, 8, 256, 12187325040},
        Case{5376, 21504, 62, 32, 16, 128, 27432406640}}) {
    ModelSource source;
    source.config = {{"model_type", "gemma3"},
                     {"text_config",
                      {{"hidden_size", c.hidden},
                       {"intermediate_size", c.inner},
                       {"num_hidden_layers", c.layers},
                       {"num_attention_heads", c.heads},
                       {"num_key_value_heads", c.kv_heads},
                       {"head_dim", c.head_dim},
                       {"max_position_embeddings", 131072},
                       {"vocab_size", 262208}}},
                     {"vision_config", vision}};
    // The published config of the smallest leaves out what is usual in the family.
    if (c.hidden == 2560)
      for (const char* key : {"num_attention_heads", "num_key_value_heads", "head_dim",
                              "max_position_embeddings", "vocab_size"})
        source.config["text_config"].erase(key);
    const ModelSpec spec = model_spec(source.config);
    EXPECT_EQ(spec.max_context, 131072u);
    const WeightPlanner planner(source, spec);
    EXPECT_EQ(planner.stored().params, c.params);
    EXPECT_TRUE(planner.notes().empty());
    // Quantising leaves the encoder alone.
    EXPECT_EQ(planner.quantized(QuantPolicy::named("q4")).vision, planner.stored().vision);
  }
}

// What is planned from a config is what the same model's own tensors give.
TEST(WeightPlanner, ConfigAloneGivesTheSameSizes) {
  for (const char* name : {"gemma4-nano", "gemma4_untied", "gemma4_mm_dense", "gemma4_mm_e2b",
                           "gemma4_mm_moe", "llama_untied_bias", "gemma3"}) {
    const ModelSource full = open_model(fs::path(HLWQ_UNPACKED) / name);
    ModelSource bare;
    bare.config = full.config;
    const ModelSpec spec = model_spec(full.config);
    const WeightPlanner real(full, spec), planned(bare, spec);
    EXPECT_FALSE(real.from_config());
    EXPECT_EQ(real.stored().checkpoint(), planned.stored().checkpoint()) << name;
    for (const char* policy : {"default", "q2", "q3", "q4", "q5", "q6", "q7", "q8", "published"}) {
      const WeightSizes a = real.quantized(QuantPolicy::named(policy));
      const WeightSizes b = planned.quantized(QuantPolicy::named(policy));
      QuantizeOptions options;
      options.policy = QuantPolicy::named(policy);
      EXPECT_EQ(a.checkpoint(), predict_quantized_bytes(full, options)) << name << " " << policy;
      EXPECT_EQ(a.checkpoint(), b.checkpoint()) << name << " " << policy;
      EXPECT_EQ(a.text, b.text) << name << " " << policy;
      EXPECT_EQ(a.vision, b.vision) << name << " " << policy;
      EXPECT_EQ(a.params, b.params) << name << " " << policy;
    }
  }
}

TEST(WeightPlanner, RefusesAbsurdSizes) {
  ModelSource source = source_of("gemma-4-31B");
  OrderedJson& text = source.config["text_config"];
  text["hidden_size"] = 1 << 20;
  text["intermediate_size"] = 1 << 22;
  text["vocab_size"] = 1 << 26;
  OrderedJson types = OrderedJson::array();
  for (int i = 0; i < 4096; ++i) types.push_back("full_attention");
  text["layer_types"] = types;
  text["num_hidden_layers"] = 4096;
  const ModelSpec spec = model_spec(source.config);
  EXPECT_THROW(
      {
        try {
          WeightPlanner planner(source, spec);
        } catch (const Error& e) {
          EXPECT_EQ(e.code(), ErrorCode::kInvalidFile);
          EXPECT_NE(std::string(e.what()).find("its sizes cannot be right"), std::string::npos) << e.what();
          throw;
        }
      },
      Error);
}

}  // namespace
}  // namespace hlwq
