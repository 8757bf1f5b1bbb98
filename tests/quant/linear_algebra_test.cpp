#include "quant/linear_algebra.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace hlwq {
namespace {

std::vector<float> gram(uint64_t n, int threads) {
  std::mt19937 random(static_cast<uint32_t>(n));
  std::normal_distribution<float> normal;
  std::vector<float> x(2 * n * n), a(n * n);
  for (float& v : x) v = normal(random);
  // In two calls, as sums of several inputs come.
  add_gram(a.data(), n, x.data(), n, threads);
  add_gram(a.data(), n, x.data() + n * n, n, threads);
  return a;
}

// 300 and 385 are more than one panel, the last not whole.
constexpr uint64_t kSizes[] = {1, 100, 128, 300, 385};

TEST(LinearAlgebra, FactorsGiveTheMatrixBack) {
  for (const uint64_t n : kSizes) {
    const std::vector<float> a = gram(n, 2);
    std::vector<float> r = a;
    ASSERT_TRUE(factor_upper(r.data(), n, 2));
    for (uint64_t i = 0; i < n; ++i)
      for (uint64_t j = 0; j < n; ++j) {
        if (j < i) {
          ASSERT_EQ(r[i * n + j], 0);
          continue;
        }
        double sum = 0;
        for (uint64_t k = j; k < n; ++k) sum += static_cast<double>(r[i * n + k]) * r[j * n + k];
        // Cholesky's backward error: at most (n + 1) units of rounding of sqrt(a_ii a_jj).
        const double bound =
            static_cast<double>(n + 1) * 6e-8 * std::sqrt(static_cast<double>(a[i * n + i]) * a[j * n + j]);
        ASSERT_NEAR(sum, a[i * n + j], bound) << n << ": " << i << ", " << j;
      }
  }
}

TEST(LinearAlgebra, ThreadsDoNotChangeABit) {
  for (const uint64_t n : kSizes) {
    const std::vector<float> a = gram(n, 1);
    std::vector<float> r = a;
    ASSERT_TRUE(factor_upper(r.data(), n, 1));
    for (const int threads : {2, 3, 4}) {
      EXPECT_EQ(gram(n, threads), a) << n;
      std::vector<float> other = a;
      ASSERT_TRUE(factor_upper(other.data(), n, threads));
      EXPECT_EQ(other, r) << n;
    }
  }
}

TEST(LinearAlgebra, SaysWhenThereIsNoFactor) {
  constexpr uint64_t n = 200;
  for (const uint64_t at : {uint64_t{0}, uint64_t{60}, uint64_t{199}}) {
    std::vector<float> a(n * n, 0.0f);
    for (uint64_t i = 0; i < n; ++i) a[i * n + i] = i == at ? -1.0f : 1.0f;
    EXPECT_FALSE(factor_upper(a.data(), n, 2));
  }
}

TEST(LinearAlgebra, MultiplyWithStrides) {
  // 2 x 3 times 3 x 2, each inside wider rows.
  const float e[] = {1, 2, 3, 9, 4, 5, 6, 9}, b[] = {1, 2, 9, 3, 4, 9, 5, 6, 9};
  float out[6] = {};
  use_one_thread_per_product();
  multiply(e, 4, b, 3, 2, 3, 2, out, 3);
  const float expected[] = {22, 28, 0, 49, 64, 0};
  EXPECT_TRUE(std::equal(out, out + 6, expected));
}

}  // namespace
}  // namespace hlwq
