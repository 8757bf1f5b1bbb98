#include "quant/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/half.h"
#include "hlwq/error.h"
#include "quant/coupled_tables.h"
#include "quant/hadamard.h"
#include "quant_test_util.h"

namespace hlwq {
namespace {

using testing::HasSubstr;

template <typename F>
Error error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error was thrown";
  return Error(ErrorCode::kIo, "none");
}

/// Mean over rotated, normalised blocks of B Gaussians: their coordinates are not N(0,1) but uniform on the
/// sphere of radius sqrt(B), density (1 - x^2/B)^((B-3)/2). Expected squared error of nearest-centroid
/// coding, by trapezoids.
double sphere_mse(const Codebook& c, int block) {
  const size_t half = c.values.size() / 2;
  const double radius = std::sqrt(block);
  double mass = 0, error = 0;
  constexpr int kSteps = 400000;
  size_t m = 0;
  for (int i = 0; i <= kSteps; ++i) {
    const double x = radius * i / kSteps;
    while (m + 1 < half && std::abs(c.values[m + 1] - x) < std::abs(c.values[m] - x)) ++m;
    const double w = (i == 0 ? 0.5 : 1) * std::pow(std::max(0.0, 1 - x * x / block), 0.5 * (block - 3));
    mass += w;
    error += w * (x - c.values[m]) * (x - c.values[m]);
  }
  return error / mass;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, source = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    source += static_cast<double>(a[i]) * a[i];
  }
  return error / source;
}

TEST(Codec, AgreesWithTheOracle) {
  const auto file = open_safetensors(quant_golden("codec.safetensors"));
  ThreadPool pool(2);
  const std::vector<float> w = values<float>(file->at("weights"));
  const uint64_t rows = file->at("weights").rows(), cols = file->at("weights").cols();
  for (int bits = 2; bits <= 8; ++bits) {
    const Codebook codebook = lloyd_max_codebook(bits);
    for (const int block : {32, 64, 128, 256, 512}) {
      const std::string key = std::string("q") + std::to_string(bits) + ".b" + std::to_string(block) + ".";
      SCOPED_TRACE(key);
      const HlwqFormat f{bits, 1, block};
      const std::vector<uint8_t> native = values<uint8_t>(file->at(key + "native"));
      for (const NormRule rule : {NormRule::kPublished, NormRule::kCorrected}) {
        const Encoded e = encode(f, codebook, rule, w, rows, cols, pool);
        // The golden keeps 1e-6 away from every boundary, so codes admit no difference at all.
        EXPECT_EQ(e.codes, native);
        const auto norms = values<uint16_t>(
            file->at(key + (rule == NormRule::kCorrected ? "norms.corrected" : "norms.published")));
        ASSERT_EQ(e.norms.size(), norms.size());
        // A norm computed a rounding apart may fall on the other side of an FP16 tie.
        for (size_t i = 0; i < norms.size(); ++i) EXPECT_NEAR(e.norms[i], norms[i], 1);
      }
      if (const Tensor* t = file->find(key + "decoded")) {
        const std::vector<float> expected = values<float>(*t);
        Encoded e{f, native, values<uint16_t>(file->at(key + "norms.corrected")), {}};
        const std::vector<float> got = decode(e, codebook, rows, cols);
        const auto blocks = f.row_blocks(cols);
        // Decoding sums B centroids in log2(B) steps of relative 2^-24; a block's values have rms norm /
        // sqrt(B).
        for (size_t i = 0; i < got.size(); ++i) {
          const float norm =
              fp16_to_float(e.norms[i / cols * blocks + i % cols / static_cast<uint64_t>(block)]);
          EXPECT_NEAR(got[i], expected[i], 5 * 0x1p-24 * (std::log2(block) + 2) * norm) << i;
        }
      }
    }
  }
}

