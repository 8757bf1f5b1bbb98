#include "quant/hadamard.h"

#include <gtest/gtest.h>

#include <bit>

#include "quant_test_util.h"

namespace hlwq {
namespace {

// Sylvester order: entry (i, j) is (-1)^popcount(i & j).
std::vector<double> by_definition(const std::vector<double>& x) {
  const size_t n = x.size();
  std::vector<double> y(n, 0.0);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) y[i] += std::popcount(i & j) % 2 ? -x[j] : x[j];
  for (double& v : y) v /= std::sqrt(static_cast<double>(n));
  return y;
}

TEST(Hadamard, MatchesItsDefinition) {
  for (int n = 2; n <= 512; n *= 2) {
    Random random(static_cast<uint64_t>(n));
    std::vector<double> x(static_cast<size_t>(n));
    for (double& v : x) v = random.normal();
    const std::vector<double> expected = by_definition(x);
    std::vector<float> single(x.begin(), x.end());
    hadamard(x.data(), n);
    hadamard(single.data(), n);
    // log2(n) + 2 roundings of values whose rms is that of x (about 1); five sigma of their random sum.
    const double steps = std::log2(n) + 2;
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(x[i], expected[i], 1e-13 * steps) << n;
      EXPECT_NEAR(single[i], expected[i], 5 * 0x1p-24 * steps) << n;
    }
  }
}

TEST(Hadamard, IsItsOwnInverse) {
  for (int n = 2; n <= 512; n *= 2) {
    Random random(77);
    std::vector<double> x(static_cast<size_t>(n));
    for (double& v : x) v = random.normal();
    std::vector<double> y = x;
    hadamard(y.data(), n);
    hadamard(y.data(), n);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], 1e-13);
  }
}

TEST(Hadamard, SumsAreExactOnSmallIntegers) {
  for (int n = 2; n <= 512; n *= 2) {
    std::vector<float> x(static_cast<size_t>(n), 1.0f);
    hadamard_sums(x.data(), n);
    for (int i = 0; i < n; ++i)
      EXPECT_EQ(x[static_cast<size_t>(i)], i == 0 ? static_cast<float>(n) : 0.0f) << n;
  }
}

}  // namespace
}  // namespace hlwq
