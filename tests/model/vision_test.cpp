// The image encoder, and the text model behind it, against transformers (float32).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/json.h"
#include "io/model_source.h"
#include "io/tensor_source.h"
#include "model/config_reader.h"
#include "model/model.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

const fs::path kModels = fs::path(HLWQ_UNPACKED);
constexpr double kSame = 5e-3;

struct Pictures {
  explicit Pictures(const fs::path& path) : file(open_safetensors(path)) {}
  ImagePatches patches(const std::string& name, uint64_t cols, uint64_t rows) const {
    const Tensor& t = file->at(name + ".pixels_u8");
    const auto* data = reinterpret_cast<const uint8_t*>(t.data.data());
    return {cols, rows, {}, {data, data + t.data.size()}};
  }
  std::vector<float> floats(const std::string& name) const {
    const Tensor& t = file->at(name);
    std::vector<float> v(t.elements());
    decode_rows(t, 0, t.rows(), v.data());
    return v;
  }
  std::unique_ptr<TensorSource> file;
};

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
  }
  return worst;
}

struct Machine {
  explicit Machine(std::string_view isa = "") : pool(2), compute{&select_kernels(detect_cpu(), isa), &pool} {}
  ThreadPool pool;
  Compute compute;
};

// Logits [ids, vocab] of one pass over `ids` with images in it.
std::vector<float> logits(const Model& model, const Compute& compute, const std::vector<int32_t>& ids,
                          const std::vector<ImageRun>& images, std::vector<float>* hidden = nullptr) {
  KvCache cache(model.spec(), ids.size(), ids.size(), KvSettings::f32());
  Workspace ws;
  const auto states = model.transformer().forward(compute, cache, ids, ws, images);
  if (hidden) hidden->assign(states.begin(), states.end());
  std::vector<float> out(ids.size() * model.spec().vocab);
  model.transformer().logits(compute, states.data(), ids.size(), out.data());
  return out;
}

class TowerGolden : public ::testing::TestWithParam<const char*> {};
class MultimodalGolden : public ::testing::TestWithParam<const char*> {};

// The encoder alone: needs nothing of the text model but its width.
TEST_P(TowerGolden, SoftTokensEqualTransformers) {
  const fs::path dir = kModels / GetParam();
  const ModelSource source = open_model(dir);
  ModelSpec spec;
  read_gemma4_vision(source.config, spec);
  ASSERT_TRUE(spec.vision);
  WeightStore weights(source);
  ASSERT_TRUE(VisionTower::present(weights));
  const VisionTower tower(*spec.vision, source.config["text_config"]["hidden_size"], weights);
  const Pictures pictures(dir / "golden.safetensors");
  const OrderedJson golden = read_ordered_json(dir / "golden.json");
  int images = 0;
  for (const char* isa : {"scalar", ""}) {
    Machine machine(isa);
    for (size_t p = 0; p < golden["prompts"].size(); ++p)
      for (size_t i = 0; i < golden["prompts"][p]["images"].size(); ++i, ++images) {
        const auto& image = golden["prompts"][p]["images"][i];
        const std::string name = std::to_string(p) + ".image_" + std::to_string(i);
        const ImagePatches patches = pictures.patches(name, image["grid"][0], image["grid"][1]);
        ASSERT_EQ(patches.tokens(), image["count"].get<uint64_t>());
        EXPECT_LT(
            max_difference(tower.encode(machine.compute, patches), pictures.floats(name + ".soft_tokens")),
            kSame)
            << name << " " << isa;
      }
  }
  EXPECT_EQ(images, 8);
}

