// Decoding, against the PyPI package gguf (tests/golden/make_io_goldens.py) and against base/half.h.
#include "io/tensor.h"

#include <bit>
#include <cmath>
#include <vector>

#include "base/half.h"
#include "io/tensor_source.h"
#include "io/test_files.h"

namespace hlwq {
namespace {

std::vector<float> decode_all(const Tensor& t) {
  std::vector<float> out(t.elements());
  decode_rows(t, 0, t.rows(), out.data());
  return out;
}

template <class T>
Tensor tensor_of(DType dtype, const std::vector<T>& values, std::vector<uint64_t> shape) {
  Tensor t;
  t.name = "t";
  t.dtype = dtype;
  t.shape = std::move(shape);
  t.data = std::as_bytes(std::span(values));
  return t;
}

class QuantTest : public testing::TestWithParam<const char*> {};

// The oracle does the same float32 operations in the same order, so the results are equal, not close.
TEST_P(QuantTest, EqualsTheOracle) {
  const auto file = open_gguf(golden("quants.gguf"));
  const auto expected = open_safetensors(golden("quants.safetensors"));
  const Tensor& t = file.tensors->at(GetParam());
  EXPECT_EQ(info(t.dtype).name, std::string(GetParam()) == "cube" ? "F32" : GetParam());
  const Tensor& e = expected->at(GetParam());
  ASSERT_EQ(t.shape, e.shape);
  EXPECT_EQ(decode_all(t), decode_all(e));

  std::vector<float> row(t.cols());  // a row in the middle on its own
  decode_rows(t, 1, 1, row.data());
  const std::vector<float> all = decode_all(e);
  EXPECT_TRUE(std::equal(row.begin(), row.end(), all.begin() + static_cast<ptrdiff_t>(t.cols())));
}
INSTANTIATE_TEST_SUITE_P(All, QuantTest,
                         testing::Values("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K",
                                         "Q5_K", "Q6_K", "F16", "BF16", "cube"),
                         [](const auto& test) { return std::string(test.param); });

TEST(DecodeRows, EveryHalfEqualsTheScalarConversion) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const auto f16 = decode_all(tensor_of(DType::kF16, bits, {bits.size()}));
  const auto bf16 = decode_all(tensor_of(DType::kBF16, bits, {bits.size()}));
  for (size_t i = 0; i < bits.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(f16[i]), std::bit_cast<uint32_t>(fp16_to_float(bits[i]))) << i;
    ASSERT_EQ(std::bit_cast<uint32_t>(bf16[i]), static_cast<uint32_t>(i << 16)) << i;
  }
}

TEST(DecodeRows, EveryStartOfARowMayBeUnaligned) {
  for (size_t shift = 0; shift < 8; ++shift) {
    std::string bytes(shift, '\0');
    for (int i = 0; i < 37; ++i) bytes += le(0.5f * static_cast<float>(i));
    Tensor t;
    t.shape = {37};
    t.data = as_bytes(bytes).subspan(shift);
    const auto out = decode_all(t);
    for (int i = 0; i < 37; ++i) EXPECT_EQ(out[i], 0.5f * static_cast<float>(i));
  }
}

TEST(DecodeRows, AddIsAppliedAfterDecoding) {
  const std::vector<float> values = {1.5f, -2.0f, 1.0f};
  Tensor t = tensor_of(DType::kF32, values, {3});
  t.add = -1;
  EXPECT_EQ(decode_all(t), (std::vector<float>{0.5f, -3.0f, 0.0f}));
}

TEST(DecodeRows, RopeHeadsUndoTheInterleaving) {
  // Two heads of 6 rows: the converter stores halves (0 1 2 | 3 4 5) as 0 3 1 4 2 5.
  const std::vector<float> stored = {0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
  Tensor t = tensor_of(DType::kF32, stored, {12, 1});
  t.rope_heads = 2;
  std::vector<float> expected(12);
  for (int i = 0; i < 12; ++i) expected[i] = static_cast<float>(i);
  EXPECT_EQ(decode_all(t), expected);
  for (uint64_t r = 0; r < 12; ++r) EXPECT_EQ(stored[t.stored_row(r)], static_cast<float>(r));
  t.shape = {12};  // a bias: one row, permuted inside
  EXPECT_EQ(decode_all(t), expected);
  EXPECT_EQ(t.stored_row(0), 0u);
}

TEST(DecodeRows, RefusesRowsOutOfRange) {
  const std::vector<float> values(6);
  const Tensor t = tensor_of(DType::kF32, values, {3, 2});
  float out[8];
  expect_error(ErrorCode::kInvalidArgument, "rows", [&] { decode_rows(t, 2, 2, out); });
  expect_error(ErrorCode::kInvalidArgument, "rows", [&] { decode_rows(t, ~0ull, 2, out); });
  decode_rows(t, 3, 0, out);
}

TEST(DecodeRows, RefusesIntegers) {
  const std::vector<int32_t> values(4);
  const Tensor t = tensor_of(DType::kI32, values, {4});
  float out[4];
  expect_error(ErrorCode::kInvalidArgument, "I32", [&] { decode_rows(t, 0, 1, out); });
}

TEST(DTypeInfo, SizesAreTheFormats) {
  EXPECT_EQ(info(DType::kQ4_0).block_bytes, 18u);
  EXPECT_EQ(info(DType::kQ4_1).block_bytes, 20u);
  EXPECT_EQ(info(DType::kQ5_0).block_bytes, 22u);
  EXPECT_EQ(info(DType::kQ5_1).block_bytes, 24u);
  EXPECT_EQ(info(DType::kQ8_0).block_bytes, 34u);
  EXPECT_EQ(info(DType::kQ2_K).block_bytes, 84u);
  EXPECT_EQ(info(DType::kQ3_K).block_bytes, 110u);
  EXPECT_EQ(info(DType::kQ4_K).block_bytes, 144u);
  EXPECT_EQ(info(DType::kQ5_K).block_bytes, 176u);
  EXPECT_EQ(info(DType::kQ6_K).block_bytes, 210u);
  Tensor t;
  t.dtype = DType::kQ6_K;
  t.shape = {2, 3, 512};
  EXPECT_EQ(t.rows(), 6u);
  EXPECT_EQ(t.cols(), 512u);
  EXPECT_EQ(t.row_bytes(), 420u);
}

}  // namespace
}  // namespace hlwq
