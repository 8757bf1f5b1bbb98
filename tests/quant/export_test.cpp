#include "quant/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <limits>

#include "base/half.h"
#include "io/safetensors_writer.h"
#include "io/test_files.h"
#include "quant/hlwq_checkpoint.h"
#include "quant/int4.h"
#include "quant/quantize.h"
#include "quant_test_util.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::vector<float> rounded(const std::vector<float>& w, int group,
                           std::vector<uint16_t>* scales_out = nullptr) {
  std::vector<uint32_t> packed(w.size() / 8);
  std::vector<uint16_t> scales(w.size() / group);
  std::vector<float> out(w.size());
  round_int4_row(w, group, packed.data(), scales.data());
  decode_int4_row(packed.data(), scales.data(), group, out);
  if (scales_out) *scales_out = scales;
  return out;
}

double squared_error(const float* a, const float* b, int n) {
  double e = 0;
  for (int i = 0; i < n; ++i) e += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return e;
}

TEST(Int4, EveryWeightIsWithinHalfAStepOrCutOff) {
  for (const int group : {32, 64, 128}) {
    const std::vector<float> w = gaussian(static_cast<uint64_t>(group) * 50, 3);
    std::vector<uint16_t> scales;
    const std::vector<float> d = rounded(w, group, &scales);
    for (size_t i = 0; i < w.size(); ++i) {
      const float s = bf16_to_float(scales[i / group]);
      ASSERT_GT(s, 0);
      // The product with 1 / s rounds, so a weight in the middle between two codes may go either way: one
      // part in 2^22 of slack.
      const float nearest = std::clamp(w[i], -8 * s, 7 * s);
      EXPECT_LE(std::abs(d[i] - nearest), 0.5f * s * (1 + 0x1p-18f)) << i;
    }
  }
}

TEST(Int4, NeverWorseThanTheLargestMagnitudeOverSeven) {
  Random random(5);
  for (const int group : {32, 128})
    for (int trial = 0; trial < 200; ++trial) {
      std::vector<float> w(group);
      // From Gaussian to very heavy tails.
      for (float& x : w) x = static_cast<float>(std::pow(random.normal(), 1 + 2 * (trial % 4)));
      float most = 0;
      for (const float x : w) most = std::max(most, std::abs(x));
      const float s = bf16_to_float(float_to_bf16(most / 7));
      std::vector<float> plain(group);
      for (int i = 0; i < group; ++i) plain[i] = std::clamp(std::nearbyint(w[i] / s), -8.0f, 7.0f) * s;
      const std::vector<float> d = rounded(w, group);
      double square = 0;
      for (const float x : w) square += static_cast<double>(x) * x;
      // The search compares float sums: their rounding, 128 terms of it, against the group's own square.
      EXPECT_LE(squared_error(w.data(), d.data(), group),
                squared_error(w.data(), plain.data(), group) + square * 128 * 0x1p-23)
          << group << " " << trial;
    }
}

TEST(Int4, ErrorOnGaussianWeights) {
  // A converged uniform quantiser with 16 levels has 0.01154 on a Gaussian as such. A scale for each group of
  // 128 does better, since it follows the group's own spread and extremes.
  const std::vector<float> w = gaussian(128 * 2000, 7);
  const std::vector<float> d = rounded(w, 128);
  double square = 0;
  for (const float x : w) square += static_cast<double>(x) * x;
  const double mse = squared_error(w.data(), d.data(), static_cast<int>(w.size())) / square;
  EXPECT_LT(mse, 0.01154);
  EXPECT_GT(mse, 0.009);  // the best 16 free levels, 0.0095, less what the groups' own scales can give
}

