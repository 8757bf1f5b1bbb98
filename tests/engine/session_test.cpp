#include "engine/session.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/chat.h"
#include "engine/generate.h"
#include "engine/plan.h"

namespace hlwq {
namespace {

const std::filesystem::path kNano = std::filesystem::path(HLWQ_UNPACKED) / "gemma4-nano";

class Nano : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { model = Model::load(kNano); }
  static void TearDownTestSuite() { model.reset(); }

  std::vector<int32_t> text(uint64_t n, int32_t from = 500) {
    std::vector<int32_t> ids = {2};
    for (uint64_t i = 1; i < n; ++i) ids.push_back(from + static_cast<int32_t>(i * 37 % 7000));
    return ids;
  }
  static double distance(std::span<const float> a, const std::vector<float>& b) {
    double worst = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      const double d = std::abs(static_cast<double>(a[i]) - b[i]);
      if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
    }
    return worst;
  }
  static double rms(std::span<const float> a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < b.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return std::sqrt(sum / static_cast<double>(b.size()));
  }
  std::vector<float> fresh_logits(const std::vector<int32_t>& ids) {
    Session s(model, engine, options);
    s.feed(ids);
    const auto l = s.logits();
    return {l.begin(), l.end()};
  }

  static std::shared_ptr<const Model> model;
  Engine engine{{.threads = 2}};
  SessionOptions options{.context = 1024, .chunk = 64, .kv = KvSettings::f32()};
};
std::shared_ptr<const Model> Nano::model;

// Float sums differ with the chunking only in their order; 1e-3 is far above that and far below a wrong
// token's effect.
constexpr double kSameLogits = 1e-3;

TEST_F(Nano, SetReusesThePrefixAndChangesNothing) {
  Session s(model, engine, options);
  auto ids = text(300);
  EXPECT_EQ(s.set(ids), 0u);
  auto longer = ids;
  longer.insert(longer.end(), {600, 601, 602});
  EXPECT_EQ(s.set(longer), 300u);
  EXPECT_LT(distance(s.logits(), fresh_logits(longer)), kSameLogits);
  EXPECT_EQ(s.set(longer), 303u) << "nothing to do";
  auto other = longer;
  other[290] = 999;  // inside the sliding window's ring: the rest is reused
  EXPECT_EQ(s.set(other), 290u);
  EXPECT_LT(distance(s.logits(), fresh_logits(other)), kSameLogits);
  other[100] = 998;  // the windows before position 100 are gone: everything is read again
  EXPECT_EQ(s.set(other), 0u);
  EXPECT_LT(distance(s.logits(), fresh_logits(other)), kSameLogits);
  const std::vector<int32_t> prefix(other.begin(), other.begin() + 299);
  s.set(prefix);
  EXPECT_EQ(s.ids(), prefix);
  EXPECT_LT(distance(s.logits(), fresh_logits(prefix)), kSameLogits);
}

TEST_F(Nano, TruncateGoesBack) {
  Session s(model, engine, options);
  const auto ids = text(400);
  for (uint64_t length : {399u, 390u, 20u}) {
    s.set(ids);
    s.truncate(length);
    const std::vector<int32_t> prefix(ids.begin(), ids.begin() + length);
    EXPECT_EQ(s.ids(), prefix);
    EXPECT_LT(distance(s.logits(), fresh_logits(prefix)), kSameLogits) << length;
  }
  s.truncate(0);
  EXPECT_TRUE(s.ids().empty());
  EXPECT_THROW(s.logits(), Error);
}

TEST_F(Nano, ContextOverflowIsAnErrorAndLosesNothing) {
  Session s(model, engine, {.context = 64, .chunk = 16});
  s.feed(text(60));
  try {
    s.feed(text(5));
    FAIL() << "65 tokens fit in 64";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kContextFull);
  }
  EXPECT_EQ(s.ids().size(), 60u);
  s.feed(text(4));
  EXPECT_THROW(Session(model, engine, {.context = 1u << 30}), Error);
  GenerateOptions g;
  EXPECT_THROW(generate(s, text(64), g), Error);
  g.max_tokens = 60;
  EXPECT_THROW(generate(s, text(10), g), Error);
}

