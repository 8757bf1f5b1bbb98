// Every implementation of the HLWQ linear, over widths, blocks and awkward shapes, against exact arithmetic.
#include "ops/ops_test_util.h"

namespace hlwq {
namespace {

using test::OwnedMatrix;

struct Case {
  const Kernels* kernels;
  int bits, block, lags;
};

std::vector<Case> all_cases(int max_lags) {
  std::vector<Case> cases;
  for (const Kernels* kernels : test::runnable_kernels())
    for (int lags = 1; lags <= max_lags; ++lags)
      for (int bits = 2; bits <= (lags == 1 ? 8 : 6); ++bits)
        for (int block : {32, 64, 128, 256, 512}) cases.push_back({kernels, bits, block, lags});
  return cases;
}

/// The formats that have a standard codebook.
std::vector<Case> trained_cases() {
  std::vector<Case> cases = all_cases(3);
  std::erase_if(cases, [](const Case& c) { return !has_standard_codebook(c.bits, c.lags); });
  return cases;
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return std::string(c.kernels->name) + "_q" + std::to_string(c.bits) + "_b" + std::to_string(c.block) +
         (c.lags > 1 ? "_l" + std::to_string(c.lags) : "");
}

class HlwqLinear : public testing::TestWithParam<Case> {
 protected:
  /// Runs rows [begin, end) and compares each output with the exact value of the same integers.
  void check(const OwnedMatrix& m, const QuantizedActivations& a, uint64_t begin, uint64_t end) {
    const uint64_t stride = m.matrix.rows + 3;
    const float untouched = -12345.0f;
    std::vector<float> y(a.tokens * stride, untouched);
    GetParam().kernels->linear.hlwq_rows(m.matrix, a, begin, end, y.data(), stride);
    for (uint64_t t = 0; t < a.tokens; ++t)
      for (uint64_t r = 0; r < stride; ++r) {
        const float got = y[t * stride + r];
        if (r < begin || r >= end) {
          ASSERT_EQ(got, untouched) << "wrote outside its rows: row " << r << ", token " << t;
          continue;
        }
        const auto e = test::exact_output(m, a, r, t);
        ASSERT_NEAR(got, e.value, e.tolerance) << "row " << r << ", token " << t << ", blocks " << a.blocks;
      }
  }
};

TEST_P(HlwqLinear, MatchesExactArithmetic) {
  const Case& c = GetParam();
  const HlwqFormat format{c.bits, c.lags, c.block};
  for (uint64_t cols : {uint64_t{1}, static_cast<uint64_t>(c.block) - 3, static_cast<uint64_t>(c.block) * 3,
                        static_cast<uint64_t>(c.block) * 2 + 7})
    for (uint64_t rows : {1, 3, 17, 50})
      for (uint64_t tokens : {1, 2, 5, 33}) {
        OwnedMatrix m(format, rows, cols, static_cast<uint32_t>(rows * 31 + cols));
        const auto x = test::gaussian(tokens * cols, static_cast<uint32_t>(tokens));
        const auto a = test::quantize(*c.kernels, x, tokens, cols, c.block);
        check(m, a, 0, rows);
        if (HasFatalFailure()) return;
      }
}

TEST_P(HlwqLinear, WritesOnlyItsRows) {
  const Case& c = GetParam();
  OwnedMatrix m({c.bits, c.lags, c.block}, 71, 300, 5);
  for (uint64_t tokens : {1, 4, 40}) {
    const auto x = test::gaussian(tokens * 300, 6);
    const auto a = test::quantize(*c.kernels, x, tokens, 300, c.block);
    for (auto [begin, end] : {std::pair{0, 1}, {1, 34}, {5, 5}, {32, 71}, {70, 71}}) {
      check(m, a, static_cast<uint64_t>(begin), static_cast<uint64_t>(end));
      if (HasFatalFailure()) return;
    }
  }
}

// The largest sums that can occur: any saturating or too narrow intermediate shows.
TEST_P(HlwqLinear, ExtremeCodesAndActivationsDoNotSaturate) {
  const Case& c = GetParam();
  const HlwqFormat format{c.bits, c.lags, c.block};
  const uint64_t rows = 6, cols = static_cast<uint64_t>(c.block) * 2;
  OwnedMatrix m(format, rows, cols, 1);
  const uint8_t top = static_cast<uint8_t>(format.levels() / 2 - 1),
                bottom = static_cast<uint8_t>(format.levels() - 1);
  for (uint64_t r = 0; r < rows; ++r)
    for (uint64_t i = 0; i < cols; ++i) {
      const uint8_t alternating = i % 2 ? top : bottom, halves = i % 4 < 2 ? top : bottom;
      const uint8_t patterns[] = {top,    bottom, alternating,
                                  halves, 0,      static_cast<uint8_t>(format.levels() / 2)};
      m.stored[r * cols + i] = patterns[r];
    }
  m.pack();
  for (uint64_t tokens : {4, 36}) {
    QuantizedActivations a;
    a.resize(tokens, cols, c.block);
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t b = 0; b < a.blocks; ++b) {
        int sum = 0;
        for (int i = 0; i < c.block; ++i) {
          const int signs[] = {1, -1, i % 2 ? 1 : -1, i % 4 < 2 ? 1 : -1};
          const int q = 127 * signs[t % 4];
          a.q[(t * a.blocks + b) * c.block + i] = static_cast<int8_t>(q);
          sum += q;
        }
        a.scale[t * a.blocks + b] = 0.01f;
        a.sum[t * a.blocks + b] = sum;
      }
    a.add_turns(c.lags);
    for (uint64_t t = 0; t < tokens; ++t) {  // one token at a time takes the decode path
      QuantizedActivations one;
      one.resize(1, cols, c.block);
      std::copy_n(&a.q[t * cols], cols, one.q.begin());
      std::copy_n(&a.scale[t * a.blocks], a.blocks, one.scale.begin());
      std::copy_n(&a.sum[t * a.blocks], a.blocks, one.sum.begin());
      one.add_turns(c.lags);
      check(m, one, 0, rows);
      if (HasFatalFailure() || t == 4) break;
    }
    check(m, a, 0, rows);
    if (HasFatalFailure()) return;
  }
}

class HlwqChain : public testing::TestWithParam<Case> {};

// The whole chain against the decoded weight and the unrounded input: the error is that of INT8 activations
// and tables.
TEST_P(HlwqChain, AgreesWithTheDecodedWeight) {
  const Case& c = GetParam();
  const HlwqFormat format{c.bits, c.lags, c.block};
  const uint64_t rows = 40, cols = static_cast<uint64_t>(c.block) * 4 - 5, tokens = 3;
  OwnedMatrix m(format, rows, cols, 3);
  // Draw codes as a Gaussian would, so that the tables' weighting is the one they were made for.
  const auto u = test::gaussian(m.stored.size(), 4);
  for (size_t i = 0; i < u.size(); ++i) {
    int best = 0;
    for (int q = 1; q < format.levels(); ++q)
      if (std::fabs(m.codebook.values[q] - u[i]) < std::fabs(m.codebook.values[best] - u[i])) best = q;
    m.stored[i] = static_cast<uint8_t>(best);
  }
  m.pack();
  const auto x = test::gaussian(tokens * cols, 8);
  const auto a = test::quantize(*c.kernels, x, tokens, cols, c.block);
  std::vector<float> y(tokens * rows), w(cols);
  c.kernels->linear.hlwq_rows(m.matrix, a, 0, rows, y.data(), rows);
  double error = 0, signal = 0;
  for (uint64_t r = 0; r < rows; ++r) {
    decode_row(format, m.codebook, &m.codes[r * format.row_bytes(cols)], &m.norms[r * a.blocks], cols,
               w.data());
    for (uint64_t t = 0; t < tokens; ++t) {
      double exact = 0;
      for (uint64_t i = 0; i < cols; ++i) exact += static_cast<double>(w[i]) * x[t * cols + i];
      error += (y[t * rows + r] - exact) * (y[t * rows + r] - exact);
      signal += exact * exact;
    }
  }
  // Relative squared error, both sources uniform rounding errors of a Gaussian. Activations: step^2 / 12 with
  // step = absmax / 127, absmax < 4.5 sigma even at block 512: 1.05e-4. Tables of bits <= 5: values carry at
  // most (step / 2)^2 with step <= 1 / 35 of sigma: 2.1e-4 in the worst case. Twice that for the spread of
  // 120 samples.
  EXPECT_LT(error / signal, 2 * (1.05e-4 + 2.1e-4));
}

INSTANTIATE_TEST_SUITE_P(Kernels, HlwqLinear, testing::ValuesIn(all_cases(3)), case_name);

INSTANTIATE_TEST_SUITE_P(Kernels, HlwqChain, testing::ValuesIn(trained_cases()), case_name);

// Rotated activations are the same integers everywhere, so that no text depends on the processor.
class RotateQuantize : public testing::TestWithParam<const Kernels*> {};

TEST_P(RotateQuantize, SameBitsAsScalar) {
  for (int block : {32, 64, 128, 256, 512})
    for (uint64_t cols : {1, 31, 127, 128, 512, 1000, 1100}) {
      auto x = test::gaussian(cols, static_cast<uint32_t>(cols));
      if (cols > 600) std::fill(x.begin(), x.begin() + 512, 0.0f);  // a zero block
      const auto want = test::quantize(kScalarKernels, x, 1, cols, block);
      const auto got = test::quantize(*GetParam(), x, 1, cols, block);
      EXPECT_EQ(got.q, want.q) << "block " << block << ", cols " << cols;
      EXPECT_EQ(got.scale, want.scale);
      EXPECT_EQ(got.sum, want.sum);
    }
}

TEST_P(RotateQuantize, IsTheScaledHadamardTransform) {
  const int block = 128;
  const auto x = test::gaussian(block, 2);
  const auto a = test::quantize(*GetParam(), x, 1, block, block);
  int sum = 0;
  for (int i = 0; i < block; ++i) {
    double h = 0;
    for (int j = 0; j < block; ++j) h += (__builtin_popcount(i & j) % 2 ? -1 : 1) * static_cast<double>(x[j]);
    // scale holds 1 / sqrt(block) for the rotation, and another for the weight's norm: h / block ~ scale * q.
    EXPECT_NEAR(a.q[i] * a.scale[0], h / block, a.scale[0] * 0.501);
    sum += a.q[i];
  }
  EXPECT_EQ(a.sum[0], sum);
  EXPECT_EQ(*std::max_element(a.q.begin(), a.q.begin() + block,
                              [](int8_t p, int8_t q) { return std::abs(p) < std::abs(q); }) *
                *std::max_element(a.q.begin(), a.q.begin() + block,
                                  [](int8_t p, int8_t q) { return std::abs(p) < std::abs(q); }),
            127 * 127);
}

TEST_P(RotateQuantize, BadInputStaysVisibleAndTinyInputIsZero) {
  std::vector<float> x(256, 1.0f);
  x[130] = std::nanf("");
  auto a = test::quantize(*GetParam(), x, 1, 256, 128);
  EXPECT_TRUE(std::isfinite(a.scale[0]));
  EXPECT_TRUE(std::isnan(a.scale[1]));
  x[130] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(test::quantize(*GetParam(), x, 1, 256, 128).scale[1]));
  x.assign(256, 1e-42f);  // 127 / absmax overflows
  a = test::quantize(*GetParam(), x, 1, 256, 128);
  EXPECT_EQ(a.sum[0], 0);
  EXPECT_TRUE(std::isfinite(a.scale[0]));
}

INSTANTIATE_TEST_SUITE_P(Kernels, RotateQuantize, testing::ValuesIn(test::runnable_kernels()),
                         [](const auto& p) { return std::string(p.param->name); });

}  // namespace
}  // namespace hlwq
