// Pictures in sequences: prefix reuse by hash, whole images in one pass, messages to prompts, and the trained
// model's answers.
#include "engine/images.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "base/file.h"
#include "engine/generate.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

const fs::path kNano = fs::path(HLWQ_UNPACKED) / "gemma4-nano";

std::string image_file(int i) {
  return (kNano / "golden" / ("image_0" + std::to_string(i) + ".png")).string();
}

class NanoImages : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { model = Model::load(kNano); }
  static void TearDownTestSuite() { model.reset(); }

  // Features as an encoder might have made them, of any length; equal seeds are equal images.
  static std::shared_ptr<const ImageFeatures> features(uint64_t tokens, uint64_t seed) {
    auto f = std::make_shared<ImageFeatures>();
    f->hash = {seed, tokens};
    f->tokens = tokens;
    f->embeddings.resize(tokens * model->spec().hidden);
    uint64_t state = seed * 7919 + 1;
    for (float& x : f->embeddings) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      x = static_cast<float>(static_cast<int64_t>(state) >> 40) / static_cast<float>(1 << 23);
    }
    return f;
  }
  // Text of the given lengths with an image after each but the last.
  static Prompt mixed(const std::vector<uint64_t>& text,
                      const std::vector<std::shared_ptr<const ImageFeatures>>& images) {
    Prompt p{{2}, {}};
    for (size_t i = 0; i < text.size(); ++i) {
      for (uint64_t k = 0; k < text[i]; ++k)
        p.ids.push_back(500 + static_cast<int32_t>((p.ids.size() * 37 + i) % 7000));
      if (i == images.size()) break;
      p.images.push_back({p.ids.size(), images[i]});
      p.ids.insert(p.ids.end(), images[i]->tokens, model->spec().image_token);
    }
    return p;
  }
  static double distance(std::span<const float> a, std::span<const float> b) {
    double worst = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      const double d = std::abs(static_cast<double>(a[i]) - b[i]);
      if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
    }
    return worst;
  }
  // Logits of the whole prompt read in one pass.
  std::vector<float> one_pass(const Prompt& prompt) {
    Session s(model, engine, {.context = 1024, .chunk = 1024, .kv = KvSettings::f32()});
    s.feed(prompt);
    const auto l = s.logits();
    return {l.begin(), l.end()};
  }

  static std::shared_ptr<const Model> model;
  Engine engine{{.threads = 2}};
  SessionOptions options{.context = 1024, .chunk = 32, .kv = KvSettings::f32(), .image_tokens = 50};
};
std::shared_ptr<const Model> NanoImages::model;

constexpr double kSameLogits = 1e-3;  // as in session_test: above the order of sums, below any wrong token

TEST_F(NanoImages, AnImageIsNeverCutByAChunk) {
  for (const uint64_t before : {0, 1, 30, 31, 49, 90}) {
    const Prompt p = mixed({before, 3, 60}, {features(50, 1), features(20, 2)});
    Session s(model, engine, options);
    EXPECT_EQ(s.max_chunk(), 50u);
    s.feed(p);
    EXPECT_EQ(s.ids(), p.ids);
    EXPECT_LT(distance(s.logits(), one_pass(p)), kSameLogits) << before;
  }
  Session small(model, engine, {.context = 1024, .chunk = 32, .kv = KvSettings::f32()});
  const Prompt p = mixed({3, 3}, {features(50, 1)});
  EXPECT_THROW(small.feed(p), Error);
  EXPECT_TRUE(small.ids().empty()) << "refused before anything was run";
}