TEST_P(MultimodalGolden, LogitsEqualTransformers) {
  const fs::path dir = kModels / GetParam();
  const auto model = Model::load(dir);
  const VisionTower& tower = model->require_vision();
  const Pictures pictures(dir / "golden.safetensors");
  const OrderedJson golden = read_ordered_json(dir / "golden.json");
  const uint64_t vocab = model->spec().vocab;
  Machine machine;
  for (size_t p = 0; p < golden["prompts"].size(); ++p) {
    const auto& prompt = golden["prompts"][p];
    std::vector<int32_t> ids = prompt["ids"];
    std::vector<std::vector<float>> soft;
    std::vector<ImageRun> runs;
    for (size_t i = 0; i < prompt["images"].size(); ++i) {
      const auto& image = prompt["images"][i];
      soft.push_back(
          tower.encode(machine.compute, pictures.patches(std::to_string(p) + ".image_" + std::to_string(i),
                                                         image["grid"][0], image["grid"][1])));
      runs.push_back({image["begin"], image["count"], soft.back().data()});
      EXPECT_EQ(ids[runs.back().begin], model->spec().image_token);
      EXPECT_EQ(ids[runs.back().begin - 1], model->spec().begin_image_token);
      EXPECT_EQ(ids[runs.back().begin + runs.back().count], model->spec().end_image_token);
    }
    const auto ours = logits(*model, machine.compute, ids, runs);
    for (size_t k = 0; k < prompt["positions"].size(); ++k) {
      const auto row =
          ours.begin() + prompt["positions"][k].get<std::ptrdiff_t>() * static_cast<std::ptrdiff_t>(vocab);
      EXPECT_LT(max_difference({row, row + static_cast<std::ptrdiff_t>(vocab)}, prompt["logits"][k]), kSame)
          << "prompt " << p << " position " << prompt["positions"][k];
    }
    const std::vector<int32_t> greedy = prompt["greedy_ids"];
    const std::vector<float> margin = prompt["greedy_margin"];
    for (size_t step = 0; step < greedy.size(); ++step) {
      const auto all = logits(*model, machine.compute, ids, runs);
      const auto last = all.end() - static_cast<std::ptrdiff_t>(vocab);
      const auto best = static_cast<int32_t>(std::max_element(last, all.end()) - last);
      if (best != greedy[step]) {
        EXPECT_LT(margin[step], 2 * kSame) << "prompt " << p << " step " << step;
        break;
      }
      ids.push_back(best);
    }
  }
}

const auto by_name = [](const auto& i) { return std::string(i.param); };
constexpr const char* kMultimodal[] = {"gemma4_mm_dense", "gemma4_mm_moe", "gemma4_mm_e2b"};
INSTANTIATE_TEST_SUITE_P(Families, TowerGolden, ::testing::ValuesIn(kMultimodal), by_name);
INSTANTIATE_TEST_SUITE_P(Families, MultimodalGolden, ::testing::ValuesIn(kMultimodal), by_name);

class NanoVision : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model = Model::load(kModels / "gemma4-nano");
    pictures = std::make_unique<Pictures>(kModels / "gemma4-nano/golden/tensors.safetensors");
  }
  static void TearDownTestSuite() {
    model.reset();
    pictures.reset();
  }
  static ImagePatches image_0() {  // its position ids say how wide it is
    const Tensor& t = pictures->file->at("image_0.position_ids");
    const auto* ids = reinterpret_cast<const int32_t*>(t.data.data());
    int32_t cols = 0, rows = 0;
    for (uint64_t p = 0; p < t.rows(); ++p) {
      cols = std::max(cols, ids[2 * p] + 1);
      rows = std::max(rows, ids[2 * p + 1] + 1);
    }
    const ImagePatches patches =
        pictures->patches("image_0", static_cast<uint64_t>(cols), static_cast<uint64_t>(rows));
    const auto positions = patches.positions();
    for (uint64_t p = 0; p < t.rows(); ++p)
      EXPECT_TRUE(positions[p][0] == ids[2 * p] && positions[p][1] == ids[2 * p + 1]) << p;
    return patches;
  }
  static std::shared_ptr<const Model> model;
  static std::unique_ptr<Pictures> pictures;
};
std::shared_ptr<const Model> NanoVision::model;
std::unique_ptr<Pictures> NanoVision::pictures;

