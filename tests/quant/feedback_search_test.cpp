// The search with feedback inside a block: its forms against each other, and against trying all codes.
#include "quant/feedback_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "quant/codebook.h"

namespace hlwq {
namespace {

struct Problem {
  std::vector<float> own, target, feedback, weight;
  Codebook codebook;
  FeedbackProblem view(int block) const {
    const float* tables = codebook.values.data();
    return {block,
            1 << codebook.bits,
            own.data(),
            target.data(),
            feedback.data(),
            static_cast<uint64_t>(block),
            weight.data(),
            tables,
            tables + (1 << codebook.bits)};
  }
};

Problem random_problem(int bits, int block, float strength, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Problem p;
  p.codebook = standard_codebook(bits, 2);
  const auto n = static_cast<size_t>(block);
  for (size_t i = 0; i < n; ++i) {
    p.own.push_back(normal(random));
    p.target.push_back(p.own.back() + 0.1f * normal(random));
    p.weight.push_back(std::exp(0.5f * normal(random)));
  }
  for (size_t i = 0; i < n * n; ++i) p.feedback.push_back(strength * normal(random));
  return p;
}

std::vector<uint8_t> run(FeedbackSearch search, const FeedbackProblem& p, int anchor) {
  FeedbackScratch scratch;
  std::vector<uint8_t> q(static_cast<size_t>(p.block));
  search(p, anchor, scratch, q.data());
  return q;
}

double cost_of(const FeedbackProblem& p, const std::vector<uint8_t>& q, int before) {
  const auto n = static_cast<size_t>(p.block);
  std::vector<double> target(p.target, p.target + n);
  double cost = 0;
  for (size_t j = 0; j < n; ++j) {
    const int left = j > 0 ? q[j - 1] : before;
    const double value = static_cast<double>(p.t0[q[j]]) + p.t1[left];
    cost += p.weight[j] * (target[j] - value) * (target[j] - value);
    for (size_t k = j + 1; k < n; ++k) target[k] += (p.own[j] - value) * p.feedback[j * p.stride + k];
  }
  return cost;
}

// Exactly the same arithmetic in the same order, so exactly the same codes.
TEST(FeedbackSearch, FormsAgree) {
  std::vector<FeedbackSearch> forms;
#if defined(__x86_64__)
  if (detect_cpu().avx2) forms.push_back(feedback_search_avx2);
  if (detect_cpu().avx512) forms.push_back(feedback_search_avx512);
#endif
  for (int bits = 2; bits <= 6; ++bits)
    for (const int block : {32, 128}) {
      if (!has_standard_codebook(bits, 2)) continue;
      const Problem p = random_problem(bits, block, 0.05f, static_cast<uint32_t>(100 * bits + block));
      for (const int anchor : {-1, 0, (1 << bits) - 1}) {
        const auto expected = run(feedback_search_scalar, p.view(block), anchor);
        for (const FeedbackSearch form : forms)
          EXPECT_EQ(run(form, p.view(block), anchor), expected)
              << bits << " bits, block " << block << ", anchor " << anchor;
      }
    }
}

// Without feedback the search is Viterbi's and finds the least cost of all codes; it sums in float, 6 terms.
TEST(FeedbackSearch, WithoutFeedbackNoCodesAreBetter) {
  constexpr int kBlock = 6;
  for (uint32_t seed = 1; seed <= 5; ++seed) {
    const Problem p = random_problem(2, kBlock, 0, seed);
    const FeedbackProblem view = p.view(kBlock);
    for (int anchor = 0; anchor < 4; ++anchor) {
      double least = std::numeric_limits<double>::infinity();
      std::vector<uint8_t> q(kBlock);
      for (int all = 0; all < 1 << (2 * kBlock); ++all) {
        for (int i = 0; i < kBlock; ++i) q[static_cast<size_t>(i)] = static_cast<uint8_t>(all >> (2 * i) & 3);
        if (q.back() == anchor) least = std::min(least, cost_of(view, q, anchor));
      }
      const auto found = run(feedback_search_scalar, view, anchor);
      EXPECT_EQ(found.back(), anchor);
      EXPECT_NEAR(cost_of(view, found, anchor), least, 1e-5 * least);
    }
  }
}

// Feedback pays: codes chosen without regard to it miss by more.
TEST(FeedbackSearch, FeedbackLowersTheCost) {
  const Problem p = random_problem(3, 128, 0.1f, 7);
  Problem blind = p;
  std::fill(blind.feedback.begin(), blind.feedback.end(), 0.0f);
  const auto with = run(feedback_search_scalar, p.view(128), 0);
  const auto without = run(feedback_search_scalar, blind.view(128), 0);
  EXPECT_LT(cost_of(p.view(128), with, 0), cost_of(p.view(128), without, 0));
}

}  // namespace
}  // namespace hlwq
