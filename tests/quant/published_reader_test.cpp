#include "quant/published_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "io/safetensors_writer.h"
#include "io/test_files.h"
#include "quant/hlwq_checkpoint.h"
#include "quant/published_variant.h"
#include "quant_test_util.h"

namespace hlwq {
namespace {

using testing::HasSubstr;

struct Part {
  std::string name;
  DType dtype;
  std::vector<uint64_t> shape;
  std::vector<uint8_t> bytes;  // repeated as often as needed
};

/// What reading such tensors complains of; "" when it does not.
std::string complaint(const std::vector<Part>& parts, const std::string& config = "{}") {
  TempDir dir;
  std::ofstream(dir.path() / "config.json") << "{}";
  std::ofstream(dir.path() / "polar_config.json") << config;
  std::vector<TensorSpec> specs;
  for (const Part& p : parts) specs.push_back({p.name, p.dtype, p.shape});
  SafetensorsWriter writer(dir.path(), specs, {});
  for (size_t i = 0; i < parts.size(); ++i) {
    std::vector<uint8_t> bytes(specs[i].bytes());
    for (size_t b = 0; b < bytes.size(); ++b) bytes[b] = parts[i].bytes[b % parts[i].bytes.size()];
    writer.append(bytes.data(), bytes.size());
  }
  writer.finish();
  const ModelSource source = open_model(dir.path());
  EXPECT_TRUE(HlwqCheckpoint::is_hlwq(source));
  try {
    const HlwqCheckpoint checkpoint(source);
    return checkpoint.find("x.weight") ? "" : "no x.weight";
  } catch (const Error& e) {
    return e.what();
  }
}

std::vector<uint8_t> levels(std::vector<float> values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<Part> dotted() {
  return {{"x.codes", DType::kU8, {2, 128}, {0x31}},
          {"x.norms", DType::kF16, {2, 2}, {0, 0x3c}},
          {"x.ct", DType::kF32, {4}, levels({-2, -1, 1, 2})}};
}

TEST(PublishedReader, DottedCodes) {
  EXPECT_EQ(complaint(dotted()), "");
  auto parts = dotted();
  parts[0].bytes = {0x41};  // a code of 4 in 2 bits
  EXPECT_THAT(complaint(parts), HasSubstr("the code 4"));
  parts = dotted();
  parts[0].shape = {2, 127};
  EXPECT_THAT(complaint(parts), HasSubstr("bytes for 4 blocks"));
  parts = dotted();
  parts[0].shape = {256};
  EXPECT_THAT(complaint(parts), HasSubstr("two dimensions"));
  parts = dotted();
  parts[1].shape = {4, 1};
  EXPECT_THAT(complaint(parts), HasSubstr("must be F16 [2, 1]"));
  parts = dotted();
  parts[2].bytes = levels({-2, -1, 1, 3});
  EXPECT_THAT(complaint(parts), HasSubstr("mirrored"));
  parts[2].bytes = levels({-1, -2, 2, 1});
  EXPECT_THAT(complaint(parts), HasSubstr("ascend"));
  parts[2].shape = {3};
  EXPECT_THAT(complaint(parts), HasSubstr("3 levels"));
  parts = dotted();
  parts.pop_back();
  EXPECT_THAT(complaint(parts), HasSubstr("x.ct is missing"));
  parts = dotted();
  parts[1].name = "x.scales";
  EXPECT_THAT(complaint(parts), HasSubstr("EOQ"));
}

TEST(PublishedReader, TheConfigMustFitTheCodes) {
  EXPECT_EQ(complaint(dotted(), R"({"layers": {"x": {"in_features": 200}}})"), "");
  EXPECT_THAT(complaint(dotted(), R"({"layers": {"x": {"in_features": 300}}})"), HasSubstr("300 columns"));
  EXPECT_THAT(complaint(dotted(), R"({"layers": {"x": {"in_features": 100}}})"), HasSubstr("100 columns"));
  EXPECT_THAT(complaint(dotted(), R"({"layers": {"x": {"in_features": -1}}})"), HasSubstr("in_features"));
  EXPECT_THAT(complaint(dotted(), R"({"block_size": 96})"), HasSubstr("blocks of 96"));
  EXPECT_THAT(complaint(dotted(), R"({"layers": 1, "block_size": 64})"), HasSubstr("the code 49"));
  EXPECT_THAT(complaint(dotted(), "[]"), HasSubstr("not a JSON object"));
}

TEST(PublishedReader, OneTableAWidth) {
  auto parts = dotted();
  for (Part p : dotted()) {
    p.name[0] = 'y';
    parts.push_back(p);
  }
  EXPECT_EQ(complaint(parts), "");
  parts[5].bytes = levels({-3, -1, 1, 3});
  EXPECT_THAT(complaint(parts), HasSubstr("differs from the table"));
}

TEST(PublishedReader, BareCodesTellTheirWidth) {
  std::vector<Part> parts = {{"x__codes", DType::kI8, {2, 256}, {0, 31, 16}},
                             {"x__norms", DType::kF16, {2, 2}, {0, 0x3c}}};
  EXPECT_EQ(complaint(parts), "");
  parts[0].bytes = {0, 1};
  EXPECT_THAT(complaint(parts), HasSubstr("1 bits"));
  parts[0].bytes = {0, 1, 2};
  EXPECT_THAT(complaint(parts), HasSubstr("1.58 bits"));
  parts[0].bytes = {0, 255};
  EXPECT_EQ(complaint(parts), "");
  parts[0].shape = {2, 255};
  EXPECT_THAT(complaint(parts), HasSubstr("bytes for 4 blocks"));
}

/// How often each natural code of a table occurs among n draws of N(0,1).
std::vector<uint64_t> counts(int bits, PublishedVariant made_with, int n) {
  const Codebook table = published_codebook(bits, made_with);
  std::vector<double> middles;
  for (int i = 0; i + 1 < 1 << bits; ++i)
    middles.push_back(0.5 * (table.value(stored_code(i, bits)) + table.value(stored_code(i + 1, bits))));
  std::vector<uint64_t> count(size_t{1} << bits);
  Random random(static_cast<uint64_t>(bits));
  for (int i = 0; i < n; ++i)
    ++count[static_cast<size_t>(std::lower_bound(middles.begin(), middles.end(), random.normal()) -
                                middles.begin())];
  return count;
}

TEST(PublishedVariant, FrequenciesTellTheTable) {
  for (const int bits : {4, 5, 6, 8})
    for (const PublishedVariant made_with : {PublishedVariant::kFinite4, PublishedVariant::kInfinite}) {
      VariantEvidence evidence;
      evidence.add_counts(bits, counts(bits, made_with, 1 << 18));
      EXPECT_EQ(evidence.choose().variant, made_with) << bits;
      EXPECT_THAT(evidence.choose().why, HasSubstr("1 of 1 matrices"));
    }
}

TEST(PublishedVariant, KnownValuesWinAndNothingMeansA) {
  VariantEvidence evidence;
  EXPECT_EQ(evidence.choose().variant, PublishedVariant::kFinite4);
  EXPECT_THAT(evidence.choose().why, HasSubstr("assumed"));
  evidence.add_counts(5, counts(5, PublishedVariant::kFinite4, 1000));  // too few
  EXPECT_THAT(evidence.choose().why, HasSubstr("assumed"));
  evidence.add_counts(5, counts(5, PublishedVariant::kFinite4, 1 << 18));
  evidence.add_errors(1.0, 0.9);
  EXPECT_EQ(evidence.choose().variant, PublishedVariant::kInfinite);
  EXPECT_THAT(evidence.choose().why, HasSubstr("unquantised"));
}

}  // namespace
}  // namespace hlwq
