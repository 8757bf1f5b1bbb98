// Codes of one block of one row, each chosen with what the errors before it call for (calibrated_rounding.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/cpu.h"

namespace hlwq {

/// One block, in units of its scale.
struct FeedbackProblem {
  int block = 0, levels = 0;
  const float* own = nullptr;     ///< [block] the weights themselves
  const float* target = nullptr;  ///< [block] what the codes aim at, as far as earlier blocks decide it
  const float* feedback =
      nullptr;  ///< row i at feedback + i * stride: how far error i moves the targets k > i
  uint64_t stride = 0;
  const float* weight = nullptr;  ///< [block] cost of a squared miss
  const float* t0 = nullptr;      ///< [levels]
  const float* t1 = nullptr;      ///< [levels]
};

struct FeedbackScratch {
  std::vector<float> pending, spare;
  std::vector<uint8_t> from;
};

/// Two lags: Viterbi over the last code, where every survivor carries the targets that its own errors moved.
/// `anchor` is the code before the first value and the last code; -1: both free. q [block].
using FeedbackSearch = void (*)(const FeedbackProblem& problem, int anchor, FeedbackScratch& scratch,
                                uint8_t* q);

/// What every form ends with: the state of least cost, the first among equals; and the codes of the path to
/// state `last`, `row` entries of scratch.from a value.
int cheapest(const float* cost, int levels);
void read_back(const FeedbackScratch& scratch, size_t row, int n, int last, uint8_t* q);

/// The plain form; all others give the same codes.
void feedback_search_scalar(const FeedbackProblem& problem, int anchor, FeedbackScratch& scratch, uint8_t* q);
#if defined(__x86_64__)
void feedback_search_avx2(const FeedbackProblem& problem, int anchor, FeedbackScratch& scratch, uint8_t* q);
void feedback_search_avx512(const FeedbackProblem& problem, int anchor, FeedbackScratch& scratch, uint8_t* q);
#endif
FeedbackSearch select_feedback_search(const CpuFeatures& cpu);

}  // namespace hlwq
