#include "quant/allocation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "hlwq/error.h"
#include "quant/policy.h"

namespace hlwq {
namespace {

std::vector<AllocationItem> random_items(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<double> decades(-3, 1);
  std::uniform_int_distribution<uint64_t> rows(1, 40), blocks(1, 5);
  std::vector<AllocationItem> items;
  for (size_t i = 0; i < n; ++i)
    items.push_back({"layers." + std::to_string(i) + ".w.weight", rows(rng), 128 * blocks(rng), 128,
                     std::pow(10, decades(rng))});
  return items;
}

/// By the formats of allocation_formats(2), whose errors take long to work out.
double damage(const std::vector<AllocationItem>& items, const std::vector<HlwqFormat>& formats) {
  static const std::vector<double> mse = [] {
    std::vector<double> all;
    for (const HlwqFormat& f : allocation_formats(2)) all.push_back(expected_mse(f));
    return all;
  }();
  double sum = 0;
  for (size_t i = 0; i < items.size(); ++i)
    sum += items[i].sensitivity * mse[static_cast<size_t>(formats[i].bits - 2)];
  return sum;
}

TEST(Allocation, IsNearTheBestOfAllChoices) {
  const std::vector<HlwqFormat> formats = allocation_formats(2);
  for (uint32_t seed = 0; seed < 6; ++seed) {
    auto items = random_items(4, seed);
    if (seed % 2) items[0].rows *= 20;  // an embedding beside small layers
    const auto size = [](const AllocationItem& item) { return item.rows * item.cols; };
    const auto largest_item = std::max_element(
        items.begin(), items.end(), [&](const auto& a, const auto& b) { return size(a) < size(b); });
    uint64_t smallest = 0, largest = 0;
    for (const auto& item : items)
      smallest += item_bytes(item, formats.front()), largest += item_bytes(item, formats.back());
    for (const double share : {0.0, 0.2, 0.5, 0.8, 1.0}) {
      const uint64_t budget =
          smallest + static_cast<uint64_t>(share * static_cast<double>(largest - smallest));
      const Allocation a = allocate(items, 2, budget);
      // Every choice of 7 formats for 4 items; and the best with one step less to spend, the largest of any
      // item but the largest: a greedy walk along the hulls never does worse, and the largest item's formats
      // are all tried.
      uint64_t step = 0;
      for (auto item = items.begin(); item != items.end(); ++item)
        for (size_t f = 1; f < formats.size() && item != largest_item; ++f)
          step = std::max(step, item_bytes(*item, formats[f]) - item_bytes(*item, formats[f - 1]));
      double best_with_less = std::numeric_limits<double>::infinity(), best = best_with_less;
      for (int choice = 0; choice < 7 * 7 * 7 * 7; ++choice) {
        std::vector<HlwqFormat> chosen;
        uint64_t bytes = 0;
        for (size_t i = 0, rest = static_cast<size_t>(choice); i < 4; ++i, rest /= 7) {
          chosen.push_back(formats[rest % 7]);
          bytes += item_bytes(items[i], chosen.back());
        }
        if (bytes <= budget) best = std::min(best, damage(items, chosen));
        if (bytes + step <= budget) best_with_less = std::min(best_with_less, damage(items, chosen));
      }
      uint64_t bytes = 0;
      for (size_t i = 0; i < items.size(); ++i) bytes += item_bytes(items[i], a.formats[i]);
      EXPECT_EQ(a.bytes, bytes);
      EXPECT_LE(a.bytes, budget);
      EXPECT_NEAR(a.predicted_kl, damage(items, a.formats), 1e-12);
      EXPECT_GE(a.predicted_kl, best * (1 - 1e-9));
      EXPECT_LE(a.predicted_kl, best_with_less * (1 + 1e-9));
    }
  }
}

TEST(Allocation, TooLittleIsSaidWithTheLimits) {
  const auto items = random_items(3, 9);
  try {
    allocate(items, 1, 10);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(e.what()).find("10 is too little"), std::string::npos);
  }
  // More than everything at 8 bits is no error: nothing wider exists.
  for (const HlwqFormat& f : allocate(items, 1, ~uint64_t{0}).formats) EXPECT_EQ(f.bits, 8);
}

TEST(Allocation, TheSensitiveGetTheBits) {
  std::vector<AllocationItem> items = random_items(2, 1);
  items[0] = {"a", 64, 512, 128, 10};
  items[1] = {"b", 64, 512, 128, 0.01};
  const uint64_t five = item_bytes(items[0], {5, 2, 128}) * 2;
  const Allocation a = allocate(items, 2, five);
  EXPECT_GT(a.formats[0].bits, a.formats[1].bits);
}

TEST(Allocation, ItsPolicyFileChoosesTheSameFormats) {
  auto items = random_items(5, 3);
  const Allocation a = allocate(items, 2, 3 * allocate(items, 2, 1 << 30).bytes / 5);
  const QuantPolicy policy =
      QuantPolicy::from_json(policy_json(items, a, {{"target", "a test"}}), "the policy of a test");
  for (size_t i = 0; i < items.size(); ++i) {
    Tensor t;
    t.name = items[i].name;
    t.dtype = DType::kF32;
    t.shape = {items[i].rows, items[i].cols};
    const QuantDecision d = policy.decide(t, false);
    ASSERT_TRUE(d.format) << d.reason;
    EXPECT_EQ(*d.format, a.formats[i]);
  }
}

}  // namespace
}  // namespace hlwq
