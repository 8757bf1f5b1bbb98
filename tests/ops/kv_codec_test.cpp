// Coded head vectors: their error on Gaussian data is the theory's, and odd input stays what it is.
#include <limits>

#include "ops/kv_codec.h"
#include "ops/ops_test_util.h"

namespace hlwq {
namespace {

struct Encoded {
  std::vector<float> rotated;
  std::vector<uint8_t> codes;
  uint16_t norm = 0;
};

Encoded encode(const KvCodec& codec, const std::vector<float>& x) {
  Encoded e{std::vector<float>(x.size()), std::vector<uint8_t>(codec.row_bytes()), 0};
  codec.encode(x.data(), e.rotated.data(), e.codes.data(), &e.norm);
  return e;
}

class KvCodecTest : public testing::TestWithParam<int> {};

// Rotation keeps angles, so cosines may be taken between rotated vectors. The cosine of a converged Lloyd-Max
// quantiser is sqrt(1 - D), D its relative error: 0.117482, 0.034548, 0.009501 at 2, 3, 4 bits. A normalised
// vector of d values is not quite Gaussian (its kurtosis is 3 d / (d + 2)), which lowers D by some 1/d.
TEST_P(KvCodecTest, CosineOnGaussianDataIsTheorys) {
  const int bits = GetParam();
  const double theory[] = {0, 0, 0.93942, 0.98257, 0.99524};
  for (uint64_t d : {64, 128, 256, 512}) {
    const KvCodec codec(bits, d);
    double dot = 0, xx = 0, yy = 0;
    std::vector<float> decoded(d);
    for (uint32_t n = 0; n < 200000 / d; ++n) {
      const auto x = test::gaussian(d, n + 1);
      const Encoded e = encode(codec, x);
      kScalarKernels.attention.decode_codes(codec.matrix(e.codes.data(), &e.norm, 1), decoded.data());
      for (uint64_t i = 0; i < d; ++i) {
        dot += static_cast<double>(e.rotated[i]) * decoded[i];
        xx += static_cast<double>(e.rotated[i]) * e.rotated[i];
        yy += static_cast<double>(decoded[i]) * decoded[i];
      }
    }
    const double error = 1 - theory[bits];
    EXPECT_NEAR(dot / std::sqrt(xx * yy), theory[bits], error * (0.015 + 5.0 / static_cast<double>(d))) << d;
  }
}

TEST_P(KvCodecTest, TheNormIsTheLeastSquaresOne) {
  const KvCodec codec(GetParam(), 128);
  const Encoded e = encode(codec, test::gaussian(128, 5));
  std::vector<float> decoded(128);
  const auto error = [&](float factor) {
    const uint16_t norm = float_to_fp16(fp16_to_float(e.norm) * factor);
    kScalarKernels.attention.decode_codes(codec.matrix(e.codes.data(), &norm, 1), decoded.data());
    double sum = 0;
    for (int i = 0; i < 128; ++i) sum += std::pow(static_cast<double>(e.rotated[i]) - decoded[i], 2);
    return sum;
  };
  EXPECT_LT(error(1), error(1.01f));
  EXPECT_LT(error(1), error(0.99f));
}

TEST_P(KvCodecTest, ZeroHugeAndBadVectors) {
  const KvCodec codec(GetParam(), 64);
  EXPECT_EQ(fp16_to_float(encode(codec, std::vector<float>(64, 0.0f)).norm), 0);
  std::vector<float> x(64, 1.0f);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(fp16_to_float(encode(codec, x).norm)));
  x[3] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(fp16_to_float(encode(codec, x).norm)));
  // Longer than FP16 can say: cut off, not infinite.
  EXPECT_EQ(fp16_to_float(encode(codec, std::vector<float>(64, 1e6f)).norm), 65504);
}

TEST_P(KvCodecTest, OtherSizesAreRefused) {
  for (uint64_t d : {0, 1, 16, 48, 72, 80, 96, 1024}) {
    EXPECT_FALSE(KvCodec::fits(d)) << d;
    EXPECT_THROW(KvCodec(GetParam(), d), Error) << d;
  }
  for (int bits : {0, 1, 5, 6, 7, 9}) EXPECT_THROW(KvCodec(bits, 64), Error) << bits;
}

INSTANTIATE_TEST_SUITE_P(Bits, KvCodecTest, testing::Values(2, 3, 4));

// Eight bits, for keys: decode_codes does not read them, so the levels are looked up here.
TEST(KvCodecEightBits, RelativeErrorIsTheCodebooks) {
  const KvCodec codec(8, 128);
  double error = 0, energy = 0;
  for (uint32_t n = 1; n < 500; ++n) {
    const Encoded e = encode(codec, test::gaussian(128, n));
    const HlwqMatrix m = codec.matrix(e.codes.data(), &e.norm, 1);
    uint8_t stored[128];
    unpack_block(m.format, e.codes.data(), stored);
    for (int i = 0; i < 128; ++i) {
      const double value = fp16_to_float(e.norm) / std::sqrt(128.0) * m.codebook->values[stored[i]];
      error += (e.rotated[i] - value) * (e.rotated[i] - value);
      energy += static_cast<double>(e.rotated[i]) * e.rotated[i];
    }
  }
  // Blocks are a little lighter in the tails than N(0, 1); FP16 norms add (2^-11)^2 / 3 = 8e-8.
  EXPECT_NEAR(error / energy, gaussian_mse(lloyd_max_codebook(8)), 0.1 * gaussian_mse(lloyd_max_codebook(8)));
}

// ---- the kernels that read plain and coded rows

constexpr double kEps = 0x1p-24;