// Encoders agree with transformers within 0.005 each (tests/model, tests/cuda), so with each other within
// twice that; with a session on the GPU and without one.
TEST_F(NanoImages, TheEncoderFollowsTheDecoderToTheGpu) {
  Engine cpu({.threads = 2, .device = "cpu"}), gpu({.threads = 2, .device = "cuda"});
  if (gpu.backend().starts_with("cpu")) GTEST_SKIP() << "no CUDA device on this machine";
  const std::string bytes = read_file(image_file(0), 1 << 24);
  const ImagePatches patches = make_patches(decode_image(std::as_bytes(std::span(bytes)), image_file(0)), 70,
                                            model->vision()->patch_shape());
  const std::vector<float> expected = cpu.encode_image(*model, patches);
  EXPECT_LT(distance(gpu.encode_image(*model, patches), expected), 1e-2);
  const Session session(model, gpu, {.context = 512, .image_tokens = 70});
  const std::vector<float> there = gpu.encode_image(*model, patches);
  ASSERT_EQ(there.size(), expected.size());
  EXPECT_LT(distance(there, expected), 1e-2);
}

TEST_F(NanoImages, PrefixesWithTheSameImageAreReused) {
  const auto a = features(40, 1), b = features(40, 2);
  Session s(model, engine, options);
  const Prompt first = mixed({10, 8, 5}, {a, b});
  s.set(first);
  EXPECT_EQ(s.set(first), first.ids.size()) << "nothing to do";
  Prompt longer = first;
  longer.ids.insert(longer.ids.end(), {600, 601});
  EXPECT_EQ(s.set(longer), first.ids.size());
  EXPECT_LT(distance(s.logits(), one_pass(longer)), kSameLogits);

  // Equal features that were made anew are the same image; others with the same ids are not.
  Prompt again = longer;
  again.images[1].features = features(40, 2);
  EXPECT_EQ(s.set(again), longer.ids.size());
  Prompt other = longer;
  other.images[1].features = features(40, 3);
  ASSERT_EQ(other.ids, longer.ids);
  EXPECT_EQ(s.set(other), longer.images[1].begin);
  EXPECT_LT(distance(s.logits(), one_pass(other)), kSameLogits);
  EXPECT_GT(distance(s.logits(), one_pass(longer)), 0.1) << "the image matters";

  // The same ids without images behind them are another sequence too.
  EXPECT_EQ(s.set(other.ids), other.images[0].begin);
  EXPECT_TRUE(s.images().empty());
  EXPECT_LT(distance(s.logits(), one_pass({other.ids, {}})), kSameLogits);
}

TEST_F(NanoImages, APrefixNeverEndsInsideAnImage) {
  const Prompt whole = mixed({10, 8}, {features(40, 1)});
  const Prompt shorter = mixed({10, 0}, {features(20, 1)});  // ids agree until the image token 21 of `whole`
  Session s(model, engine, options);
  s.set(whole);
  EXPECT_EQ(s.set(shorter), shorter.images[0].begin);
  EXPECT_EQ(s.images().size(), 1u);
  EXPECT_LT(distance(s.logits(), one_pass(shorter)), kSameLogits);
  // A prompt that ends with an image runs that image again for its last logits.
  const Prompt ends = mixed({10, 0}, {features(40, 1)});
  s.set(whole);
  EXPECT_EQ(s.set(ends), ends.images[0].begin);
  EXPECT_LT(distance(s.logits(), one_pass(ends)), kSameLogits);
}

TEST_F(NanoImages, TruncateKeepsWholeImages) {
  const Prompt p = mixed({10, 8, 200}, {features(40, 1), features(30, 2)});
  const uint64_t second = p.images[1].begin;
  Session s(model, engine, options);
  // {asked for, left}: after an image, right behind it, inside it, at its first token; and far back, where
  // the sliding layers have lost their windows.
  for (const auto& [length, left] : std::vector<std::pair<uint64_t, uint64_t>>{{second + 220, second + 220},
                                                                               {second + 30, second + 30},
                                                                               {second + 29, second},
                                                                               {second + 1, second},
                                                                               {second, second},
                                                                               {30, 11},
                                                                               {11, 11},
                                                                               {0, 0}}) {
    s.set(p);
    s.truncate(length);
    ASSERT_EQ(s.ids().size(), left) << length;
    Prompt prefix{{p.ids.begin(), p.ids.begin() + static_cast<std::ptrdiff_t>(left)}, {}};
    for (const PromptImage& image : p.images)
      if (image.begin < left) prefix.images.push_back(image);
    ASSERT_EQ(s.images().size(), prefix.images.size());
    if (left > 0) {
      EXPECT_LT(distance(s.logits(), one_pass(prefix)), kSameLogits) << length;
    }
  }
}

