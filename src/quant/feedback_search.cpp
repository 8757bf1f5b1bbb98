#include "quant/feedback_search.h"

#include <algorithm>
#include <limits>

namespace hlwq {

int cheapest(const float* cost, int levels) {
  return static_cast<int>(std::min_element(cost, cost + levels) - cost);
}

void read_back(const FeedbackScratch& scratch, size_t row, int n, int last, uint8_t* q) {
  for (int j = n - 1, state = last; j >= 0; --j) {
    q[j] = static_cast<uint8_t>(state);
    state = scratch.from[static_cast<size_t>(j) * row + static_cast<size_t>(state)];
  }
}

void feedback_search_scalar(const FeedbackProblem& p, int anchor, FeedbackScratch& scratch, uint8_t* q) {
  constexpr int kMaxLevels = 64;
  const int n = p.block, levels = p.levels;
  const auto row = static_cast<size_t>(levels);
  scratch.pending.assign(static_cast<size_t>(n) * row, 0.0f);
  scratch.spare.resize(row);
  scratch.from.resize(static_cast<size_t>(n) * row);
  float cost[kMaxLevels], next[kMaxLevels], miss[kMaxLevels], error[kMaxLevels];
  constexpr float kNever = std::numeric_limits<float>::infinity();
  for (int s = 0; s < levels; ++s) cost[s] = anchor < 0 || s == anchor ? 0 : kNever;
  for (int j = 0; j < n; ++j) {
    const float* pending = &scratch.pending[static_cast<size_t>(j) * row];
    uint8_t* from = &scratch.from[static_cast<size_t>(j) * row];
    for (int s = 0; s < levels; ++s) miss[s] = (p.target[j] + pending[s]) - p.t1[s];
    for (int to = 0; to < levels; ++to) {
      next[to] = kNever;
      from[to] = 0;
      for (int s = 0; s < levels; ++s) {
        const float d = miss[s] - p.t0[to], c = cost[s] + p.weight[j] * (d * d);
        if (c < next[to]) next[to] = c, from[to] = static_cast<uint8_t>(s);
      }
      error[to] = (p.own[j] - p.t0[to]) - p.t1[from[to]];
    }
    std::copy_n(next, levels, cost);
    const float* moves = p.feedback + static_cast<uint64_t>(j) * p.stride;
    for (int k = j + 1; k < n; ++k) {
      float* later = &scratch.pending[static_cast<size_t>(k) * row];
      std::copy_n(later, levels, scratch.spare.data());
      for (int to = 0; to < levels; ++to) later[to] = scratch.spare[from[to]] + error[to] * moves[k];
    }
  }
  read_back(scratch, row, n, anchor >= 0 ? anchor : cheapest(cost, levels), q);
}

FeedbackSearch select_feedback_search(const CpuFeatures& cpu) {
#if defined(__x86_64__)
  if (cpu.avx512) return feedback_search_avx512;
  if (cpu.avx2) return feedback_search_avx2;
#endif
  (void)cpu;
  return feedback_search_scalar;
}

}  // namespace hlwq