TEST(Codec, CodesEqualTheDoubleReferenceAwayFromBoundaries) {
  ThreadPool pool(2);
  constexpr uint64_t kRows = 64, kCols = 1024;
  const std::vector<float> w = gaussian(kRows * kCols, 42);
  for (const int bits : {2, 5, 8})
    for (const int block : {32, 128, 512}) {
      const HlwqFormat f{bits, 1, block};
      const Codebook c = lloyd_max_codebook(bits);
      const Encoded e = encode(f, c, NormRule::kCorrected, w, kRows, kCols, pool);
      std::vector<uint8_t> q(static_cast<size_t>(block));
      std::vector<double> u(static_cast<size_t>(block));
      uint64_t disputed = 0;
      for (uint64_t b = 0; b < kRows * kCols / static_cast<uint64_t>(block); ++b) {
        unpack_block(f, e.codes.data() + b * f.block_bytes(), q.data());
        double norm = 0;
        for (size_t i = 0; i < u.size(); ++i) {
          u[i] = w[b * u.size() + i];
          norm += u[i] * u[i];
        }
        hadamard(u.data(), block);
        for (size_t i = 0; i < u.size(); ++i) {
          const double x = u[i] * std::sqrt(block / norm);
          int nearest = 0;
          double first = INFINITY, second = INFINITY;
          for (int n = 0; n < 1 << bits; ++n) {
            const double d = std::abs(x - c.value(stored_code(n, bits)));
            if (d < first) {
              second = first;
              first = d;
              nearest = n;
            } else {
              second = std::min(second, d);
            }
          }
          if (second - first < 2e-6) {  // within 1e-6 of the boundary between the two
            ++disputed;
            continue;
          }
          ASSERT_EQ(natural_code(q[i], bits), nearest) << x;
        }
      }
      EXPECT_LT(disputed, kRows * kCols / 500);
    }
}

TEST(Codec, MseOnGaussianWeights) {
  ThreadPool pool(2);
  constexpr uint64_t kRows = 512, kCols = 4096;
  const std::vector<float> w = gaussian(kRows * kCols, 7);
  const double table[] = {0.117482, 0.034548, 0.009501, 0.002505, 0.000642};
  for (int bits = 2; bits <= 8; ++bits) {
    const HlwqFormat f{bits, 1, 128};
    const Codebook c = lloyd_max_codebook(bits);
    const double plain = encode(f, c, NormRule::kPublished, w, kRows, kCols, pool).stats.relative_mse();
    const double corrected = encode(f, c, NormRule::kCorrected, w, kRows, kCols, pool).stats.relative_mse();
    // Two million samples: the standard error is under 0.15 %. FP16 norms add (2^-11)^2 / 3 = 8e-8, seen from
    // 7 bits on.
    EXPECT_NEAR((plain - 8e-8) / sphere_mse(c, 128), 1, 0.005) << bits;
    EXPECT_LT(corrected, plain) << bits;
    EXPECT_GT(corrected, 0.9 * plain) << bits;
    // The table is for N(0,1); a normalised block has no longer tails than that, so it can only do better.
    if (bits <= 6) {
      EXPECT_LT(plain, 1.005 * table[bits - 2]) << bits;
      EXPECT_LT(corrected, 1.005 * table[bits - 2]) << bits;
    }
  }
}

TEST(Codec, StatsAreMeasuredOnWhatIsDecoded) {
  ThreadPool pool(2);
  for (const auto& [cols, block] : {std::pair<uint64_t, int>{256, 128}, {160, 128}, {96, 32}, {700, 512}}) {
    const std::vector<float> w = gaussian(32 * cols, cols);
    for (const int bits : {3, 5, 8}) {
      const HlwqFormat f{bits, 1, block};
      const Codebook c = lloyd_max_codebook(bits);
      const Encoded e = encode(f, c, NormRule::kCorrected, w, 32, cols, pool);
      const std::vector<float> back = decode(e, c, 32, cols);
      double dot = 0, source = 0, decoded = 0;
      for (size_t i = 0; i < w.size(); ++i) {
        dot += static_cast<double>(w[i]) * back[i];
        source += static_cast<double>(w[i]) * w[i];
        decoded += static_cast<double>(back[i]) * back[i];
      }
      // Errors are sums of squares of differences near 1e-3 of the values, known to 2^-22 of the values.
      EXPECT_NEAR(e.stats.relative_mse() / relative_error(w, back), 1, 1e-3) << cols << " " << bits;
      EXPECT_NEAR(e.stats.cosine(), dot / std::sqrt(source * decoded), 1e-6) << cols << " " << bits;
    }
  }
}

