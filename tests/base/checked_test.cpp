#include "base/checked.h"

#include <gtest/gtest.h>

namespace hlwq {
namespace {

constexpr uint64_t kMax = ~0ull;

TEST(Checked, OverflowIsAnErrorThatNamesItsCause) {
  EXPECT_EQ(checked_mul(1ull << 31, 1ull << 32, "x"), 1ull << 63);
  EXPECT_EQ(checked_add(kMax - 1, 1, "x"), kMax);
  EXPECT_THROW(checked_mul(1ull << 32, 1ull << 32, "x"), Error);
  EXPECT_THROW(checked_add(kMax, 1, "x"), Error);
  try {
    checked_mul(kMax, 2, "tensor w");
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidFile);
    EXPECT_NE(std::string(e.what()).find("tensor w"), std::string::npos);
  }
}

TEST(Checked, ElementsOfAShape) {
  EXPECT_EQ(checked_elements({}, "x"), 1u);
  const uint64_t shape[] = {2, 3, 4}, huge[] = {1ull << 32, 1ull << 32}, none[] = {0, 5};
  EXPECT_EQ(checked_elements(shape, "x"), 24u);
  EXPECT_EQ(checked_elements(none, "x"), 0u);
  EXPECT_THROW(checked_elements(huge, "x"), Error);
}

TEST(Checked, CeilDivDoesNotOverflow) {
  EXPECT_EQ(ceil_div(0, 3), 0u);
  EXPECT_EQ(ceil_div(6, 3), 2u);
  EXPECT_EQ(ceil_div(7, 3), 3u);
  EXPECT_EQ(ceil_div(kMax, 2), 1ull << 63);
}

}  // namespace
}  // namespace hlwq
