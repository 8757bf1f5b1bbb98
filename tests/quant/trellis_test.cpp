#include "quant/trellis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

#include "hlwq/error.h"
#include "quant/hadamard.h"
#include "quant_test_util.h"

namespace hlwq {
namespace {

/// The shipped tables, or for formats without any, odd multiples of half a step drawn at random.
Codebook tables(int bits, int lags) {
  if (has_standard_codebook(bits, lags)) return standard_codebook(bits, lags);
  Random random(static_cast<uint64_t>(100 * bits + lags));
  const int levels = 1 << bits, half = levels / 2;
  Codebook c{bits, lags, std::vector<float>(static_cast<size_t>(lags * levels))};
  for (int lag = 0; lag < lags; ++lag)
    for (int m = 0; m < half; ++m) {
      const double value = (lag == 0 ? 127.0 * (m + 1) / half : 60 * random.normal()) / (lag + 1);
      const auto i = static_cast<size_t>(lag * levels + m);
      c.values[i] = static_cast<float>(0.02 * (std::floor(value) + 0.5));
      c.values[i + static_cast<size_t>(half)] = -c.values[i];
    }
  return c;
}

/// Every instruction set that runs here, scalar first; says which do not.
std::vector<CpuFeatures> runnable() {
  const CpuFeatures here = detect_cpu();
  std::vector<CpuFeatures> sets{CpuFeatures{}};
  for (const CpuFeatures f : {CpuFeatures{true, false}, CpuFeatures{true, true}})
    if (here.avx2 >= f.avx2 && here.avx512 >= f.avx512)
      sets.push_back(f);
    else
      std::cout << "[ NOT RUN  ] " << (f.avx512 ? "avx512" : "avx2") << ": not on this processor\n";
  return sets;
}

/// Blocks of every kind, each of unit variance or worse.
std::vector<float> mixed_blocks(int block, size_t blocks) {
  const auto n = static_cast<size_t>(block);
  Random random(static_cast<uint64_t>(block));
  std::vector<float> u(n * blocks);
  for (size_t b = 0; b < blocks; ++b)
    for (size_t i = 0; i < n; ++i) {
      float& x = u[b * n + i];
      switch (b % 7) {
        case 0:  // zero
          x = 0;
          break;
        case 1:  // constant
          x = b % 2 == 0 ? 1.0f : -0.731f;
          break;
        case 2: {  // Laplacian
          const double e = -std::log(random.uniform()) / std::sqrt(2.0);
          x = static_cast<float>(random.next() & 1 ? e : -e);
          break;
        }
        case 3:  // a spike where the ring is cut, or elsewhere
          x = i == (b % 2 == 0 ? n / 2 : b % n) ? std::sqrt(static_cast<float>(block)) : 0.0f;
          break;
        case 4:  // far beyond what any table reaches
          x = static_cast<float>(random.normal()) * (i == b % n ? 1e6f : 1.0f);
          break;
        default:
          x = static_cast<float>(random.normal());
      }
    }
  return u;
}

double squared_error(const Codebook& c, const float* u, const uint8_t* q, int block, bool free_scale) {
  std::vector<float> values(static_cast<size_t>(block));
  codebook_values(c, q, block, values.data());
  double uu = 0, uc = 0, cc = 0;
  for (int i = 0; i < block; ++i) {
    const double x = u[i], v = values[static_cast<size_t>(i)];
    uu += x * x, uc += x * v, cc += v * v;
  }
  return free_scale ? uu - uc * uc / cc : uu - 2 * uc + cc;
}

TEST(Trellis, EveryInstructionSetGivesTheScalarCodes) {
  const std::vector<CpuFeatures> sets = runnable();
  constexpr int kRounds = 3;
  for (int lags = 2; lags <= 3; ++lags)
    for (int bits = 2; bits <= 6; ++bits) {
      if (bits * lags > 15) continue;  // 18 bits of transitions: the same code, at 260,000 sums a value
      const Codebook codebook = tables(bits, lags);
      for (const int block : {32, 64, 128, 256, 512}) {
        // More than one tile, and a last one that is not full. The scalar search takes only as many of these
        // blocks as it has time for.
        constexpr size_t kBlocks = 39;
        const auto n = static_cast<size_t>(block);
        const size_t work = n << (bits * lags),
                     stride = std::clamp<size_t>(kBlocks * work / 6'000'000, 1, 13);
        const std::vector<float> u = mixed_blocks(block, kBlocks);
        TrellisScratch scratch;
        std::vector<uint8_t> expected(u.size());
        const TrellisEncoder scalar(codebook, sets[0]);
        for (size_t b = stride / 2; b < kBlocks; b += stride)
          scalar.encode(u.data() + b * n, block, 1, kRounds, scratch, expected.data() + b * n);
        for (size_t set = 1; set < sets.size(); ++set) {
          const TrellisEncoder encoder(codebook, sets[set]);
          std::vector<uint8_t> q(u.size());
          encoder.encode(u.data(), block, kBlocks, kRounds, scratch, q.data());
          for (size_t b = stride / 2; b < kBlocks; b += stride)
            ASSERT_TRUE(std::equal(q.data() + b * n, q.data() + (b + 1) * n, expected.data() + b * n))
                << encoder.isa() << ", " << bits << " bits, " << lags << " lags, block " << b << " of "
                << block;
        }
      }
    }
}

TEST(Trellis, FindsTheLeastOfAllCodes) {
  Random random(11);
  struct Problem {
    int bits, lags, n;
  };
  for (const auto [bits, lags, n] : {Problem{2, 2, 6}, {2, 3, 6}, {3, 2, 4}, {3, 3, 4}, {4, 2, 3}}) {
    const Codebook codebook = tables(bits, lags);
    const TrellisTables t(codebook);
    TrellisScratch scratch;
    scratch.reserve(t, n, 1);
    for (int trial = 0; trial < 20; ++trial) {
      const int anchor = static_cast<int>(random.next() % static_cast<uint64_t>(t.states));
      for (int i = 0; i < n; ++i) scratch.input()[i] = static_cast<float>(random.normal());
      TrellisScratch::Sums fit;
      kScalarTrellis.search(t, n, &anchor, scratch, &fit);
      const auto cost = [&](int64_t codes) {  // bits of a code per value, the first in the highest
        const int64_t all = static_cast<int64_t>(anchor) << (bits * n) | codes;
        double sum = 0;
        for (int i = 0; i < n; ++i) {
          double d = scratch.input()[i];
          for (int lag = 0; lag < lags; ++lag)
            d -= t.table[lag][all >> (bits * (n - 1 - i + lag)) & (t.levels - 1)];
          sum += d * d;
        }
        return sum;
      };
      int64_t found = 0;
      for (int i = 0; i < n; ++i) found = found << bits | scratch.codes()[i];
      ASSERT_EQ(found & (t.states - 1), anchor) << "the end is not the anchor";
      double least = INFINITY;
      for (int64_t codes = anchor; codes < int64_t{1} << (bits * n); codes += t.states)
        least = std::min(least, cost(codes));
      // Sums of a few dozen terms of at most 2^5 in float.
      EXPECT_NEAR(cost(found), least, 32 * 40 * 0x1p-24) << bits << " bits, " << lags << " lags";
      EXPECT_NEAR(fit.error, cost(found), 32 * 40 * 0x1p-24);
    }
  }
}

TEST(Trellis, FurtherRoundsNeverLose) {
  for (int lags = 2; lags <= 3; ++lags)
    for (int bits = 2; bits <= (lags == 2 ? 6 : 4); ++bits)
      for (const int block : {64, 128}) {
        const Codebook codebook = tables(bits, lags);
        const TrellisEncoder encoder(codebook, detect_cpu());
        const auto n = static_cast<size_t>(block);
        const size_t blocks = bits * lags > 10 ? 16 : 64;
        std::vector<float> u = gaussian(n * blocks, 3, 1.0);
        TrellisScratch scratch;
        std::vector<uint8_t> q(u.size());
        std::vector<double> before(blocks, INFINITY);
        double first = 0, last = 0;
        for (const int rounds : {1, 2, 4}) {
          encoder.encode(u.data(), block, blocks, rounds, scratch, q.data());
          last = 0;
          for (size_t b = 0; b < blocks; ++b) {
            const double e = squared_error(codebook, &u[b * n], &q[b * n], block, true);
            // Rounds are compared by float sums of `block` terms each.
            EXPECT_LE(e, before[b] * (1 + block * 0x1p-22)) << bits << " " << lags << " " << block;
            before[b] = e;
            last += e;
          }
          if (rounds == 1) first = last;
        }
        EXPECT_LT(last, 0.998 * first) << bits << " " << lags << " " << block;
      }
}

// The first search decides a state with a window of the ring only. What that costs is bounded by comparing
// with the best of searches cut at every eighth place.
TEST(Trellis, TheCutCostsNextToNothing) {
  constexpr int kBlock = 128;
  for (const auto& [bits, lags] : {std::pair{2, 2}, {3, 2}, {4, 2}, {2, 3}, {3, 3}}) {
    const Codebook codebook = tables(bits, lags);
    const TrellisEncoder encoder(codebook, detect_cpu());
    constexpr size_t kBlocks = 64;
    const std::vector<float> u = gaussian(kBlock * kBlocks, 5, 1.0);
    TrellisScratch scratch;
    double plain = 0, best_sum = 0;
    std::vector<double> best(kBlocks, INFINITY);
    for (int cut = 0; cut < kBlock; cut += 8) {
      std::vector<float> turned(u.size());
      for (size_t i = 0; i < u.size(); ++i)
        turned[i / kBlock * kBlock + (i + static_cast<size_t>(cut)) % kBlock] = u[i];
      std::vector<uint8_t> q(u.size());
      encoder.encode(turned.data(), kBlock, kBlocks, 1, scratch, q.data());
      for (size_t b = 0; b < kBlocks; ++b) {
        const double e = squared_error(codebook, &turned[b * kBlock], &q[b * kBlock], kBlock, false);
        if (cut == 0) plain += e;
        best[b] = std::min(best[b], e);
      }
    }
    for (const double e : best) best_sum += e;
    EXPECT_LT(plain, 1.001 * best_sum) << bits << " bits, " << lags << " lags";
  }
}

TEST(Trellis, RefusesScalarCodebooks) {
  EXPECT_THROW(TrellisEncoder(lloyd_max_codebook(4), detect_cpu()), Error);
  Codebook wrong = standard_codebook(4, 2);
  wrong.values.pop_back();
  EXPECT_THROW(TrellisEncoder(wrong, detect_cpu()), Error);
}

}  // namespace
}  // namespace hlwq