TEST(Codec, HeavyTailsLoseNoMoreThanGaussians) {
  ThreadPool pool(2);
  Random random(3);
  std::vector<float> w(256 * 1024);
  for (float& x : w)
    x = static_cast<float>(random.normal() / std::sqrt(random.uniform()));  // infinite variance
  const HlwqFormat f{5, 1, 128};
  const Codebook c = lloyd_max_codebook(5);
  const Encoded e = encode(f, c, NormRule::kCorrected, w, 256, 1024, pool);
  // The rotation spreads an outlier over its block. The worst block is one spike: all |u| = 1, one centroid's
  // error.
  EXPECT_LT(relative_error(w, decode(e, c, 256, 1024)), 0.01);
}

TEST(Codec, SpikesAreExactUpToTheNorm) {
  // All |u| are 1 and get one centroid, for which the least-squares norm makes up: FP16's 2^-11 remains.
  ThreadPool pool(1);
  for (const float value : {1.0f, -0.37f, 1e-3f, 500.0f})
    for (const size_t place : {size_t{0}, size_t{77}})
      for (const int bits : {2, 5, 8}) {
        std::vector<float> w(128, 0.0f);
        w[place] = value;
        const Codebook c = lloyd_max_codebook(bits);
        const std::vector<float> back =
            decode(encode({bits, 1, 128}, c, NormRule::kCorrected, w, 1, 128, pool), c, 1, 128);
        for (size_t i = 0; i < 128; ++i)
          EXPECT_NEAR(back[i], w[i], std::abs(value) * (i == place ? 0x1p-11 : 1e-6)) << bits << " " << i;
      }
}

TEST(Codec, ConstantBlocksAreTheWorstCaseAndKnown) {
  // u is sqrt(B) in one place and 0 in the others, which become the least magnitude: the cosine follows.
  ThreadPool pool(1);
  for (const float value : {1.0f, -0.37f, 1e-3f, 500.0f})
    for (int bits = 2; bits <= 8; ++bits) {
      const Codebook c = lloyd_max_codebook(bits);
      const double high = c.values[c.values.size() / 2 - 1], low = c.values[0];
      const double cosine = high / std::sqrt(high * high + 127 * low * low);
      const std::vector<float> w(128, value);
      const Encoded e = encode({bits, 1, 128}, c, NormRule::kCorrected, w, 1, 128, pool);
      EXPECT_NEAR(e.stats.cosine(), cosine, 1e-5) << bits;
      EXPECT_NEAR(e.stats.relative_mse(), 1 - cosine * cosine, 1e-5) << bits;
    }
}

TEST(Codec, ZeroBlocksStayZero) {
  ThreadPool pool(1);
  std::vector<float> w = gaussian(384, 1);
  std::fill(w.begin() + 128, w.begin() + 256, 0.0f);
  const Codebook c = lloyd_max_codebook(5);
  for (const NormRule rule : {NormRule::kCorrected, NormRule::kPublished}) {
    const Encoded e = encode({5, 1, 128}, c, rule, w, 1, 384, pool);
    EXPECT_EQ(e.norms[1], 0);
    const std::vector<float> back = decode(e, c, 1, 384);
    for (size_t i = 128; i < 256; ++i) EXPECT_EQ(back[i], 0.0f);
  }
  const std::vector<float> zeros(128, 0.0f);
  const Encoded e = encode({5, 1, 128}, c, NormRule::kCorrected, zeros, 1, 128, pool);
  EXPECT_EQ(e.stats.relative_mse(), 0);
  EXPECT_EQ(e.stats.cosine(), 1);
}