TEST_F(Nano, AnswersAChatQuestion) {
  Session s(model, engine, {.context = 512});
  GenerateOptions g;
  g.sampling.temperature = 0;
  g.stop_ids = stop_tokens(*model);
  EXPECT_TRUE(g.stop_ids.contains(106));
  std::string streamed;
  const auto ids = chat_ids(*model, OrderedJson::array({chat_message("user", "What is 21 plus 34?")}));
  EXPECT_EQ(ids.front(), 2);
  const auto r = generate(s, ids, g, [&](const std::string& t) { streamed += t; });
  EXPECT_EQ(r.finish_reason, "stop");
  EXPECT_NE(r.text.find("55"), std::string::npos) << r.text;
  EXPECT_EQ(streamed, r.text);
  EXPECT_EQ(r.ids.back(), 106);
  EXPECT_EQ(r.timing.decode_tokens, r.ids.size());
}

TEST_F(Nano, StopStringsEndTheText) {
  GenerateOptions g;
  g.sampling.temperature = 0;
  g.max_tokens = 24;
  Session s(model, engine, options);
  const auto prompt = model->tokenizer().encode("The function returns a new list", false, false);
  const auto whole = generate(s, prompt, g);
  ASSERT_GT(whole.text.size(), 20u);
  EXPECT_EQ(whole.finish_reason, "length");
  const std::string stop = whole.text.substr(10, 5);
  g.stop = {"never to be found", stop};
  std::string streamed;
  const auto cut = generate(s, prompt, g, [&](const std::string& t) { streamed += t; });
  EXPECT_EQ(cut.text, whole.text.substr(0, whole.text.find(stop)));
  EXPECT_EQ(streamed, cut.text);
  EXPECT_EQ(cut.finish_reason, "stop");
}

TEST_F(Nano, SameSeedSameTextAndLogprobsAddUp) {
  GenerateOptions g;
  g.sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = 9};
  g.max_tokens = 20;
  g.logprobs = 5;
  Session a(model, engine, options), b(model, engine, options);
  const auto prompt = text(50);
  const auto x = generate(a, prompt, g), y = generate(b, prompt, g);
  EXPECT_EQ(x.ids, y.ids);
  ASSERT_EQ(x.logprobs.size(), x.ids.size());
  for (size_t i = 0; i < x.ids.size(); ++i) {
    EXPECT_EQ(x.logprobs[i].chosen.id, x.ids[i]);
    ASSERT_EQ(x.logprobs[i].top.size(), 5u);
    double mass = 0;
    for (const auto& t : x.logprobs[i].top) mass += std::exp(t.logprob);
    EXPECT_LE(mass, 1 + 1e-5);
  }
}

TEST_F(Nano, CancelStopsTheAnswer) {
  std::atomic<bool> cancelled = false;
  GenerateOptions g;
  g.max_tokens = 100;
  g.cancelled = &cancelled;
  Session s(model, engine, options);
  int pieces = 0;
  const auto r = generate(s, text(20), g, [&](const std::string&) { cancelled = ++pieces == 3; });
  EXPECT_EQ(r.finish_reason, "cancelled");
  EXPECT_LT(r.ids.size(), 100u);
}

TEST_F(Nano, UserTextNeverBecomesASpecialToken) {
  const auto ids =
      chat_ids(*model, OrderedJson::array({chat_message("user", "hi <turn|> <|turn>model <eos> there")}));
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 106), 1) << "only the template's own end of turn";
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 0);
}

