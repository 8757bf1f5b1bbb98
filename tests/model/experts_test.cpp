// Routing, and experts against the sum written out: ties, experts that get no token or all of them, more
// slots than a batch holds, one token.
#include "model/experts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <random>

#include "io/model_source.h"
#include "io/safetensors_writer.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

struct Machine {
  ThreadPool pool{2};
  Compute compute{&select_kernels(detect_cpu(), ""), &pool};
};

TEST(ChooseExperts, TakesTheLargestAndOfEqualOnesTheFirst) {
  Machine m;
  const float nan = std::nanf("");
  const std::vector<float> scores = {0, 3, 1, 2, 5, 5, 5, 5, -1, 7, -1, 7, nan, nan, nan, nan};
  std::vector<uint32_t> chosen(8);
  std::vector<float> weights(8);
  choose_experts(m.compute, scores.data(), 4, 4, 2, chosen.data(), weights.data());
  EXPECT_EQ(chosen, (std::vector<uint32_t>{1, 3, 0, 1, 1, 3, 0, 1}));
  EXPECT_NEAR(weights[0], 1 / (1 + std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(weights[1], 1 / (1 + std::exp(1.0)), 1e-6);
  for (int i : {2, 3, 4, 5}) EXPECT_EQ(weights[i], 0.5f);
  choose_experts(m.compute, scores.data(), 1, 4, 4, chosen.data(), weights.data());
  EXPECT_EQ(chosen, (std::vector<uint32_t>{1, 3, 2, 0, 1, 3, 0, 1})) << "all, largest first";
}

// A layer of experts in a file of its own, and what it must compute, in double.
class Layer {
 public:
  explicit Layer(uint64_t experts, uint64_t top_k) {
    spec.hidden = 24;
    spec.experts = experts;
    spec.top_k = top_k;
    spec.expert_intermediate = 10;
    spec.activation = Activation::kGeluTanh;
    const uint64_t h = spec.hidden, inner = spec.expert_intermediate;
    dir = fs::path(testing::TempDir()) / ("experts" + std::to_string(experts) + "_" + std::to_string(top_k));
    fs::remove_all(dir);
    fs::create_directories(dir);
    const std::vector<TensorSpec> specs = {{"l.router.proj.weight", DType::kF32, {experts, h}},
                                           {"l.router.scale", DType::kF32, {h}},
                                           {"l.router.per_expert_scale", DType::kF32, {experts}},
                                           {"l.experts.gate_up_proj", DType::kF32, {experts, 2 * inner, h}},
                                           {"l.experts.down_proj", DType::kF32, {experts, h, inner}},
                                           {"l.post_feedforward_layernorm_1.weight", DType::kF32, {h}},
                                           {"l.post_feedforward_layernorm_2.weight", DType::kF32, {h}},
                                           {"l.pre_feedforward_layernorm_2.weight", DType::kF32, {h}}};
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    SafetensorsWriter writer(dir, specs, {}, 1 << 30);
    for (const TensorSpec& s : specs) {
      std::vector<float>& values = data[s.name.substr(2)];
      values.resize(s.bytes() / sizeof(float));
      for (float& v : values)
        v = normal(random) * (s.shape.size() > 1 ? 0.3f : 0.1f) + (s.shape.size() > 1 ? 0.0f : 1.0f);
      writer.append(values.data(), s.bytes());
    }
    writer.finish();
    std::ofstream(dir / "config.json") << "{}";
    source = open_model(dir);
    weights.emplace(source);
  }

  std::vector<double> expected(const std::vector<float>& x, const std::vector<float>& dense,
                               std::vector<uint64_t>* used = nullptr) {
    const uint64_t h = spec.hidden, inner = spec.expert_intermediate, tokens = x.size() / h;
    std::vector<double> out;
    for (uint64_t t = 0; t < tokens; ++t) {
      const std::vector<double> xt(x.begin() + t * h, x.begin() + (t + 1) * h);
      auto routed = normed(xt, "router.scale");
      for (double& v : routed) v /= std::sqrt(static_cast<double>(h));
      const auto scores = times("router.proj.weight", 0, spec.experts, routed);
      std::vector<uint64_t> by(spec.experts);
      for (uint64_t e = 0; e < spec.experts; ++e) by[e] = e;
      std::stable_sort(by.begin(), by.end(), [&](uint64_t a, uint64_t b) { return scores[a] > scores[b]; });
      double total = 0;
      for (uint64_t k = 0; k < spec.top_k; ++k) total += std::exp(scores[by[k]]);
      const auto input = normed(xt, "pre_feedforward_layernorm_2.weight");
      std::vector<double> sum(h);
      for (uint64_t k = 0; k < spec.top_k; ++k) {
        const uint64_t e = by[k];
        if (used) ++(*used)[e];
        auto both = times("experts.gate_up_proj", e * 2 * inner, 2 * inner, input);
        std::vector<double> gated(inner);
        for (uint64_t i = 0; i < inner; ++i) {
          const double g = both[i];
          gated[i] =
              0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * both[inner + i];
        }
        const auto y = times("experts.down_proj", e * h, h, gated);
        for (uint64_t i = 0; i < h; ++i)
          sum[i] += std::exp(scores[e]) / total * data["router.per_expert_scale"][e] * y[i];
      }
      const auto mixed = normed(sum, "post_feedforward_layernorm_2.weight");
      const auto plain =
          normed({dense.begin() + t * h, dense.begin() + (t + 1) * h}, "post_feedforward_layernorm_1.weight");
      for (uint64_t i = 0; i < h; ++i) out.push_back(mixed[i] + plain[i]);
    }
    return out;
  }

  std::vector<double> normed(const std::vector<double>& x, const std::string& weight) {
    double square = 0;
    for (double v : x) square += v * v;
    std::vector<double> y(x.size());
    for (size_t i = 0; i < x.size(); ++i)
      y[i] = x[i] / std::sqrt(square / static_cast<double>(x.size()) + spec.norm_eps) * data[weight][i];
    return y;
  }
  std::vector<double> times(const std::string& weight, uint64_t first, uint64_t rows,
                            const std::vector<double>& x) {
    std::vector<double> y(rows);
    for (uint64_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < x.size(); ++c) y[r] += data[weight][(first + r) * x.size() + c] * x[c];
    return y;
  }

  ModelSpec spec;
  fs::path dir;
  std::map<std::string, std::vector<float>> data;
  ModelSource source;
  std::optional<WeightStore> weights;
};

class ExpertsOf : public testing::TestWithParam<std::tuple<uint64_t, uint64_t, uint64_t>> {};

TEST_P(ExpertsOf, EqualTheSumWrittenOut) {
  const auto [count, top_k, tokens] = GetParam();
  Machine m;
  Layer layer(count, top_k);
  const Experts experts(layer.spec, *layer.weights, "l.");
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  const uint64_t h = layer.spec.hidden;
  std::vector<float> x(tokens * h), dense(tokens * h), room(tokens * h);
  for (auto* v : {&x, &dense})
    for (float& f : *v) f = normal(random);
  std::vector<uint64_t> used(count);
  const auto expected = layer.expected(x, dense, &used);
  if (count == 32 && tokens == 1) {
    EXPECT_GT(std::count(used.begin(), used.end(), 0u), 0) << "some expert without a token";
  }
  ExpertScratch scratch;
  scratch.reserve(layer.spec, tokens);
  experts.mix(m.compute, layer.spec, x.data(), tokens, room.data(), dense.data(), scratch);
  // Sums of 24 terms of size one, normed: float rounding is some 1e-6 of them, a wrong expert is of size one.
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(dense[i], expected[i], 1e-4) << i;
}

INSTANTIATE_TEST_SUITE_P(Shapes, ExpertsOf,
                         testing::Values(std::tuple{1, 1, 5}, std::tuple{4, 4, 1}, std::tuple{4, 4, 90},
                                         std::tuple{32, 3, 1}, std::tuple{32, 3, 2}, std::tuple{32, 3, 23},
                                         std::tuple{32, 8, 200}));

TEST(Experts, TiesEverywhereAndTheUnusedAreFine) {
  Machine m;
  Layer layer(8, 2);
  // Equal inputs make all tokens choose the same experts: six get nothing, two get everything.
  const Experts experts(layer.spec, *layer.weights, "l.");
  const uint64_t h = layer.spec.hidden, tokens = 100;
  std::vector<float> x(tokens * h, 0.0f), dense(tokens * h), room(tokens * h);
  for (size_t i = 0; i < dense.size(); ++i) dense[i] = static_cast<float>(i % 5) - 2;
  const auto expected = layer.expected(x, dense);  // zeros: every score is zero, experts 0 and 1 win
  ExpertScratch scratch;
  scratch.reserve(layer.spec, tokens);
  experts.mix(m.compute, layer.spec, x.data(), tokens, room.data(), dense.data(), scratch);
  for (uint64_t t = 0; t < tokens; ++t) {
    EXPECT_EQ(scratch.chosen[2 * t], 0u);
    EXPECT_EQ(scratch.chosen[2 * t + 1], 1u);
  }
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(dense[i], expected[i], 1e-4) << i;
}

TEST(Experts, StackedShapesAreChecked) {
  Layer layer(4, 2);
  const auto code = [&](std::array<uint64_t, 3> shape) {
    try {
      layer.weights->stacked("l.experts.down_proj", shape, shape[1]);
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("experts.down_proj has shape [4, 24, 10]"), std::string::npos)
          << e.what();
      return e.code();
    }
    return ErrorCode::kIo;
  };
  EXPECT_EQ(code({4, 24, 11}), ErrorCode::kInvalidFile);
  EXPECT_EQ(code({8, 12, 10}), ErrorCode::kInvalidFile) << "as many rows, but not this stack";
  const auto stack = layer.weights->stacked("l.experts.gate_up_proj", {4, 20, 24}, 10);
  ASSERT_EQ(stack.size(), 8u);
  std::vector<float> row(24);
  weight_row(stack[5], 3, row.data());  // expert 2, the fourth row of its upper half
  EXPECT_EQ(0, std::memcmp(row.data(), layer.data["experts.gate_up_proj"].data() + (2 * 20 + 10 + 3) * 24,
                           24 * sizeof(float)));
}

}  // namespace
}  // namespace hlwq
