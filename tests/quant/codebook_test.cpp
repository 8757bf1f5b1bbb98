#include "quant/codebook.h"

#include <gtest/gtest.h>

#include "hlwq/error.h"
#include "quant_test_util.h"

namespace hlwq {
namespace {

double density(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi); }
double tail(double x) { return 0.5 * std::erfc(x / std::numbers::sqrt2); }

float top(const Codebook& c) { return c.values[c.values.size() / 2 - 1]; }

// Golden tables are in ascending order; ours by stored code.
void expect_table(const TensorSource& file, const std::string& name, const Codebook& codebook,
                  double tolerance) {
  const Tensor& t = file.at(name);
  std::vector<float> expected(t.elements());
  decode_rows(t, 0, 1, expected.data());
  ASSERT_EQ(expected.size(), codebook.values.size());
  for (size_t n = 0; n < expected.size(); ++n)
    EXPECT_NEAR(codebook.value(stored_code(static_cast<int>(n), codebook.bits)), expected[n], tolerance)
        << name << " level " << n;
}

TEST(Codebook, ConvergedAgreesWithTheOracle) {
  const auto file = open_safetensors(quant_golden("codec.safetensors"));
  // Both sides solve to 1e-10 and round to float (relative 2^-24, values under 5): half an ulp each.
  for (int bits = 2; bits <= 8; ++bits)
    expect_table(*file, std::string("codebook.converged.q") + std::to_string(bits), lloyd_max_codebook(bits),
                 5e-7);
}

TEST(Codebook, EveryCentroidIsTheMeanOfItsCell) {
  for (int bits = 2; bits <= 8; ++bits) {
    const Codebook c = lloyd_max_codebook(bits);
    const size_t half = c.values.size() / 2;
    for (size_t m = 0; m < half; ++m) {
      const double a = m > 0 ? 0.5 * (c.values[m - 1] + c.values[m]) : 0;
      const double b = m + 1 < half ? 0.5 * (c.values[m] + c.values[m + 1]) : INFINITY;
      const double mean =
          (density(a) - (b == INFINITY ? 0 : density(b))) / (tail(a) - (b == INFINITY ? 0 : tail(b)));
      // Values are floats: half an ulp of themselves and of both neighbours, under 5 * 2^-24 each.
      EXPECT_NEAR(c.values[m], mean, 1e-6) << bits << " bits, magnitude " << m;
    }
  }
}

TEST(Codebook, MseAndTopCentroidMatchTheDesignTable) {
  const double mse[] = {0.117482, 0.034548, 0.009501, 0.002505, 0.000642};
  const double centroid[] = {1.51042, 2.15195, 2.73259, 3.26073, 3.74446};
  for (int bits = 2; bits <= 6; ++bits) {
    const Codebook c = lloyd_max_codebook(bits);
    EXPECT_NEAR(gaussian_mse(c) / mse[bits - 2], 1, 0.005) << bits;
    EXPECT_NEAR(top(c), centroid[bits - 2], 0.001) << bits;
  }
}

TEST(Codebook, MseIsWhatGaussianSamplesSuffer) {
  // The squared error's deviation is below 1.5 times its mean at every width: 0.15 % over a million samples.
  constexpr int kSamples = 1'000'000;
  for (const int bits : {2, 3, 4, 5, 6}) {
    const Codebook c = lloyd_max_codebook(bits);
    const size_t half = c.values.size() / 2;
    Random random(100 + static_cast<uint64_t>(bits));
    double sum = 0;
    for (int i = 0; i < kSamples; ++i) {
      const double x = std::abs(random.normal());
      const auto above =
          std::lower_bound(c.values.begin(), c.values.begin() + static_cast<ptrdiff_t>(half), x);
      double d = INFINITY;
      if (above != c.values.begin() + static_cast<ptrdiff_t>(half)) d = *above - x;
      if (above != c.values.begin()) d = std::min(d, x - *(above - 1));
      sum += d * d;
    }
    EXPECT_NEAR(sum / kSamples / gaussian_mse(c), 1, 0.005) << bits;
  }
}

TEST(Codebook, NothingBeatsTheConvergedTable) {
  for (int bits = 2; bits <= 8; ++bits) {
    const Codebook best = lloyd_max_codebook(bits);
    Codebook other = best;
    for (float& v : other.values) v *= 1.001f;
    EXPECT_LT(gaussian_mse(best), gaussian_mse(other));
    EXPECT_LT(gaussian_mse(best), gaussian_mse(published_codebook(bits, PublishedVariant::kFinite4)) + 1e-12);
    EXPECT_LT(gaussian_mse(best),
              gaussian_mse(published_codebook(bits, PublishedVariant::kInfinite)) + 1e-12);
  }
}

TEST(Codebook, PublishedTablesAgreeWithTheOracle) {
  const auto file = open_safetensors(quant_golden("codec.safetensors"));
  for (int bits = 2; bits <= 8; ++bits) {
    const std::string q = std::string(".q") + std::to_string(bits);
    // A rounds to single precision a hundred times over; a last-bit difference in exp or erf shifts a
    // boundary by an ulp, which the contraction keeps from growing. B rounds once.
    expect_table(*file, "codebook.published-a" + q, published_codebook(bits, PublishedVariant::kFinite4),
                 4e-6);
    expect_table(*file, "codebook.published-b" + q, published_codebook(bits, PublishedVariant::kInfinite),
                 1e-6);
  }
}

TEST(Codebook, PublishedFiveBitsAreKnownByTheirTopCentroid) {
  const Codebook a = published_codebook(5, PublishedVariant::kFinite4),
                 b = published_codebook(5, PublishedVariant::kInfinite);
  EXPECT_NEAR(top(a), 3.4231, 5e-5);
  EXPECT_NEAR(top(b), 3.5516, 5e-5);
  EXPECT_NEAR(gaussian_mse(a), 2.902e-3, 5e-7);
  EXPECT_NEAR(gaussian_mse(b), 2.923e-3, 5e-7);
}

TEST(Codebook, OddAndAscending) {
  for (int bits = 2; bits <= 8; ++bits)
    for (const Codebook& c : {lloyd_max_codebook(bits), published_codebook(bits, PublishedVariant::kFinite4),
                              published_codebook(bits, PublishedVariant::kInfinite)})
      for (int n = 0; n < 1 << bits; ++n) {
        EXPECT_EQ(c.value(stored_code(n, bits)), -c.value(stored_code((1 << bits) - 1 - n, bits)));
        if (n > 0) {
          EXPECT_LT(c.value(stored_code(n - 1, bits)), c.value(stored_code(n, bits)));
        }
      }
}

TEST(Codebook, OtherWidthsAreRefused) {
  for (const int bits : {-1, 0, 1, 9, 64}) EXPECT_THROW(lloyd_max_codebook(bits), Error) << bits;
}

}  // namespace
}  // namespace hlwq