TEST_F(NanoImages, BadPromptsAreRefused) {
  Session s(model, engine, options);
  Prompt overlap = mixed({3, 3, 3}, {features(10, 1), features(10, 2)});
  overlap.images[1].begin = overlap.images[0].begin + 9;
  EXPECT_THROW(s.feed(overlap), Error);
  Prompt beyond = mixed({3, 0}, {features(10, 1)});
  beyond.ids.pop_back();
  EXPECT_THROW(s.set(beyond), Error);
  Prompt missing = mixed({3, 3}, {features(10, 1)});
  missing.images[0].features = nullptr;
  EXPECT_THROW(s.feed(missing), Error);
  Prompt narrow = mixed({3, 3}, {features(10, 1)});
  auto f = std::make_shared<ImageFeatures>(*features(10, 1));
  f->embeddings.pop_back();
  narrow.images[0].features = f;
  EXPECT_THROW(s.feed(narrow), Error);
}

TEST_F(NanoImages, MessagesBecomeAPrompt) {
  ImageEncoder encoder(model);
  EXPECT_EQ(encoder.max_tokens(), 70u);
  // What a user types never becomes an image token, whatever it spells.
  const OrderedJson messages =
      OrderedJson::array({image_message({image_file(0), image_file(1)}, "What is <|image|> here? <|image>")});
  const auto chat = encoder.chat(engine, messages, {}, 0);
  ASSERT_EQ(chat.images.size(), 2u);
  ASSERT_EQ(chat.prompt.images.size(), 2u);
  EXPECT_EQ(chat.images[0].path, image_file(0));
  EXPECT_TRUE(chat.images[0].width == 207 && chat.images[0].height == 315 && chat.images[0].tokens == 60);
  const auto& ids = chat.prompt.ids;
  const ModelSpec& spec = model->spec();
  EXPECT_EQ(static_cast<uint64_t>(std::count(ids.begin(), ids.end(), spec.image_token)),
            chat.images[0].tokens + chat.images[1].tokens);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), spec.begin_image_token), 2);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), spec.end_image_token), 2);
  for (const PromptImage& image : chat.prompt.images) {
    EXPECT_EQ(ids[image.begin - 1], spec.begin_image_token);
    EXPECT_EQ(ids[image.begin + image.features->tokens], spec.end_image_token);
  }
  EXPECT_NE(chat.prompt.images[0].features->hash, chat.prompt.images[1].features->hash);
  // The ids are the reference's: one image and a question of the goldens.
  for (const auto& c : read_ordered_json(kNano / "golden/logits.json"))
    if (c["kind"] == "image") {
      const std::vector<int32_t> expected = c["input_ids"];
      const std::string question =
          read_ordered_json(kNano / "golden/cases.json")[0]["questions"][0]["question"];
      const auto one =
          encoder.chat(engine, OrderedJson::array({image_message({image_file(0)}, question)}), {}, 0);
      EXPECT_EQ(one.prompt.ids, expected);
    }
}

TEST_F(NanoImages, AConversationEncodesEachImageOnce) {
  ImageOptions image_options;
  int reads = 0, encodings = 0;
  image_options.read = [&](const std::string& path) {
    ++reads;
    return read_file(image_file(path == "a" ? 0 : 1));
  };
  ImageEncoder encoder(model, image_options);
  const Progress count{.report = [&](uint64_t done, uint64_t, const std::string&) { encodings += done == 0; },
                       .cancelled = nullptr};
  OrderedJson messages = OrderedJson::array({image_message({"a"}, "What do you see?")});
  const auto first = encoder.chat(engine, messages, {}, 0, count);
  EXPECT_EQ(encodings, 1);
  messages.push_back(chat_message("assistant", "A star."));
  messages.push_back(image_message({"b", "a"}, "And here?"));
  const auto second = encoder.chat(engine, messages, {}, 0, count);
  EXPECT_EQ(encodings, 2) << "a is known, twice";
  EXPECT_EQ(reads, 4);
  ASSERT_EQ(second.prompt.images.size(), 3u);
  EXPECT_EQ(second.prompt.images[0].features, first.prompt.images[0].features);
  EXPECT_EQ(second.prompt.images[2].features, first.prompt.images[0].features);

  image_options.cache_bytes = 1;  // what a prompt needs stays until it is made, then only that
  ImageEncoder forgetful(model, image_options);
  encodings = 0;
  forgetful.chat(engine, messages, {}, 0, count);
  EXPECT_EQ(encodings, 2);
  forgetful.chat(engine, OrderedJson::array({image_message({"b"}, "x")}), {}, 0, count);
  forgetful.chat(engine, OrderedJson::array({image_message({"a"}, "x")}), {}, 0, count);
  EXPECT_EQ(encodings, 3) << "b was kept, a was not";
}

