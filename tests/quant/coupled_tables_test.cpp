// The trained tables: their form, and that the encoder reaches the error which they are said to have.
#include "quant/coupled_tables.h"

#include <gtest/gtest.h>

#include "quant/trellis.h"
#include "quant_test_util.h"

namespace hlwq {
namespace {

std::vector<const CoupledTable*> all_tables() {
  std::vector<const CoupledTable*> all;
  for (int lags = 2; lags <= 3; ++lags)
    for (int bits = 2; bits <= 6; ++bits)
      if (const CoupledTable* t = coupled_table(bits, lags)) all.push_back(t);
  return all;
}

/// The largest |n + 0.5| of a lag.
double reach(const CoupledTable& t, int lag) {
  const size_t half = size_t{1} << (t.bits - 1);
  double r = 0;
  for (const int n : t.entries.subspan(static_cast<size_t>(lag) * half, half))
    r = std::max(r, std::abs(n + 0.5));
  return r;
}

TEST(CoupledTables, EveryPromisedFormatHasOne) {
  for (int bits = 2; bits <= 6; ++bits) EXPECT_TRUE(coupled_table(bits, 2)) << bits;
  for (int bits = 2; bits <= 4; ++bits) EXPECT_TRUE(coupled_table(bits, 3)) << bits;
  EXPECT_FALSE(coupled_table(4, 1));
  EXPECT_FALSE(coupled_table(7, 2));
}

TEST(CoupledTables, LieOnTheGridThatKernelsNeed) {
  for (const CoupledTable* t : all_tables()) {
    SCOPED_TRACE(format_label({t->bits, t->lags, 128}));
    const size_t half = size_t{1} << (t->bits - 1);
    ASSERT_EQ(t->entries.size(), half * static_cast<size_t>(t->lags));
    EXPECT_GE(t->entries[0], 0);
    for (size_t m = 1; m < half; ++m) EXPECT_GE(t->entries[m], t->entries[m - 1]);
    double sum = 0;
    for (int lag = 0; lag < t->lags; ++lag) {
      // -n - 1 stands for the other sign, and no integer of the kernels may be -128.
      EXPECT_LE(reach(*t, lag), 126.5);
      sum += reach(*t, lag);
    }
    if (t->bits <= 5) {
      EXPECT_LE(sum, 127);
    }
    // The trellis search's own bound, with room: u beyond the reach costs, but is no error.
    EXPECT_LT(sum * static_cast<double>(t->step), 5);
  }
}

TEST(CoupledTables, CodebooksAreOdd) {
  for (const CoupledTable* t : all_tables()) {
    const Codebook c = coupled_codebook(t->bits, t->lags);
    const size_t levels = size_t{1} << t->bits;
    ASSERT_EQ(c.values.size(), levels * static_cast<size_t>(t->lags));
    for (size_t i = 0; i < c.values.size(); ++i) EXPECT_EQ(c.values[i], -c.values[i ^ levels / 2]);
    for (size_t i = 0; i < levels / 2; ++i)
      EXPECT_EQ(c.values[i], t->step * (static_cast<float>(t->entries[i]) + 0.5f));
  }
}

TEST(CoupledTables, TheEncoderReachesTheStoredError) {
  constexpr int kBlock = 128;
  for (const CoupledTable* t : all_tables()) {
    SCOPED_TRACE(format_label({t->bits, t->lags, kBlock}));
    const Codebook codebook = coupled_codebook(t->bits, t->lags);
    const TrellisEncoder encoder(codebook, detect_cpu());
    const size_t blocks = 4096;
    const std::vector<float> u = gaussian(blocks * kBlock, 77, 1.0);
    std::vector<uint8_t> q(u.size());
    TrellisScratch scratch;
    encoder.encode(u.data(), kBlock, blocks, 1, scratch, q.data());
    double sum = 0, squares = 0;
    for (size_t b = 0; b < blocks; ++b) {
      float c[kBlock];
      codebook_values(codebook, q.data() + b * kBlock, kBlock, c);
      double error = 0;
      for (size_t i = 0; i < kBlock; ++i) error += std::pow(u[b * kBlock + i] - c[i], 2);
      error /= kBlock;
      sum += error;
      squares += error * error;
    }
    const auto n = static_cast<double>(blocks);
    const double mean = sum / n;
    // Blocks are independent, so the mean's standard deviation is a block's over sqrt(n); five of them. The
    // stored figure comes from four times as many blocks or more, whose own error adds a quarter of that
    // variance at most. At six bits the deviation is 3 % of the mean: one value beyond the tables' reach in a
    // million weighs as much as all the others of its block.
    EXPECT_NEAR(mean, t->mse, 5 * std::sqrt((squares / n - mean * mean) / (n - 1) * 1.25));
  }
}

TEST(CoupledTables, BeatTheTargets) {
  // bits 2..6; the scalar codebooks have 0.1175, 0.0345, 0.0095, 0.0025, 0.00064.
  const double two[] = {0.0960, 0.0250, 0.00630, 0.00170, 0.00043};
  const double three[] = {0.0870, 0.0219, 0.00545};
  for (int bits = 2; bits <= 6; ++bits) EXPECT_LE(coupled_table(bits, 2)->mse, two[bits - 2]) << bits;
  for (int bits = 2; bits <= 4; ++bits) EXPECT_LE(coupled_table(bits, 3)->mse, three[bits - 2]) << bits;
}

}  // namespace
}  // namespace hlwq