TEST(Codec, DenormalAndTinyRows) {
  ThreadPool pool(1);
  const Codebook c = lloyd_max_codebook(5);
  for (const float value : {std::numeric_limits<float>::denorm_min(), 1e-38f, 1e-20f, 1e-12f, 1e-10f}) {
    // Under half of FP16's least value, 2^-25: the norm is zero and so is all of the block.
    const std::vector<float> w(128, value);
    const Encoded e = encode({5, 1, 128}, c, NormRule::kCorrected, w, 1, 128, pool);
    EXPECT_EQ(e.norms[0], 0) << value;
    for (const float x : decode(e, c, 1, 128)) EXPECT_EQ(x, 0.0f);
    EXPECT_DOUBLE_EQ(e.stats.relative_mse(), 1) << value;
  }
  // FP16 subnormal norms still work, with what precision they have: 2^-24 of 6e-5 is 0.1 %.
  const std::vector<float> w = gaussian(128, 9, 5e-6);
  const Encoded e = encode({5, 1, 128}, c, NormRule::kCorrected, w, 1, 128, pool);
  EXPECT_LT(relative_error(w, decode(e, c, 1, 128)), 0.005);
}

TEST(Codec, NanAndInfinityNameTheElement) {
  ThreadPool pool(2);
  const Codebook c = lloyd_max_codebook(5);
  const HlwqFormat f{5, 1, 128};
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    std::vector<float> w = gaussian(4 * 200, 2);
    w[2 * 200 + 150] = bad;
    std::vector<uint8_t> codes(4 * f.row_bytes(200));
    std::vector<uint16_t> norms(4 * f.row_blocks(200));
    const Error e = error_of([&] {
      encode_rows(f, c, NormRule::kCorrected, w.data(), 4, 200, "layer.weight", 1000, pool, codes.data(),
                  norms.data());
    });
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(e.what(), HasSubstr("layer.weight [1002, 150]"));
  }
}

TEST(Codec, NormsBeyondHalfPrecision) {
  ThreadPool pool(1);
  const Codebook c = lloyd_max_codebook(5);
  for (const float value : {6000.0f, 1e10f, 1e30f, std::numeric_limits<float>::max()}) {
    const std::vector<float> w(128, value);
    const Error e = error_of([&] { encode({5, 1, 128}, c, NormRule::kPublished, w, 1, 128, pool); });
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(e.what(), HasSubstr("65504"));
  }
}

TEST(Codec, ThreadsChangeNothing) {
  constexpr uint64_t kRows = 300, kCols = 384;
  const std::vector<float> w = gaussian(kRows * kCols, 11);
  const Codebook c = lloyd_max_codebook(4);
  ThreadPool one(1), three(3);
  const Encoded a = encode({4, 1, 128}, c, NormRule::kCorrected, w, kRows, kCols, one);
  const Encoded b = encode({4, 1, 128}, c, NormRule::kCorrected, w, kRows, kCols, three);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.norms, b.norms);
  EXPECT_EQ(a.stats.error_sq, b.stats.error_sq);
  EXPECT_EQ(a.stats.dot, b.stats.dot);
}

TEST(Codec, WrongArgumentsAreRefused) {
  ThreadPool pool(1);
  const std::vector<float> w(128, 1.0f);
  EXPECT_EQ(error_of([&] {
              encode({5, 1, 96}, lloyd_max_codebook(5), NormRule::kCorrected, w, 1, 128, pool);
            }).code(),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of([&] {
              encode({5, 1, 128}, lloyd_max_codebook(4), NormRule::kCorrected, w, 1, 128, pool);
            }).code(),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of([&] {
              encode({5, 2, 128}, lloyd_max_codebook(5), NormRule::kCorrected, w, 1, 128, pool);
            }).code(),
            ErrorCode::kInvalidArgument);
  Codebook unsorted = lloyd_max_codebook(5);
  std::swap(unsorted.values[3], unsorted.values[4]);
  EXPECT_EQ(error_of([&] {
              encode({5, 1, 128}, unsorted, NormRule::kCorrected, w, 1, 128, pool);
            }).code(),
            ErrorCode::kInvalidArgument);
}