TEST_F(NanoVision, TowerSoftTokensAndLogitsEqualTransformers) {
  const ImagePatches patches = image_0();
  for (const char* isa : {"scalar", ""}) {
    Machine machine(isa);
    std::vector<float> tower;
    const auto soft = model->require_vision().encode(machine.compute, patches, {}, &tower);
    EXPECT_LT(max_difference(tower, pictures->floats("image_0.tower")), kSame);
    EXPECT_LT(max_difference(soft, pictures->floats("image_0.soft_tokens")), kSame);
    int found = 0;
    for (const auto& c : read_ordered_json(kModels / "gemma4-nano/golden/logits.json")) {
      if (c["kind"] != "image") continue;
      ++found;
      const std::vector<int32_t> ids = c["input_ids"];
      const auto first = std::find(ids.begin(), ids.end(), model->spec().image_token);
      const auto begin = static_cast<uint64_t>(first - ids.begin());
      EXPECT_EQ(std::count(ids.begin(), ids.end(), model->spec().image_token),
                static_cast<std::ptrdiff_t>(patches.tokens()));
      std::vector<float> hidden;
      const auto all =
          logits(*model, machine.compute, ids, {{begin, patches.tokens(), soft.data()}}, &hidden);
      EXPECT_LT(max_difference(hidden, pictures->floats("image_0.hidden.12")), kSame);
      for (const auto& p : c["positions"]) {
        const float* row = all.data() + p["position"].get<size_t>() * model->spec().vocab;
        const std::vector<int32_t> top = p["top_ids"];
        for (size_t i = 0; i < top.size(); ++i)
          EXPECT_NEAR(row[top[i]], p["top_logits"][i].get<float>(), kSame) << p["position"] << " " << top[i];
      }
    }
    EXPECT_EQ(found, 1);
  }
}

TEST_F(NanoVision, BothFormsOfTheConfigMeanTheSame) {
  const ModelSpec flat = model_spec(read_ordered_json(kModels / "gemma4-nano/config.json")),
                  own = model_spec(read_ordered_json(kModels / "gemma4-nano/config_transformers_5.17.json"));
  ASSERT_TRUE(flat.vision && own.vision);
  EXPECT_EQ(flat.vision->rope_theta, own.vision->rope_theta);
  EXPECT_EQ(flat.vision->head_dim, own.vision->head_dim);
  EXPECT_EQ(flat.vision->layers, own.vision->layers);
  EXPECT_EQ(flat.image_token, own.image_token);
  EXPECT_EQ(flat.begin_image_token, own.begin_image_token);
  EXPECT_EQ(flat.end_image_token, own.end_image_token);
  EXPECT_TRUE(flat.image_bidirectional && own.image_bidirectional);
  EXPECT_EQ(flat.vision->default_tokens, 70u);
}

TEST_F(NanoVision, RefusesPatchesThatDoNotFit) {
  Machine machine;
  const VisionTower& tower = model->require_vision();
  ImagePatches narrow{4, 3, {}, std::vector<uint8_t>(12 * 768)};  // four columns are no multiple of three
  EXPECT_THROW(tower.encode(machine.compute, narrow), Error);
  ImagePatches shape{3, 3, {.patch = 14}, std::vector<uint8_t>(9 * 14 * 14 * 3)};
  EXPECT_THROW(tower.encode(machine.compute, shape), Error);
  ImagePatches beyond{1026, 3, {}, std::vector<uint8_t>(1026 * 3 * 768)};  // the table has 1024 positions
  EXPECT_THROW(tower.encode(machine.compute, beyond), Error);
  std::atomic<bool> cancelled{true};
  const ImagePatches good = image_0();
  try {
    tower.encode(machine.compute, good, {.report = {}, .cancelled = &cancelled});
    FAIL() << "not cancelled";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCancelled);
  }
}

TEST(Vision, AModelWithoutAnEncoderSaysSo) {
  const auto text = Model::load(kModels / "llama_tied");
  EXPECT_EQ(text->vision(), nullptr);
  try {
    text->require_vision();
    FAIL() << "a text model took an image";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(e.what()).find("text model"), std::string::npos);
  }
}

}  // namespace
}  // namespace hlwq