class AttentionKernelsTest : public testing::TestWithParam<const Kernels*> {
 protected:
  const AttentionKernels& k() const { return GetParam()->attention; }

  // y0 + a w for every token and column, in double, and what float rounding of n terms may do to it.
  static void check(const std::vector<float>& w, uint64_t rows, uint64_t cols, const std::vector<float>& a,
                    uint64_t a_stride, uint64_t tokens, const std::vector<float>& y0,
                    const std::vector<float>& y, uint64_t y_stride) {
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t i = 0; i < y_stride; ++i) {
        double value = y0[t * y_stride + i], terms = std::fabs(value);
        if (i < cols)
          for (uint64_t r = 0; r < rows; ++r) {
            const double term = static_cast<double>(a[t * a_stride + r]) * w[r * cols + i];
            value += term;
            terms += std::fabs(term);
          }
        ASSERT_NEAR(y[t * y_stride + i], value, terms * kEps * (static_cast<double>(rows) + 6))
            << rows << "x" << cols << ", token " << t << ", column " << i;
      }
  }
};

TEST_P(AttentionKernelsTest, AccumulatePlainRows) {
  for (uint64_t cols : {1, 16, 31, 64, 72, 80, 128, 300})
    for (uint64_t rows : {0, 1, 5, 128})
      for (uint64_t tokens : {1, 2, 3, 4, 7, 9}) {
        const uint64_t a_stride = rows + 3, y_stride = cols + 2;
        const auto w = test::gaussian(rows * cols, 1), a = test::gaussian(tokens * a_stride, 2);
        const auto y0 = test::gaussian(tokens * y_stride, 3);
        auto y = y0;
        k().accumulate(w.data(), rows, cols, a.data(), a_stride, tokens, y.data(), y_stride);
        check(w, rows, cols, a, a_stride, tokens, y0, y, y_stride);
        std::vector<uint16_t> half(w.size());
        std::vector<float> rounded(w.size());
        for (size_t i = 0; i < w.size(); ++i) rounded[i] = bf16_to_float(half[i] = float_to_bf16(w[i]));
        y = y0;
        k().accumulate_bf16(half.data(), rows, cols, a.data(), a_stride, tokens, y.data(), y_stride);
        check(rounded, rows, cols, a, a_stride, tokens, y0, y, y_stride);
        if (HasFatalFailure()) return;
      }
}

TEST_P(AttentionKernelsTest, DecodeAndAccumulateCodes) {
  for (int bits : {2, 3, 4})
    for (int d : {32, 64, 128, 256, 512})
      for (uint64_t rows : {1, 6, 128}) {
        const auto cols = static_cast<uint64_t>(d);
        const test::OwnedMatrix m({bits, 1, d}, rows, cols, static_cast<uint32_t>(rows));
        std::vector<float> w(rows * cols);
        k().decode_codes(m.matrix, w.data());
        for (uint64_t r = 0; r < rows; ++r)
          for (uint64_t i = 0; i < cols; ++i) {
            const double exact = fp16_to_float(m.norms[r]) / std::sqrt(static_cast<double>(d)) *
                                 m.codebook.values[m.stored[r * cols + i]];
            ASSERT_NEAR(w[r * cols + i], exact, std::fabs(exact) * 4 * kEps) << bits << " bits, " << d;
          }
        for (uint64_t tokens : {1, 2, 3, 5, 8}) {
          const auto a = test::gaussian(tokens * rows, 2), y0 = test::gaussian(tokens * (cols + 2), 3);
          auto y = y0;
          k().accumulate_codes(m.matrix, a.data(), rows, tokens, y.data(), cols + 2);
          check(w, rows, cols, a, rows, tokens, y0, y, cols + 2);
          if (HasFatalFailure()) return;
        }
      }
}

TEST_P(AttentionKernelsTest, TurnPairs) {
  for (uint64_t d : {32, 128, 512})
    for (uint64_t pairs = 1; 2 * pairs <= d; pairs *= 2) {
      const uint64_t n = 5, half = d / 2;
      const auto rotated = test::gaussian(n * d, 1), w = test::gaussian(d, 2);
      auto rope = test::gaussian(n * 2 * pairs, 3);
      std::vector<float> out(n * 2 * pairs);
      k().turn_pairs(rotated.data(), n, d, pairs, w.data(), rope.data(), out.data());
      for (uint64_t j = 0; j < n; ++j)
        for (uint64_t i = 0; i < pairs; ++i) {
          const auto value = [&](uint64_t row) {  // of H times the rotated vector
            double sum = 0;
            for (uint64_t c = 0; c < d; ++c)
              sum += (__builtin_popcountll(row & c) % 2 ? -1.0 : 1.0) * rotated[j * d + c];
            return sum / std::sqrt(static_cast<double>(d)) * w[row];
          };
          const double a = value(i), b = value(half + i);
          const double c = static_cast<double>(rope[j * 2 * pairs + i]) - 1,
                       s = rope[j * 2 * pairs + pairs + i];
          // Sums of d terms of unit size, rounded at each of log2 d stages and a few times after.
          const double tolerance = 40 * std::sqrt(static_cast<double>(d)) * kEps * 10;
          ASSERT_NEAR(out[j * 2 * pairs + i], a * c - b * s, tolerance) << d << ", pairs " << pairs;
          ASSERT_NEAR(out[j * 2 * pairs + pairs + i], b * c + a * s, tolerance) << d << ", pairs " << pairs;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Kernels, AttentionKernelsTest, testing::ValuesIn(test::runnable_kernels()),
                         [](const auto& i) { return std::string(i.param->name); });

}  // namespace
}  // namespace hlwq