TEST(Codec, NaturalBlocks) {
  EXPECT_EQ(natural_block(5376), 128);
  EXPECT_EQ(natural_block(576), 64);
  EXPECT_EQ(natural_block(96), 32);
  EXPECT_EQ(natural_block(512), 128);
  EXPECT_EQ(natural_block(48), 0);
  EXPECT_EQ(natural_block(1), 0);
  EXPECT_EQ(natural_block(0), 0);
}

TEST(Codec, CoupledStatsAreMeasuredOnWhatIsDecoded) {
  ThreadPool pool(2);
  for (int lags = 2; lags <= 3; ++lags)
    for (const int bits : {2, 3, 4, 5}) {
      if (!has_standard_codebook(bits, lags)) continue;
      const Codebook c = standard_codebook(bits, lags);
      // Whole blocks, and columns that end inside of one: what padding decodes to is not counted.
      for (const auto& [cols, block] :
           {std::pair<uint64_t, int>{256, 128}, {160, 128}, {96, 32}, {700, 512}}) {
        const std::vector<float> w = gaussian(9 * cols, cols);
        const Encoded e = encode({bits, lags, block}, c, NormRule::kCorrected, w, 9, cols, pool);
        const std::vector<float> back = decode(e, c, 9, cols);
        // Errors near 1e-3 of the values, which are known to 2^-22.
        EXPECT_NEAR(e.stats.relative_mse() / relative_error(w, back), 1, 1e-3) << cols << " " << bits;
        if (cols % static_cast<uint64_t>(block) == 0) {
          EXPECT_LT(e.stats.relative_mse(), 1.1 * coupled_table(bits, lags)->mse) << cols << " " << bits;
        }
      }
    }
}

TEST(Codec, CoupledZeroBlocksAndSpikes) {
  ThreadPool pool(1);
  const Codebook c = standard_codebook(4, 2);
  std::vector<float> w(3 * 128, 0.0f);
  w[2 * 128 + 5] = -0.37f;  // all |u| are 1
  w[0] = 1e-30f;            // as good as zero
  const Encoded e = encode({4, 2, 128}, c, NormRule::kCorrected, w, 1, 3 * 128, pool);
  EXPECT_EQ(e.norms[0], 0);
  EXPECT_EQ(e.norms[1], 0);
  const std::vector<float> back = decode(e, c, 1, 3 * 128);
  for (size_t i = 0; i < 2 * 128; ++i) EXPECT_EQ(back[i], 0.0f);
  EXPECT_LT(relative_error(w, back), 0.02);
  EXPECT_TRUE(std::isfinite(e.stats.relative_mse()));
}

TEST(Codec, CoupledEncodingNamesABadWeight) {
  ThreadPool pool(2);
  const Codebook c = standard_codebook(3, 2);
  for (const float bad : {NAN, INFINITY}) {
    std::vector<float> w = gaussian(40 * 256, 1);
    w[33 * 256 + 200] = bad;
    const Error error = error_of([&] { encode({3, 2, 128}, c, NormRule::kCorrected, w, 40, 256, pool); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("w [33, 200]"));
  }
  std::vector<float> huge(128, 0.0f);
  huge[3] = 1e6f;
  EXPECT_THAT(error_of([&] {
                encode({3, 2, 128}, c, NormRule::kCorrected, huge, 1, 128, pool);
              }).what(),
              HasSubstr("65504"));
}

}  // namespace
}  // namespace hlwq
