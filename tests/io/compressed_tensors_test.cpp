#include "io/compressed_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>

#include "hlwq/error.h"

namespace hlwq {
namespace {

using testing::HasSubstr;

/// Tensors in memory.
class Parts : public TensorSource {
 public:
  void add(const std::string& name, DType dtype, std::vector<uint64_t> shape, const void* data) {
    Tensor t;
    t.name = name;
    t.dtype = dtype;
    t.shape = std::move(shape);
    const auto* bytes = static_cast<const std::byte*>(data);
    t.data = memory_.emplace_back(bytes, bytes + t.rows() * t.row_bytes());
    tensors_.push_back(std::move(t));
    build_index();
  }
  const std::vector<Tensor>& tensors() const override { return tensors_; }
  void drop(const Tensor&) const override {}

 private:
  std::deque<std::vector<std::byte>> memory_;
  std::vector<Tensor> tensors_;
};

struct Layer {
  std::vector<uint64_t> packed_shape = {2, 8}, scale_shape = {2, 1};
  std::vector<int64_t> shape = {2, 64};
  DType scale_type = DType::kF32;
  std::string extra = "";
  std::string config =
      R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}})";

  std::unique_ptr<TensorSource> open() const {
    auto parts = std::make_unique<Parts>();
    std::vector<uint32_t> words(64);
    for (uint32_t i = 0; i < words.size(); ++i) words[i] = 0x76543210u ^ i * 0x9e3779b9u;
    const std::vector<float> scales = {0.5f, 1.0f / 3, 2, 3};  // the second is no FP16 number
    parts->add("x.weight_packed", DType::kI32, packed_shape, words.data());
    parts->add("x.weight_scale", scale_type, scale_shape, scales.data());
    parts->add("x.weight_shape", DType::kI64, {shape.size()}, shape.data());
    if (!extra.empty()) parts->add(extra, DType::kF32, {2}, scales.data());
    return open_compressed_tensors(std::move(parts), OrderedJson::parse(config), "model");
  }

  std::string complaint() const {
    try {
      open();
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
};

TEST(CompressedTensors, CodesAndScales) {
  for (const bool halves : {true, false}) {
    Layer layer;
    if (halves) layer.scale_shape = {1, 1}, layer.packed_shape = {1, 8}, layer.shape = {1, 64};
    const auto source = layer.open();
    ASSERT_EQ(source->tensors().size(), 1u);
    const Tensor& t = source->at("x.weight");
    EXPECT_EQ(t.dtype, halves ? DType::kQ4_0 : DType::kF32);
    std::vector<float> values(t.elements());
    decode_rows(t, 0, t.rows(), values.data());
    for (uint32_t i = 0; i < values.size(); ++i) {
      const uint32_t word = 0x76543210u ^ i / 8 * 0x9e3779b9u;
      const int code = static_cast<int>(word >> 4 * (i % 8) & 15) - 8;
      EXPECT_EQ(values[i], static_cast<float>(code) * (i < 64 ? 0.5f : 1.0f / 3)) << i;
    }
  }
}

TEST(CompressedTensors, SizesMustAgree) {
  EXPECT_EQ(Layer().complaint(), "");
  EXPECT_THAT((Layer{.packed_shape = {2, 4}}).complaint(), HasSubstr("x.weight_packed must be"));
  EXPECT_THAT((Layer{.packed_shape = {4, 4}}).complaint(), HasSubstr("x.weight_packed must be"));
  EXPECT_EQ((Layer{.scale_shape = {2, 2}}).complaint(), "");
  EXPECT_THAT((Layer{.scale_shape = {1, 1}}).complaint(), HasSubstr("x.weight_scale must be"));
  EXPECT_THAT((Layer{.scale_shape = {4}}).complaint(), HasSubstr("x.weight_scale must be"));
  EXPECT_THAT((Layer{.shape = {2, -64}}).complaint(), HasSubstr("positive"));
  EXPECT_THAT((Layer{.shape = {1ll << 40, 1ll << 40}}).complaint(), HasSubstr("x.weight_packed"));
  EXPECT_THAT((Layer{.shape = {2, 64, 1}}).complaint(), HasSubstr("two integers"));
  EXPECT_THAT((Layer{.scale_type = DType::kI32}).complaint(), HasSubstr("x.weight_scale must be"));
}

TEST(CompressedTensors, OtherSchemesAreRefused) {
  EXPECT_THAT((Layer{.extra = "x.weight_zero_point"}).complaint(), HasSubstr("zero_point is not read"));
  const auto with = [](const std::string& more) {
    return (Layer{.config =
                      R"({"quantization_config": {"quant_method": "compressed-tensors", )" + more + "}}"})
        .complaint();
  };
  EXPECT_THAT(with(R"("format": "float-quantized")"), HasSubstr("float-quantized"));
  EXPECT_THAT(with(R"("transform_config": {"a": 1})"), HasSubstr("transform"));
  EXPECT_THAT(with(R"("config_groups": {"g": {"weights": {"num_bits": 8}}})"), HasSubstr("8 bits"));
  EXPECT_THAT(with(R"("config_groups": {"g": {"weights": {"symmetric": false}}})"), HasSubstr("zero points"));
  EXPECT_EQ(with(R"("config_groups": {"g": 3}, "format": "pack-quantized")"), "");
}

}  // namespace
}  // namespace hlwq
