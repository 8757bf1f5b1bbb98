// Rounding by moments: its objective against plain rounding, its searches against each other.
#include "quant/calibrated_rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <random>

#include "base/cpu.h"
#include "hlwq/error.h"
#include "quant/feedback_search.h"
#include "quant/hadamard.h"
#include "quant/linear_algebra.h"

namespace hlwq {
namespace {

std::vector<float> gaussian(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> gauss;
  std::vector<float> x(n);
  for (float& v : x) v = gauss(rng);
  return x;
}

/// Inputs whose columns follow each other: x_i = 0.9 x_(i-1) + noise, some of them ten times as large.
std::vector<float> correlated_inputs(uint64_t tokens, uint64_t cols, uint32_t seed) {
  std::vector<float> x = gaussian(tokens * cols, seed);
  for (uint64_t t = 0; t < tokens; ++t)
    for (uint64_t i = 1; i < cols; ++i)
      x[t * cols + i] = 0.9f * x[t * cols + i - 1] + 0.44f * x[t * cols + i];
  for (uint64_t t = 0; t < tokens; ++t)
    for (uint64_t i = 7; i < cols; i += 31) x[t * cols + i] *= 10;
  return x;
}

struct Rounded {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> norms;
  CodecStats stats;
};

/// Sum of squares of X (W - W')^T.
double output_error(const HlwqFormat& f, const Codebook& codebook, const Rounded& r,
                    const std::vector<float>& w, const std::vector<float>& x, uint64_t rows, uint64_t cols) {
  std::vector<float> decoded(cols);
  double error = 0;
  for (uint64_t i = 0; i < rows; ++i) {
    decode_row(f, codebook, &r.codes[i * f.row_bytes(cols)], &r.norms[i * f.row_blocks(cols)], cols,
               decoded.data());
    for (uint64_t t = 0; t < x.size() / cols; ++t) {
      double y = 0;
      for (uint64_t c = 0; c < cols; ++c)
        y += (w[i * cols + c] - decoded[c]) * static_cast<double>(x[t * cols + c]);
      error += y * y;
    }
  }
  return error;
}

Rounded plain(const HlwqFormat& f, const std::vector<float>& w, uint64_t rows, uint64_t cols,
              ThreadPool& pool) {
  Rounded r{
      std::vector<uint8_t>(rows * f.row_bytes(cols)), std::vector<uint16_t>(rows * f.row_blocks(cols)), {}};
  r.stats = encode_rows(f, standard_codebook(f.bits, f.lags), NormRule::kCorrected, w.data(), rows, cols, "w",
                        0, pool, r.codes.data(), r.norms.data());
  return r;
}

Rounded calibrated(const HlwqFormat& f, const InputMoments& moments, const std::vector<float>& w,
                   uint64_t rows, uint64_t cols, ThreadPool& pool, float damping = 0.01f) {
  Rounded r{
      std::vector<uint8_t>(rows * f.row_bytes(cols)), std::vector<uint16_t>(rows * f.row_blocks(cols)), {}};
  const RoundingPlan plan(moments, f.block, damping, pool);
  r.stats = round_rows(f, standard_codebook(f.bits, f.lags), plan, w.data(), rows, cols, "w", 0, pool,
                       r.codes.data(), r.norms.data());
  return r;
}

class CalibratedRounding : public testing::TestWithParam<HlwqFormat> {};

TEST_P(CalibratedRounding, LowersTheOutputsErrorOnInputsThatItHasNotSeen) {
  const HlwqFormat f = GetParam();
  // A last block that is partly padding, where the format's block allows it.
  const uint64_t rows = 24, cols = 3 * static_cast<uint64_t>(f.block) - 5, tokens = 4 * cols;
  ThreadPool pool(2);
  const auto w = gaussian(rows * cols, 1), x = correlated_inputs(tokens, cols, 2),
             fresh = correlated_inputs(64, cols, 3);
  InputMoments moments(cols);
  moments.add(x.data(), tokens / 2, 1);
  moments.add(x.data() + tokens / 2 * cols, tokens - tokens / 2, 2);
  EXPECT_EQ(moments.tokens(), tokens);
  const Codebook codebook = standard_codebook(f.bits, f.lags);
  const Rounded a = plain(f, w, rows, cols, pool), b = calibrated(f, moments, w, rows, cols, pool);
  const double before = output_error(f, codebook, a, w, fresh, rows, cols);
  const double after = output_error(f, codebook, b, w, fresh, rows, cols);
  // With neighbours correlated by 0.9 the geometric mean of the moments' eigenvalues is 0.19 of the
  // arithmetic mean, which is what feedback gains at best; most of it must arrive. Three lags have no
  // feedback inside a block.
  EXPECT_LT(after, (f.lags < 3 ? 0.6 : 1.02) * before);
  RecordProperty("gain", std::to_string(after / before));
  // The plain error grows, but weights stay what they are.
  EXPECT_LT(b.stats.relative_mse(), 15 * a.stats.relative_mse());
  EXPECT_GT(b.stats.cosine(), f.bits == 2 ? 0.8 : 0.95);
}

TEST_P(CalibratedRounding, WithoutCorrelationItIsPlainRounding) {
  const HlwqFormat f = GetParam();
  const uint64_t rows = 48, cols = 2 * static_cast<uint64_t>(f.block);
  ThreadPool pool(2);
  const auto w = gaussian(rows * cols, 4);
  InputMoments moments(cols);
  std::vector<float> identity(cols * cols, 0.0f);
  for (uint64_t i = 0; i < cols; ++i) identity[i * cols + i] = 1;
  moments.add(identity.data(), cols, 1);
  const Rounded a = plain(f, w, rows, cols, pool), b = calibrated(f, moments, w, rows, cols, pool);
  // Two lags: the same scales and, but for rounding, the same searches; only the code that closes a ring is
  // found otherwise. Scalar codes are chosen here after the norm, not before, and three lags close the ring
  // at one scale: within a fifth.
  EXPECT_LT(b.stats.relative_mse(), (f.lags == 2 ? 1.02 : 1.2) * a.stats.relative_mse());
}

TEST_P(CalibratedRounding, IsTheSameForAnyNumberOfThreads) {
  const HlwqFormat f = GetParam();
  const uint64_t rows = 70, cols = 2 * static_cast<uint64_t>(f.block);
  ThreadPool one(1), three(3);
  const auto w = gaussian(rows * cols, 5), x = correlated_inputs(200, cols, 6);
  InputMoments moments(cols);
  moments.add(x.data(), 200, 1);
  const RoundingPlan plan(moments, f.block, 0.05f, one);
  const Codebook codebook = standard_codebook(f.bits, f.lags);
  std::vector<uint8_t> codes[2];
  std::vector<uint16_t> norms[2];
  for (int i = 0; i < 2; ++i) {
    codes[i].resize(rows * f.row_bytes(cols));
    norms[i].resize(rows * f.row_blocks(cols));
    round_rows(f, codebook, plan, w.data(), rows, cols, "w", 0, i ? three : one, codes[i].data(),
               norms[i].data());
  }
  EXPECT_EQ(codes[0], codes[1]);
  EXPECT_EQ(norms[0], norms[1]);
}

INSTANTIATE_TEST_SUITE_P(Formats, CalibratedRounding,
                         testing::Values(HlwqFormat{4, 1, 128}, HlwqFormat{8, 1, 32}, HlwqFormat{2, 2, 64},
                                         HlwqFormat{3, 2, 128}, HlwqFormat{4, 2, 32}, HlwqFormat{5, 2, 128},
                                         HlwqFormat{6, 2, 64}, HlwqFormat{3, 3, 64}),
                         [](const auto& test) {
                           const HlwqFormat& f = test.param;
                           return "q" + std::to_string(f.bits) + "l" + std::to_string(f.lags) + "b" +
                                  std::to_string(f.block);
                         });

TEST(CalibratedRounding, MomentsThatSayLittleDoNoHarm) {
  const HlwqFormat f{4, 2, 64};
  const uint64_t rows = 8, cols = 128;
  ThreadPool pool(1);
  const auto w = gaussian(rows * cols, 7);
  for (const uint64_t tokens : {0, 1, 3}) {  // singular, or nothing at all
    InputMoments moments(cols);
    const auto x = gaussian(std::max<uint64_t>(tokens, 1) * cols, 8);
    moments.add(x.data(), tokens, 1);
    const Rounded r = calibrated(f, moments, w, rows, cols, pool, 0);
    EXPECT_GT(r.stats.cosine(), 0.9) << tokens;
  }
}

TEST(CalibratedRounding, BadNumbersAreNamed) {
  const HlwqFormat f{4, 2, 64};
  ThreadPool pool(1);
  InputMoments moments(128);
  auto x = gaussian(4 * 128, 9), w = gaussian(2 * 128, 10);
  moments.add(x.data(), 4, 1);
  w[128 + 70] = NAN;
  try {
    calibrated(f, moments, w, 2, 128, pool);
    FAIL() << "NaN went through";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("row 1"), std::string::npos) << e.what();
  }
  w = gaussian(2 * 128, 10);
  for (float& v : w) v *= 1e6f;
  EXPECT_THROW(calibrated(f, moments, w, 2, 128, pool), Error);
  x[5] = INFINITY;
  moments.add(x.data(), 4, 1);
  EXPECT_THROW(RoundingPlan(moments, 64, 0.01f, pool), Error);
  const RoundingPlan other(InputMoments(64), 64, 0.01f, pool);
  std::vector<uint8_t> codes(2 * f.row_bytes(128));
  std::vector<uint16_t> norms(4);
  EXPECT_THROW(round_rows(f, standard_codebook(4, 2), other, w.data(), 2, 128, "w", 0, pool, codes.data(),
                          norms.data()),
               Error);
}

TEST(LinearAlgebra, FactorsReproduceTheMatrix) {
  const uint64_t n = 70;
  const auto x = gaussian(2 * n * n, 11);
  std::vector<float> a(n * n);
  add_gram(a.data(), n, x.data(), 2 * n, 2);
  std::vector<float> r = a;
  ASSERT_TRUE(factor_upper(r.data(), n, 1));
  double error = 0, size = 0;
  for (uint64_t i = 0; i < n; ++i)
    for (uint64_t j = i; j < n; ++j) {
      double direct = 0, product = 0;
      for (uint64_t t = 0; t < 2 * n; ++t) direct += static_cast<double>(x[t * n + i]) * x[t * n + j];
      for (uint64_t k = 0; k < n; ++k) product += static_cast<double>(r[i * n + k]) * r[j * n + k];
      // Float sums of 140 products of size up to 10.
      ASSERT_NEAR(a[i * n + j], direct, 1e-3);
      error += (product - direct) * (product - direct), size += direct * direct;
    }
  // Cholesky is backward stable: a few times n * 2^-24.
  EXPECT_LT(std::sqrt(error / size), 10 * n * 0x1p-24);
  a.assign(n * n, 0.0f);
  EXPECT_FALSE(factor_upper(a.data(), n, 1));
}

TEST(FeedbackSearch, VectorsFindTheScalarCodes) {
  if (!detect_cpu().avx512)
    std::cout << "[ not run  ] AVX-512 search: this processor lacks its instructions\n";
  for (const int bits : {2, 3, 4, 5, 6})
    for (const int block : {32, 128})
      for (uint32_t seed = 0; seed < 6; ++seed) {
        const Codebook c = standard_codebook(bits, 2);
        const auto n = static_cast<size_t>(block);
        const auto own = gaussian(n, seed), aim = gaussian(n, seed + 100);
        auto feedback = gaussian(n * n, seed + 200), weight = gaussian(n, seed + 300);
        std::vector<float> target(n);
        for (size_t i = 0; i < n; ++i)
          target[i] = own[i] + 0.1f * aim[i], weight[i] = 0.1f + std::fabs(weight[i]);
        for (float& v : feedback) v *= 0.1f;
        const FeedbackProblem problem{block,         1 << bits,       own.data(),
                                      target.data(), feedback.data(), n,
                                      weight.data(), c.values.data(), c.values.data() + (1 << bits)};
        FeedbackScratch scratch;
        std::vector<uint8_t> expected(n), got(n);
        for (const int anchor : {-1, 0, (1 << bits) - 1}) {
          feedback_search_scalar(problem, anchor, scratch, expected.data());
          select_feedback_search(detect_cpu())(problem, anchor, scratch, got.data());
          ASSERT_EQ(expected, got) << bits << " bits, block " << block << ", anchor " << anchor;
          if (anchor >= 0) {
            ASSERT_EQ(expected.back(), anchor);
          }
        }
      }
}

}  // namespace
}  // namespace hlwq
