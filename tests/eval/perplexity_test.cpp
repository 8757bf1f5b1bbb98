// nano's held-out text: the unquantised path against transformers' figure, HLWQ against the float
// simulation's.
#include "eval/perplexity.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/file.h"
#include "quant/quantize.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;
const fs::path kNano = fs::path(HLWQ_UNPACKED) / "gemma4-nano";

class Heldout : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model = Model::load(kNano);
    info = read_ordered_json(kNano / "golden/info.json")["heldout"];
    ids = model->tokenizer().encode(read_file(kNano / "golden/heldout.txt"), false, false);
  }
  static void TearDownTestSuite() { model.reset(); }
  static std::shared_ptr<const Model> model;
  static OrderedJson info;
  static std::vector<int32_t> ids;
  Engine engine{{.threads = 2}};
};
std::shared_ptr<const Model> Heldout::model;
OrderedJson Heldout::info;
std::vector<int32_t> Heldout::ids;

TEST_F(Heldout, TokensEqualTheGolden) {
  ASSERT_EQ(ids.size(), info["tokens"].get<size_t>());
  const std::vector<int32_t> first = info["first_ids"];
  EXPECT_TRUE(std::equal(first.begin(), first.end(), ids.begin()));
  EXPECT_EQ(bos_token(*model), 2);
}

TEST_F(Heldout, UnquantisedNllEqualsTransformers) {
  const EvalResult r =
      evaluate(*model, nullptr, engine, ids, {.window = 512, .bos = 2, .kv = KvSettings::f32()});
  EXPECT_EQ(r.tokens, info["predicted"].get<uint64_t>());
  EXPECT_NEAR(r.nll, info["mean_nll"].get<double>(), 1e-3);
}

TEST_F(Heldout, ExactModelHasNoDivergenceFromItself) {
  const EvalResult r =
      evaluate(*model, model.get(), engine, ids, {.window = 512, .max_windows = 2, .bos = 2});
  EXPECT_EQ(r.kl_mean, 0);
  EXPECT_EQ(r.top1, 1);
  EXPECT_EQ(r.nll, r.base_nll);
}

TEST_F(Heldout, KeptStatesOfTheBaseGiveTheSameFigures) {
  const EvalOptions options{.window = 64, .max_windows = 3, .bos = 2};
  const std::span<const int32_t> part(ids.data(), 200);
  const KvSettings coarse = KvSettings::uniform(4);
  const EvalResult once = [&] {
    EvalOptions o = options;
    o.kv = coarse;
    return evaluate(*model, model.get(), engine, part, o);
  }();
  // Room for two of the three windows: the third runs the base every time.
  const uint64_t room = 2 * 64 * model->spec().hidden * sizeof(float);
  EXPECT_GT(once.kl_mean, 0);
  Evaluator evaluator(model.get(), engine, part, options, room);
  for (int run = 0; run < 3; ++run) {
    const EvalResult r = evaluator.run(*model, coarse);
    EXPECT_EQ(r.tokens, 3u * 63);
    EXPECT_EQ(r.kl_mean, once.kl_mean);
    EXPECT_EQ(r.base_nll, once.base_nll);
    EXPECT_EQ(r.top1, once.top1);
  }
}

TEST_F(Heldout, OverlappingWindowsPredictEachTokenOnce) {
  const std::span<const int32_t> part(ids.data(), 1000);
  const EvalResult apart = evaluate(*model, nullptr, engine, part, {.window = 128, .bos = 2});
  const EvalResult overlap = evaluate(*model, nullptr, engine, part, {.window = 128, .stride = 40, .bos = 2});
  EXPECT_EQ(apart.tokens, 1000u);
  EXPECT_EQ(overlap.tokens, 1000u);
  EXPECT_LT(overlap.nll, apart.nll) << "more context per token must help on text";
  EXPECT_THROW(evaluate(*model, nullptr, engine, part, {.window = 128, .stride = 128, .bos = 2}), Error);
}

// Bounds: a float simulation gives 0.0050, 0.0194, 0.0758; INT8 activations and tables may add their share.
class HlwqKl : public Heldout, public ::testing::WithParamInterface<std::pair<int, double>> {};

TEST_P(HlwqKl, StaysNearTheSimulation) {
  const auto [bits, bound] = GetParam();
  const fs::path dir =
      fs::temp_directory_path() / ("hlwq-kl-" + std::to_string(bits) + "-" + std::to_string(::getpid()));
  ThreadPool pool(2);
  QuantizeOptions options;
  options.policy = QuantPolicy::named("q" + std::to_string(bits));
  quantize_model(open_model(kNano), options, dir, pool, {});
  const auto quantised = Model::load(dir);
  const EvalResult r =
      evaluate(*quantised, model.get(), engine, ids, {.window = 512, .max_windows = 64, .bos = 2});
  fs::remove_all(dir);
  RecordProperty("kl_mean", std::to_string(r.kl_mean));
  std::printf("Q%d: mean KL %.5f, top-1 %.4f over %llu tokens\n", bits, r.kl_mean, r.top1,
              static_cast<unsigned long long>(r.tokens));
  EXPECT_EQ(r.tokens, 64u * 511);
  EXPECT_LE(r.kl_mean, bound);
  EXPECT_GT(r.kl_mean, bound / 4) << "suspiciously good: were the weights quantised at all?";
}

INSTANTIATE_TEST_SUITE_P(Widths, HlwqKl,
                         ::testing::Values(std::pair{6, 0.006}, std::pair{5, 0.021}, std::pair{4, 0.080}),
                         [](const auto& i) { return "Q" + std::to_string(i.param.first); });

}  // namespace
}  // namespace hlwq