TEST(Int4, ExtremesOfTheNumberRange) {
  for (const float unit : {3e38f, 1e30f, 1e-25f}) {
    std::vector<float> w(32);
    for (int i = 0; i < 32; ++i) w[i] = unit * (static_cast<float>(i - 16) / 16);
    std::vector<uint16_t> scales;
    const std::vector<float> d = rounded(w, 32, &scales);
    for (int i = 0; i < 32; ++i) EXPECT_NEAR(d[i] / unit, w[i] / unit, 0.1) << unit << " " << i;
  }
  for (const float unit : {0.0f, 1e-35f, 1e-44f}) {
    std::vector<uint16_t> scales;
    const std::vector<float> d = rounded(std::vector<float>(32, unit), 32, &scales);
    for (const float x : d) EXPECT_EQ(x, 0);
    EXPECT_EQ(bf16_to_float(scales[0]), 1);
  }
}

struct Fixture : testing::Test {
  void SetUp() override {
    fs::create_directories(dir.path() / "model");
    std::ofstream(dir.path() / "model/config.json") << R"({"model_type": "llama", "torch_dtype": "float32"})";
    const std::vector<TensorSpec> specs = {{"model.embed_tokens.weight", DType::kF32, {40, 96}},
                                           {"model.layers.0.mlp.up_proj.weight", DType::kF32, {48, 96}},
                                           {"model.layers.0.mlp.odd.weight", DType::kF32, {3, 160}},
                                           {"model.layers.0.experts.down_proj", DType::kF32, {2, 5, 64}},
                                           {"model.norm.weight", DType::kF32, {96}}};
    SafetensorsWriter writer(dir.path() / "model", specs, {});
    uint64_t seed = 11;
    for (const TensorSpec& s : specs) {
      const std::vector<float> w = gaussian(s.bytes() / 4, seed++);
      writer.append(w.data(), s.bytes());
    }
    writer.finish();
  }

  TempDir dir;
  ThreadPool pool{2};
};

TEST_F(Fixture, Bf16IsTheDecodedWeightToTheLastBit) {
  for (const char* policy : {"default", "q4-l2", "q2"}) {
    const fs::path coded = dir.path() / (std::string("coded-") + policy), out = coded.string() + "-bf16";
    QuantizeOptions quantize;
    quantize.policy = QuantPolicy::named(policy);
    quantize_model(open_model(dir.path() / "model"), quantize, coded, pool, {});
    const ModelSource source = open_model(coded);
    export_model(source, {}, out, pool, {});
    const HlwqCheckpoint checkpoint(source);
    const ModelSource exported = open_model(out);
    EXPECT_FALSE(exported.config.contains("quantization_config"));
    EXPECT_EQ(exported.config["torch_dtype"], "bfloat16");
    ASSERT_EQ(exported.tensors->tensors().size(), 5u);
    for (const auto& [name, m] : checkpoint.matrices()) {
      const Tensor& t = exported.tensors->at(name);
      ASSERT_EQ(t.dtype, DType::kBF16);
      ASSERT_EQ(t.shape, m.shape);
      const auto bits = values<uint16_t>(t);
      std::vector<float> row(m.cols);
      for (uint64_t r = 0; r < m.rows; ++r) {
        decode_row(m.format, checkpoint.codebook(m.format.bits, m.format.lags),
                   m.codes + r * m.format.row_bytes(m.cols), m.norms + r * m.format.row_blocks(m.cols),
                   m.cols, row.data());
        for (uint64_t i = 0; i < m.cols; ++i) ASSERT_EQ(bits[r * m.cols + i], float_to_bf16(row[i])) << name;
      }
    }
  }
}

