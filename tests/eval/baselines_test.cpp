// INT4 and NF4 against plain references, and what comparing makes of them.
#include "eval/baselines.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/half.h"

namespace hlwq {
namespace {

std::vector<float> gaussian(size_t n, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal(0, 0.05f);
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  return x;
}

double relative_mse(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, power = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(static_cast<double>(x[i]) - y[i], 2);
    power += std::pow(static_cast<double>(x[i]), 2);
  }
  return error / power;
}

TEST(Int4, RoundsEachGroupToItsNearestLevel) {
  for (const size_t n : {1u, 127u, 128u, 300u}) {
    const std::vector<float> x = gaussian(n, n);
    std::vector<float> y = x;
    round_int4(y);
    for (size_t g = 0; g < n; g += 128) {
      const size_t end = std::min(n, g + 128);
      float top = 0;
      for (size_t i = g; i < end; ++i) top = std::max(top, std::abs(x[i]));
      const float scale = fp16_to_float(float_to_fp16(top / 7));
      for (size_t i = g; i < end; ++i) {
        float best = INFINITY;
        for (int level = -7; level <= 7; ++level)
          if (std::abs(x[i] - static_cast<float>(level) * scale) < std::abs(x[i] - best))
            best = static_cast<float>(level) * scale;
        // Two levels as near as floats can tell may differ by a step; distances then agree to rounding.
        EXPECT_NEAR(std::abs(x[i] - y[i]), std::abs(x[i] - best), 1e-6f * scale) << n << " " << i;
        EXPECT_NEAR(y[i] / scale, std::round(y[i] / scale), 1e-5);
      }
    }
  }
}

// Levels from the normal quantile function, by bisection of erfc.
double quantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 200; ++i) {
    const double mid = (low + high) / 2;
    (std::erfc(-mid / std::sqrt(2.0)) / 2 < p ? low : high) = mid;
  }
  return low;
}

TEST(Nf4, LevelsAreNormalQuantiles) {
  // The largest probability is the mean of 1 - 1/32 and 1 - 1/30: a half step inside 1 for 16 and 15 levels.
  const double top = 1 - (1.0 / 32 + 1.0 / 30) / 2, largest = quantile(top);
  for (int i = 0; i < 8; ++i) {  // positive: 8 steps from 1/2 (which is left out) to top
    const double level = quantile(0.5 + (top - 0.5) * (i + 1) / 8) / largest;
    EXPECT_NEAR(nf4_levels()[static_cast<size_t>(8 + i)], level, 2e-7) << i;
  }
  for (int i = 0; i < 7; ++i) {
    const double level = -quantile(0.5 + (top - 0.5) * (i + 1) / 7) / largest;
    EXPECT_NEAR(nf4_levels()[static_cast<size_t>(6 - i)], level, 2e-7) << i;
  }
  EXPECT_EQ(nf4_levels()[7], 0);
}

TEST(Nf4, RoundsEachGroupToItsNearestLevel) {
  const std::vector<float> x = gaussian(200, 7);
  std::vector<float> y = x;
  round_nf4(y);
  for (size_t g = 0; g < x.size(); g += 64) {
    const size_t end = std::min(x.size(), g + 64);
    float scale = 0;
    for (size_t i = g; i < end; ++i) scale = std::max(scale, std::abs(x[i]));
    for (size_t i = g; i < end; ++i) {
      float best = INFINITY;
      for (const float level : nf4_levels())
        if (std::abs(x[i] - level * scale) < std::abs(x[i] - best)) best = level * scale;
      EXPECT_NEAR(std::abs(x[i] - y[i]), std::abs(x[i] - best), 1e-6f * scale) << i;
    }
  }
}

TEST(Baselines, ZeroGroupsStayZero) {
  std::vector<float> x(200, 0.0f);
  round_int4(x);
  round_nf4(x);
  for (const float v : x) EXPECT_EQ(v, 0);
}

// Of Gaussian weights. INT4: a step is absmax / 7 and its error step^2 / 12; the largest of 128 normals has a
// mean square of 8.15, so 8.15 / 49 / 12 = 0.0139. NF4 by simulation in float64: 0.00845.
TEST(Baselines, ErrorsOnGaussianWeights) {
  const std::vector<float> x = gaussian(128 * 2000, 3);
  std::vector<float> int4 = x, nf4 = x;
  for (size_t i = 0; i < x.size(); i += 1280) round_int4({int4.data() + i, 1280});
  round_nf4(nf4);
  EXPECT_NEAR(relative_mse(x, int4), 0.0139, 0.0005);
  EXPECT_NEAR(relative_mse(x, nf4), 0.00845, 0.0003);
}

TEST(Baselines, BytesCountCodesAndScales) {
  EXPECT_EQ(baseline_bytes(Baseline::kInt4, 10, 256), 10u * (128 + 4));
  EXPECT_EQ(baseline_bytes(Baseline::kInt4, 10, 130), 10u * (65 + 4));
  EXPECT_EQ(baseline_bytes(Baseline::kNf4, 8, 576), 8u * 576 / 2 + 72 * 4);  // 4.5 bits
}

}  // namespace
}  // namespace hlwq
