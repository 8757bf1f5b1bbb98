#include "engine/calibration.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "base/file.h"
#include "hlwq/error.h"
#include "io/tensor_source.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

fs::path asset(const std::string& name) { return fs::path(HLWQ_UNPACKED) / name; }

CalibrationWindows some_windows() {
  CalibrationWindows windows;
  for (int32_t w = 0; w < 3; ++w) {
    auto& ids = windows.emplace_back();
    for (int32_t i = 0; i < 40 - 5 * w; ++i) ids.push_back((7 * w + i * i * 13 + i) % 250);
  }
  return windows;
}

class Calibration : public ::testing::Test {
 protected:
  void SetUp() override {
    work = fs::path(::testing::TempDir()) /
           ("calibration-" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(work);
    options.policy = QuantPolicy::named("q4");
    calibration.window = 64;
  }
  void TearDown() override { fs::remove_all(work); }

  /// Every tensor's bytes.
  using Result = std::map<std::string, std::string>;
  Result run(const Model& model, const Progress& progress = {}, int threads = 2) {
    Engine engine({.threads = threads});
    const CalibratedTensors tensors =
        calibrate(model, options, some_windows(), calibration, engine, work, progress);
    Result result;
    for (const TensorSource* source : tensors.sources())
      for (const Tensor& t : source->tensors())
        result[t.name] = {reinterpret_cast<const char*>(t.data.data()), t.data.size()};
    return result;
  }
  /// Interrupts when layer `layer` (from 1) starts to be rounded.
  void interrupt(const Model& model, int layer) {
    std::atomic<bool> cancelled = false;
    const std::string at = "layer " + std::to_string(layer) + " of";
    const Progress progress{[&](uint64_t, uint64_t, const std::string& what) {
                              if (what.starts_with(at) && what.find("rounding") != std::string::npos)
                                cancelled = true;
                            },
                            &cancelled};
    expect_error(ErrorCode::kCancelled, "", [&] { run(model, progress); });
  }
  template <class F>
  static void expect_error(ErrorCode code, const std::string& part, const F& f) {
    try {
      f();
      ADD_FAILURE() << "no error, where one with '" << part << "' was due";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  }
  static void overwrite(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  }

  fs::path work;
  QuantizeOptions options;
  CalibrationOptions calibration;
};

// Plain, experts, and layers that read the keys and values of others.
TEST_F(Calibration, AnInterruptedRunGoesOnToTheSameCodes) {
  for (const char* name : {"llama_untied_bias", "gemma4_moe", "gemma4_e2b"}) {
    const auto model = Model::load(asset(name));
    const Result expected = run(*model);
    fs::remove_all(work);
    EXPECT_FALSE(expected.empty());
    const int last = static_cast<int>(model->spec().layers.size());
    interrupt(*model, 1);
    interrupt(*model, 2);
    interrupt(*model, last);
    std::string first;
    const Progress progress{[&](uint64_t, uint64_t, const std::string& what) {
      if (first.empty() && what.find("rounding") != std::string::npos) first = what;
    }};
    EXPECT_EQ(run(*model, progress), expected) << name;
    EXPECT_TRUE(first.starts_with("layer " + std::to_string(last) + " of")) << first;
    fs::remove_all(work);
  }
}

TEST_F(Calibration, ThreadsDoNotChangeTheCodes) {
  const auto model = Model::load(asset("llama_tied"));
  const Result expected = run(*model, {}, 1);
  fs::remove_all(work);
  EXPECT_EQ(run(*model, {}, 3), expected);
}

TEST_F(Calibration, EveryLinearAndTheHeadAreRounded) {
  const auto model = Model::load(asset("llama_untied_bias"));
  const Result result = run(*model);
  for (const char* part :
       {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"}) {
    const bool found = std::any_of(result.begin(), result.end(), [&](const auto& entry) {
      return entry.first.find(part) != std::string::npos && entry.first.ends_with(".hlwq_codes");
    });
    EXPECT_TRUE(found) << part;
  }
}

TEST_F(Calibration, WhatIsNotItsOwnStays) {
  const auto model = Model::load(asset("llama_tied"));
  fs::create_directories(work);
  overwrite(work / "precious", "data");
  for (const bool restart : {false, true}) {
    calibration.restart = restart;
    expect_error(ErrorCode::kInvalidArgument, "in the way", [&] { run(*model); });
    EXPECT_TRUE(fs::exists(work / "precious"));
  }
}

TEST_F(Calibration, OtherSettingsAreRefusedUnlessForced) {
  const auto model = Model::load(asset("llama_tied"));
  interrupt(*model, 2);
  options.policy = QuantPolicy::named("q3");
  expect_error(ErrorCode::kInvalidArgument, "other settings", [&] { run(*model); });
  calibration.restart = true;
  EXPECT_FALSE(run(*model).empty());
}

TEST_F(Calibration, DamagedWorkIsRefused) {
  const auto model = Model::load(asset("llama_tied"));
  const auto check = [&](const char* file, const std::string& text) {
    fs::remove_all(work);
    interrupt(*model, 3);
    ASSERT_TRUE(fs::exists(work / file)) << file;
    overwrite(work / file, text);
    expect_error(ErrorCode::kInvalidFile, "damaged", [&] { run(*model); });
  };
  check("calibration.json", "{");
  check("calibration.json", R"({"calibration": 5})");
  check("states/calibration.json", R"({"calibration": "x", "rounded": []})");
  check("states/model.safetensors", "");
  check("layer-00001/model.safetensors", "short");
}

TEST_F(Calibration, AMissingLayerIsRefused) {
  const auto model = Model::load(asset("llama_tied"));
  interrupt(*model, 3);
  fs::remove_all(work / "layer-00000");
  expect_error(ErrorCode::kInvalidFile, "damaged", [&] { run(*model); });
}

TEST_F(Calibration, WindowsOfJson) {
  const auto model = Model::load(asset("llama_tied"));
  const auto read = [&](const std::string& text) { return json_windows(*model, text, "file.json", 4, 100); };
  const CalibrationWindows expected = {{1, 2, 3, 4}, {5, 6}, {7}};
  EXPECT_EQ(read("{\"ids\": [1,2,3,4,5,6]}\n\n{\"ids\": [7]}\n"), expected);
  EXPECT_EQ(read("[{\"ids\": [1,2,3,4,5,6]}, {\"ids\": [7]}]"), expected);
  for (const char* text :
       {"{\"ids\": [-1]}", "{\"ids\": [1.5]}", "{\"ids\": [4294967296]}", "{\"text\": 5}", "5", "{"})
    expect_error(ErrorCode::kInvalidFile, "file.json", [&] { read(text); });
}

TEST_F(Calibration, WindowsOfText) {
  const auto model = Model::load(asset("gemma4-nano"));
  const std::string text = builtin_calibration_text();
  EXPECT_GT(text.size(), 100'000u);
  const CalibrationWindows windows = plain_windows(*model, text, 128, 4096);
  uint64_t tokens = 0;
  for (const auto& w : windows) {
    EXPECT_FALSE(w.empty());
    EXPECT_LE(w.size(), 128u);
    tokens += w.size();
  }
  // Whole windows only, the last of them may be missing in each half.
  EXPECT_GT(tokens, 4096u - 3 * 128u);
  EXPECT_LE(tokens, 4096u + 128u);
  // Half of them plain, which start with BOS.
  const auto plain = std::count_if(windows.begin(), windows.end(), [](const auto& w) { return w[0] == 2; });
  EXPECT_GE(plain * 2, static_cast<ptrdiff_t>(windows.size()) - 2);
}

}  // namespace
}  // namespace hlwq