TEST_F(NanoImages, PromptsThatCannotWorkAreRefusedBeforeEncoding) {
  ImageEncoder encoder(model);
  const Progress none{.report = [](uint64_t, uint64_t, const std::string&) { FAIL() << "encoded"; },
                      .cancelled = nullptr};
  const auto expect = [&](const OrderedJson& messages, ErrorCode code, uint64_t context = 0) {
    try {
      encoder.chat(engine, messages, {}, context, none);
      ADD_FAILURE() << messages.dump();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
    }
  };
  const auto picture = image_message({image_file(0)}, "What?");
  expect(OrderedJson::array({picture}), ErrorCode::kContextFull, 64);
  expect(OrderedJson::array({image_message({"missing.png"}, "What?")}), ErrorCode::kNotFound);
  expect(OrderedJson::array({image_message({(kNano / "config.json").string()}, "What?")}),
         ErrorCode::kInvalidFile);
  expect(OrderedJson::array({{{"role", "user"}, {"content", OrderedJson::array({{{"type", "image"}}})}}}),
         ErrorCode::kInvalidArgument);
  // This template writes no images for the system message.
  OrderedJson system = picture;
  system["role"] = "system";
  expect(OrderedJson::array({system, chat_message("user", "What?")}), ErrorCode::kInvalidArgument);

  ImageOptions bad;
  bad.budget = ImageOptions::Budget::kFixed;
  bad.tokens = 100;
  EXPECT_THROW(ImageEncoder(model, bad), Error);
  EXPECT_THROW(ImageEncoder(Model::load(fs::path(HLWQ_UNPACKED) / "llama_tied")), Error);
}

// Every question about the held-out pictures, from the file to the answer: the trained model's own greedy
// answers, as transformers got them.
TEST_F(NanoImages, AnswersEqualTransformers) {
  ImageEncoder encoder(model);
  Session session(model, engine, {.context = 1024, .kv = KvSettings::f32(), .image_tokens = 70});
  GenerateOptions greedy;
  greedy.sampling.temperature = 0;
  greedy.stop_ids = stop_tokens(*model);
  int asked = 0, right = 0;
  for (const auto& c : read_ordered_json(kNano / "golden/cases.json"))
    for (const auto& q : c["questions"]) {
      const std::string path = (kNano / "golden" / c["image"].get<std::string>()).string();
      const auto chat = encoder.chat(engine, OrderedJson::array({image_message({path}, q["question"])}), {},
                                     session.context());
      greedy.max_tokens = static_cast<int64_t>(q["model_ids"].size());
      const GenerateResult result = generate(session, chat.prompt, greedy);
      ++asked;
      right += result.text == q["expected"].get<std::string>();
      // Two logits within 5e-3 of the reference's may change places when they are 1e-2 apart.
      if (q["min_margin"].get<double>() > 1e-2) {
        EXPECT_EQ(result.ids, q["model_ids"].get<std::vector<int32_t>>())
            << c["image"] << " " << q["question"];
      }
    }
  std::cout << right << " of " << asked << " questions about images answered as expected\n";
  EXPECT_EQ(asked, 24);
  EXPECT_GE(right, 23) << "the model knows 99.8 % of such questions";
}

}  // namespace
}  // namespace hlwq