TEST_F(Fixture, Int4OfExpertsAndOfOddRows) {
  ExportOptions options;
  options.format = ExportFormat::kCompressedTensors;
  options.group = 32;
  options.max_shard_bytes = 3000;
  const ModelSource source = open_model(dir.path() / "model");
  export_model(source, options, dir.path() / "out", pool, {});
  const auto exported = open_safetensors(dir.path() / "out");
  const auto check = [&](const std::string& module, const std::string& name, uint64_t first, uint64_t rows) {
    const Tensor& w = source.tensors->at(name);
    const uint64_t cols = w.cols();
    const Tensor &packed = exported->at(module + ".weight_packed"),
                 &scale = exported->at(module + ".weight_scale");
    EXPECT_EQ(packed.dtype, DType::kI32);
    EXPECT_EQ(packed.shape, (std::vector<uint64_t>{rows, cols / 8}));
    EXPECT_EQ(scale.dtype, DType::kBF16);
    EXPECT_EQ(scale.shape, (std::vector<uint64_t>{rows, cols / 32}));
    EXPECT_EQ(values<int64_t>(exported->at(module + ".weight_shape")),
              (std::vector<int64_t>{static_cast<int64_t>(rows), static_cast<int64_t>(cols)}));
    const auto all = values<float>(w);
    const auto words = values<uint32_t>(packed);
    const auto scales = values<uint16_t>(scale);
    for (uint64_t r = 0; r < rows; ++r) {
      const std::vector<float> row(all.begin() + static_cast<int64_t>((first + r) * cols),
                                   all.begin() + static_cast<int64_t>((first + r + 1) * cols));
      std::vector<float> out(cols);
      decode_int4_row(words.data() + r * cols / 8, scales.data() + r * cols / 32, 32, out);
      EXPECT_EQ(out, rounded(row, 32)) << module << " " << r;
    }
  };
  check("model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj.weight", 0, 48);
  check("model.layers.0.mlp.odd", "model.layers.0.mlp.odd.weight", 0, 3);
  check("model.layers.0.experts.0.down_proj", "model.layers.0.experts.down_proj", 0, 5);
  check("model.layers.0.experts.1.down_proj", "model.layers.0.experts.down_proj", 5, 5);
  EXPECT_EQ(exported->tensors().size(), 4 * 3 + 2u);
}

TEST_F(Fixture, RefusalsAreTyped) {
  const auto code = [&](const ExportOptions& options, const fs::path& model) {
    try {
      export_model(open_model(model), options, dir.path() / "out", pool, {});
    } catch (const Error& e) {
      EXPECT_FALSE(fs::exists(dir.path() / "out"));
      return e.code();
    }
    ADD_FAILURE() << "no error";
    return ErrorCode::kIo;
  };
  ExportOptions int4;
  int4.format = ExportFormat::kCompressedTensors;
  int4.group = 48;
  EXPECT_EQ(code(int4, dir.path() / "model"), ErrorCode::kInvalidArgument);
  int4.group = 128;  // divides neither 96 nor 160 nor 64
  EXPECT_EQ(code(int4, dir.path() / "model"), ErrorCode::kInvalidArgument);

  std::ofstream(dir.path() / "model/config.json") << R"({"quantization_config": {"quant_method": "gptq"}})";
  EXPECT_EQ(code({}, dir.path() / "model"), ErrorCode::kUnsupported);
}

TEST_F(Fixture, CancelledLeavesNothing) {
  std::atomic<bool> cancelled = false;
  Progress progress;
  progress.cancelled = &cancelled;
  progress.report = [&](uint64_t done, uint64_t total, const std::string&) { cancelled = done > total / 2; };
  try {
    export_model(open_model(dir.path() / "model"), {}, dir.path() / "out", pool, progress);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCancelled);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 1);
}

TEST_F(Fixture, NotFiniteIsNamed) {
  fs::create_directories(dir.path() / "bad");
  std::ofstream(dir.path() / "bad/config.json") << "{}";
  {
    SafetensorsWriter writer(dir.path() / "bad", {{"a.up_proj.weight", DType::kF32, {2, 32}}}, {});
    std::vector<float> w(64, 1);
    w[40] = std::numeric_limits<float>::infinity();
    writer.append(w.data(), 256);
    writer.finish();
  }
  ExportOptions int4;
  int4.format = ExportFormat::kCompressedTensors;
  int4.group = 32;
  try {
    export_model(open_model(dir.path() / "bad"), int4, dir.path() / "out", pool, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(e.what(), HasSubstr("a.up_proj.weight"));
    EXPECT_THAT(e.what(), HasSubstr("row 1, column 8"));
  }
}

}  // namespace
}  // namespace hlwq