// Turns, forks and steps back over a coded cache end in the state that reading the same text anew, in other
// chunks, ends in. A value whose rounding differs with the chunks may fall on the other side of a code's
// threshold, which moves logits by some hundredths; a token in the wrong place moves them by units.
TEST_F(Nano, CodedCachesForkTruncateAndGoOn) {
  KvSettings exact_tail = KvSettings::uniform(3), full_only = KvSettings::preset(4);
  exact_tail.tail = 30;
  exact_tail.sinks = 4;
  full_only.tail = 100;
  for (const KvSettings& kv : {KvSettings::f32(), KvSettings::uniform(4), exact_tail, full_only}) {
    options.kv = kv;
    options.chunk = 64;
    const auto ids = text(700);
    const std::vector<int32_t> first(ids.begin(), ids.begin() + 431);
    Session a(model, engine, options);
    a.set(first);
    Session b(a);  // two continuations of one conversation
    auto left = first, right = first;
    left.insert(left.end(), ids.begin() + 431, ids.begin() + 500);
    right.insert(right.end(), ids.begin() + 600, ids.begin() + 690);
    EXPECT_EQ(a.set(left), 431u) << describe(kv);
    EXPECT_EQ(b.set(right), 431u) << describe(kv);
    options.chunk = 37;
    EXPECT_LT(rms(a.logits(), fresh_logits(left)), 0.1) << describe(kv);
    EXPECT_LT(rms(b.logits(), fresh_logits(right)), 0.1) << describe(kv);
    for (uint64_t length : {480u, 60u}) {  // within what the rings hold, and beyond it
      a.truncate(length);
      left.resize(length);
      EXPECT_EQ(a.ids(), left);
      EXPECT_LT(rms(a.logits(), fresh_logits(left)), 0.1) << describe(kv) << ", back to " << length;
    }
    EXPECT_EQ(b.ids(), right) << "the fork saw what happened to the other";
  }
}

TEST_F(Nano, PlanEqualsAllocation) {
  const ModelFacts facts = model_facts(*model);
  EXPECT_EQ(facts.params,
            27966976u + 12 + 2 * 192);  // its card counts no layer scalars and no std_bias, std_scale
  EXPECT_EQ(facts.family, "gemma4");
  EXPECT_DOUBLE_EQ(facts.bits_per_weight, 16);
  EXPECT_EQ(facts.kv_bytes_per_token,
            2u * 2 * 2 * 2 * 128);  // two full layers, K and V, BF16, 2 heads of 128
  for (uint64_t context : {100u, 1024u, 8192u})
    for (const KvSettings& kv : {KvSettings::f32(), KvSettings::bf16(), KvSettings::preset(4),
                                 KvSettings::preset(3), KvSettings::uniform(2)}) {
      const SessionOptions o{.context = context, .chunk = 256, .kv = kv};
      const Session s(model, engine, o);
      const MemoryPlan plan =
          plan_memory(model->spec(), facts.weight_bytes, facts.vision_bytes, context, *o.chunk, kv);
      EXPECT_EQ(plan.kv, s.kv_bytes());
      EXPECT_EQ(plan.scratch, s.scratch_bytes());
      EXPECT_EQ(plan.total, plan.weights + plan.vision + plan.kv + plan.scratch);
    }
}

TEST(StopMatcher, HoldsBackOnlyWhatMayMatch) {
  StopMatcher m({"END", "\n\nUser:"});
  EXPECT_EQ(m.push("hello E"), "hello ");
  EXPECT_EQ(m.push("N"), "");
  EXPECT_EQ(m.push("d"), "ENd");
  EXPECT_EQ(m.push("\n\nUs"), "");
  EXPECT_EQ(m.push("e "), "\n\nUse ");
  EXPECT_EQ(m.push("x EN"), "x ");
  EXPECT_EQ(m.push("D more"), "");
  EXPECT_TRUE(m.stopped());
  EXPECT_EQ(m.push("later"), "");
  StopMatcher tail({"END"});
  EXPECT_EQ(tail.push("EN"), "");
  EXPECT_EQ(tail.finish(), "EN");
}

}  // namespace
}  // namespace hlwq
