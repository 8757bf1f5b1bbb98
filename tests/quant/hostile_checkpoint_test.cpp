// Checkpoints that lie about themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "io/safetensors_writer.h"
#include "io/test_files.h"
#include "quant/hlwq_checkpoint.h"
#include "quant_test_util.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// One 4 x 256 matrix of 5 bits, right in every detail until a test changes one.
struct Fake {
  OrderedJson config = OrderedJson::parse(R"({"quantization_config": {"quant_method": "hlwq", "version": 1,
      "layout": "native", "codebook": "lloyd-max-converged",
      "modules": {"x.weight": {"bits": 5, "block": 128, "lags": 1, "shape": [4, 256]}}}})");
  std::vector<TensorSpec> specs = {{"hlwq.codebook.q5", DType::kF32, {1, 32}},
                                   {"x.weight.hlwq_codes", DType::kU8, {4, 160}},
                                   {"x.weight.hlwq_norms", DType::kF16, {4, 2}}};
  std::vector<float> table = lloyd_max_codebook(5).values;

  OrderedJson& q() { return config["quantization_config"]; }
  OrderedJson& x() { return q()["modules"]["x.weight"]; }

  /// The error that opening gives, or "" when all is well.
  std::string open() const {
    TempDir dir;
    std::ofstream(dir.path() / "config.json") << config.dump();
    SafetensorsWriter writer(dir.path(), specs, {});
    for (const TensorSpec& s : specs) {
      std::vector<uint8_t> bytes(s.bytes(), 1);
      if (s.name == "hlwq.codebook.q5")
        std::memcpy(bytes.data(), table.data(), std::min(bytes.size(), table.size() * sizeof(float)));
      writer.append(bytes.data(), bytes.size());
    }
    writer.finish();
    const ModelSource source = open_model(dir.path());
    try {
      const HlwqCheckpoint checkpoint(source);
      EXPECT_TRUE(checkpoint.find("x.weight"));
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
};

TEST(HostileCheckpoint, TheHonestOneOpens) { EXPECT_EQ(Fake().open(), ""); }

TEST(HostileCheckpoint, Configs) {
  const auto with = [](const std::function<void(Fake&)>& change) {
    Fake f;
    change(f);
    return f.open();
  };
  EXPECT_THAT(with([](Fake& f) { f.q()["version"] = 2; }), HasSubstr("version"));
  EXPECT_THAT(with([](Fake& f) { f.q()["version"] = "1"; }), HasSubstr("version"));
  EXPECT_THAT(with([](Fake& f) { f.q()["layout"] = "tiled"; }), HasSubstr("tiled"));
  EXPECT_THAT(with([](Fake& f) { f.q().erase("modules"); }), HasSubstr("modules"));
  EXPECT_THAT(with([](Fake& f) { f.q()["modules"] = 3; }), HasSubstr("modules"));
  EXPECT_THAT(with([](Fake& f) { f.x() = 3; }), HasSubstr("x.weight"));
  EXPECT_THAT(with([](Fake& f) { f.x()["bits"] = 9; }), HasSubstr("bits"));
  EXPECT_THAT(with([](Fake& f) { f.x()["bits"] = -5; }), HasSubstr("bits"));
  EXPECT_THAT(with([](Fake& f) { f.x()["bits"] = 1e300; }), HasSubstr("bits"));
  EXPECT_THAT(with([](Fake& f) { f.x()["block"] = 100; }), HasSubstr("block"));
  EXPECT_THAT(with([](Fake& f) { f.x()["lags"] = 2; }), HasSubstr("hlwq.codebook.q5l2"));
  EXPECT_THAT(with([](Fake& f) { f.x()["lags"] = 4; }), HasSubstr("lags"));
  EXPECT_THAT(with([](Fake& f) { f.x().erase("shape"); }), HasSubstr("shape"));
  EXPECT_THAT(with([](Fake& f) { f.x()["shape"] = {4}; }), HasSubstr("shape"));
  EXPECT_THAT(with([](Fake& f) { f.x()["shape"] = {4, -256}; }), HasSubstr("shape"));
  EXPECT_THAT(with([](Fake& f) { f.x()["shape"] = {0, 256}; }), HasSubstr("shape"));
  EXPECT_THAT(with([](Fake& f) { f.x()["shape"] = {1ull << 40, 1ull << 40}; }), HasSubstr("overflow"));
  EXPECT_THAT(with([](Fake& f) { f.x()["shape"] = {1, ~0ull}; }), HasSubstr("columns"));
  EXPECT_THAT(with([](Fake& f) { f.x()["shape"] = {1ull << 31, 1ull << 32}; }), HasSubstr("x.weight"));
  EXPECT_THAT(with([](Fake& f) { f.x()["shape"] = {8, 256}; }), HasSubstr("expected U8 [8, 160]"));
  EXPECT_THAT(with([](Fake& f) { f.x()["shape"] = {4, 128}; }), HasSubstr("expected"));
}

TEST(HostileCheckpoint, Tensors) {
  for (size_t missing = 0; missing < 3; ++missing) {
    Fake f;
    f.specs.erase(f.specs.begin() + static_cast<ptrdiff_t>(missing));
    EXPECT_THAT(f.open(), HasSubstr("missing")) << missing;
  }
  Fake wrong_type, wrong_norms, wrong_table;
  wrong_type.specs[1].dtype = DType::kI8;
  EXPECT_THAT(wrong_type.open(), HasSubstr("hlwq_codes is I8"));
  wrong_norms.specs[2].shape = {4, 3};
  EXPECT_THAT(wrong_norms.open(), HasSubstr("hlwq_norms"));
  wrong_table.specs[0].shape = {1, 16};
  EXPECT_THAT(wrong_table.open(), HasSubstr("codebook"));
}

TEST(HostileCheckpoint, Tables) {
  for (const float bad : {NAN, INFINITY, 0.0f, -1.0f, 1e6f}) {
    Fake f;
    f.table[15] = bad;
    f.table[31] = -bad;
    EXPECT_THAT(f.open(), HasSubstr("no codebook")) << bad;
  }
  Fake lopsided, flat;
  lopsided.table[20] *= 1.01f;
  EXPECT_THAT(lopsided.open(), HasSubstr("no codebook"));
  flat.table[3] = flat.table[4];
  EXPECT_THAT(flat.open(), HasSubstr("no codebook"));
}

TEST(HostileCheckpoint, MisalignedNormsAreCopied) {
  Fake f;
  f.specs.insert(f.specs.begin() + 2, {"odd", DType::kU8, {1}});
  EXPECT_EQ(f.open(), "");
}

std::string open_published(const std::vector<int64_t>& meta, uint64_t packed_bytes,
                           std::vector<uint64_t> norms, const std::string& codebook = "",
                           DType packed_type = DType::kU8) {
  TempDir dir;
  std::ofstream(dir.path() / "config.json") << "{}";
  if (!codebook.empty())
    std::ofstream(dir.path() / "hlwq_config.json") << "{\"codebook\": \"" << codebook << "\"}";
  const std::vector<TensorSpec> specs = {{"x.weight__meta", DType::kI64, {meta.size()}},
                                         {"x.weight__norms", DType::kF16, std::move(norms)},
                                         {"x.weight__packed", packed_type, {packed_bytes}}};
  SafetensorsWriter writer(dir.path(), specs, {});
  writer.append(meta.data(), meta.size() * 8);
  const std::vector<uint8_t> zeros(std::max<uint64_t>(packed_bytes, specs[1].bytes()), 0);
  writer.append(zeros.data(), specs[1].bytes());
  writer.append(zeros.data(), packed_bytes);
  writer.finish();
  const ModelSource source = open_model(dir.path());
  try {
    const HlwqCheckpoint checkpoint(source);
    EXPECT_TRUE(checkpoint.find("x.weight"));
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(HostileCheckpoint, Published) {
  EXPECT_EQ(open_published({2, 2, 128, 512, 200}, 320, {2, 2}), "");
  EXPECT_EQ(open_published({2, 2, 128, 512}, 320, {2, 2}), "");
  EXPECT_EQ(open_published({2, 2, 128, 512, 200}, 512, {2, 2}, "published-b"), "");
  EXPECT_THAT(open_published({2, 2, 128, 512, 200}, 320, {2, 2}, "secret"), HasSubstr("secret"));
  EXPECT_THAT(open_published({2, 2, 128, 512, 200}, 320, {4, 1}), HasSubstr("norms"));
  EXPECT_THAT(open_published({2, 2, 128, 512, 200}, 321, {2, 2}), HasSubstr("width"));
  EXPECT_THAT(open_published({2, 2, 128, 512, 200}, 448, {2, 2}), HasSubstr("width"));
  EXPECT_THAT(open_published({2, 2, 128, 512, 200}, 64, {2, 2}), HasSubstr("width"));
  EXPECT_THAT(open_published({2, 2, 128, 512, 200}, 320, {2, 2}, "", DType::kI8), HasSubstr("U8"));
  EXPECT_THAT(open_published({2, 2, 128, 513, 200}, 320, {2, 2}), HasSubstr("codes"));
  EXPECT_THAT(open_published({2, 2, 128, 512, 300}, 320, {2, 2}), HasSubstr("columns"));
  EXPECT_THAT(open_published({2, 2, 128, 512, 100}, 320, {2, 2}), HasSubstr("columns"));
  EXPECT_THAT(open_published({2, 2, 64, 256, 128}, 320, {2, 2}), HasSubstr("blocks of 64"));
  EXPECT_THAT(open_published({-2, 2, 128, 512, 200}, 320, {2, 2}), HasSubstr("positive"));
  EXPECT_THAT(open_published({1ll << 60, 1ll << 60, 128, 512, 200}, 320, {2, 2}), HasSubstr("overflow"));
  EXPECT_THAT(open_published({2, 2, 128}, 320, {2, 2}), HasSubstr("4 or 5"));
}

}  // namespace
}  // namespace hlwq
