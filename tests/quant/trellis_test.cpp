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
  constexpr int kTries = 3;
  for (int lags = 2; lags <= 3; ++lags)
    for (int bits = 2; bits <= 6; ++bits) {
      const Codebook codebook = tables(bits, lags);
      for (const int block : {32, 64, 128, 256, 512}) {
        if (bits * lags > 15 && block > 32) break;  // 260,000 sums a value
        // More than one tile, and a last one that is not full. The scalar search takes only as many of these
        // blocks as it has time for.
        constexpr size_t kBlocks = 39;
        const auto n = static_cast<size_t>(block);
        const size_t work = n << (bits * lags),
                     stride = std::clamp<size_t>(kBlocks * work / 3'000'000, 1, 19);
        const std::vector<float> u = mixed_blocks(block, kBlocks);
        TrellisScratch scratch;
        std::vector<uint8_t> expected(u.size());
        const TrellisEncoder scalar(codebook, sets[0]);
        for (size_t b = stride / 2; b < kBlocks; b += stride)
          scalar.encode(u.data() + b * n, block, 1, kTries, scratch, expected.data() + b * n);
        for (size_t set = 1; set < sets.size(); ++set) {
          const TrellisEncoder encoder(codebook, sets[set]);
          std::vector<uint8_t> q(u.size());
          encoder.encode(u.data(), block, kBlocks, kTries, scratch, q.data());
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
  for (const auto& [bits, lags, n] : {Problem{2, 2, 6}, {2, 3, 6}, {3, 2, 4}, {3, 3, 4}, {4, 2, 3}}) {
    const Codebook codebook = tables(bits, lags);
    const TrellisTables t(codebook);
    TrellisScratch scratch;
    scratch.reserve(t, n, 1);
    for (int trial = 0; trial < 20; ++trial) {
      // The codes before the first value, which are also the last ones, oldest first.
      std::vector<int> before;
      for (int i = 1; i < lags; ++i)
        before.push_back(static_cast<int>(random.next() % static_cast<uint64_t>(t.levels)));
      const int anchor = lags == 2 ? before[0] : before[1] * t.levels + before[0];
      std::vector<float> u(static_cast<size_t>(n));
      for (float& x : u) x = static_cast<float>(std::lrint(random.normal() * 1024)) / 1024;
      std::copy(u.begin(), u.end(), scratch.input());
      TrellisScratch::Fit fit;
      kScalarTrellis.search(t, {n, 0, n, 1.0f}, &anchor, scratch, &fit);
      const auto cost = [&](const std::vector<int>& q) {
        double sum = 0;
        for (int i = 0; i < n; ++i) {
          double d = u[static_cast<size_t>(i)];
          for (int lag = 0; lag < lags; ++lag) {
            const int at = i - lag;
            d -= t.fixed[lag]
                        [at >= 0 ? q[static_cast<size_t>(at)] : before[static_cast<size_t>(at + lags - 1)]] /
                 1024.0;
          }
          sum += d * d;  // exact: multiples of 2^-20
        }
        return sum;
      };
      double least = INFINITY;
      const int free = n - (lags - 1);
      for (int code = 0; code < 1 << (bits * free); ++code) {
        std::vector<int> q;
        for (int i = 0; i < free; ++i) q.push_back(code >> (bits * i) & (t.levels - 1));
        q.insert(q.end(), before.begin(), before.end());
        least = std::min(least, cost(q));
      }
      const std::vector<int> found(scratch.codes(), scratch.codes() + n);
      ASSERT_TRUE(std::equal(before.begin(), before.end(), found.end() - (lags - 1)));
      EXPECT_EQ(cost(found), least) << bits << " bits, " << lags << " lags";
      // fit is of the tables before their rounding by up to 2^-11 each; |d| is under 8.
      EXPECT_NEAR(fit.error, least, n * 16 * lags * 0x1p-11);
    }
  }
}

TEST(Trellis, MoreTriesNeverLose) {
  for (int lags = 2; lags <= 3; ++lags)
    for (int bits = 2; bits <= (lags == 2 ? 6 : 4); ++bits)
      for (const int block : {64, 128}) {
        const Codebook codebook = tables(bits, lags);
        const TrellisEncoder encoder(codebook, detect_cpu());
        const auto n = static_cast<size_t>(block);
        const size_t blocks = bits * lags > 10 ? 16 : 64;
        const std::vector<float> u = gaussian(n * blocks, 3, 1.0);
        TrellisScratch scratch;
        std::vector<uint8_t> q(u.size());
        std::vector<double> before(blocks, INFINITY);
        double first = 0, last = 0;
        for (const int tries : {1, 2, 5}) {
          encoder.encode(u.data(), block, blocks, tries, scratch, q.data());
          last = 0;
          for (size_t b = 0; b < blocks; ++b) {
            const double e = squared_error(codebook, &u[b * n], &q[b * n], block, true);
            // Tries are compared by float sums of `block` terms each.
            EXPECT_LE(e, before[b] * (1 + block * 0x1p-22)) << bits << " " << lags << " " << block;
            before[b] = e;
            last += e;
          }
          if (tries == 1) first = last;
        }
        EXPECT_LT(last, 0.995 * first) << bits << " " << lags << " " << block;
      }
}

TEST(Trellis, ThreadsAndCompanyDoNotMatter) {
  // A block's codes depend on nothing but the block: not on its lane, its neighbours or the thread.
  const Codebook codebook = tables(3, 2);
  constexpr uint64_t kRows = 61, kCols = 3 * 128 + 40;
  const std::vector<float> w = gaussian(kRows * kCols, 17);
  const HlwqFormat f{3, 2, 128};
  ThreadPool one(1), three(3);
  const Encoded a = encode(f, codebook, NormRule::kCorrected, w, kRows, kCols, one);
  const Encoded b = encode(f, codebook, NormRule::kCorrected, w, kRows, kCols, three);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.norms, b.norms);
  EXPECT_EQ(a.stats.error_sq, b.stats.error_sq);
  const std::vector<float> row(w.begin() + 7 * kCols, w.begin() + 8 * kCols);
  const Encoded alone = encode(f, codebook, NormRule::kCorrected, row, 1, kCols, one);
  EXPECT_TRUE(std::equal(alone.codes.begin(), alone.codes.end(),
                         a.codes.begin() + static_cast<ptrdiff_t>(7 * f.row_bytes(kCols))));
}

// The first search decides a state with a window of the ring only. What that costs is bounded by comparing
// with the best of searches cut at every eighth place; the best-trained tables lose a thousandth of their
// error.
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
    EXPECT_LT(plain, 1.002 * best_sum) << bits << " bits, " << lags << " lags";
  }
}

TEST(Trellis, RefusesOtherCodebooks) {
  EXPECT_THROW(TrellisEncoder(lloyd_max_codebook(4), detect_cpu()), Error);
  Codebook wrong = standard_codebook(4, 2);
  wrong.values.pop_back();
  EXPECT_THROW(TrellisEncoder(wrong, detect_cpu()), Error);
  for (const float value : {100.0f, INFINITY, NAN}) {
    wrong = standard_codebook(4, 2);
    wrong.values[3] = value;
    EXPECT_THROW(TrellisEncoder(wrong, detect_cpu()), Error) << value;
  }
}

}  // namespace
}  // namespace hlwq
