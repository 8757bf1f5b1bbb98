// What the implementations of the trellis search share: tables, working memory, and exact integer arithmetic.
//
// Values and tables are rounded to multiples of 2^-10 of a standard deviation, and squared distances are
// exact in these units. So every implementation finds the same least sum, in whatever form it computes it;
// among equals the least code wins, from the last value to the first.
//
// The form of the vectorised searches. A state is the last lags - 1 codes, g the newest and p the oldest
// (with two lags, the same one, and "group g" is all of them); T is the last lag's table. With A_t[g][p] the
// least cost before value t, and with the terms of (u_t - c_t)^2 in it that do not depend on the code q_t or
// on u_t^2,
//   best_t[g][q] = min over p of (A_t[g][p] + 2 T_0[q] T[p])
//   A_(t+1)[q][g] = best_t[g][q] + a[q] u_t + b[q][g] u_(t+1) + c[q][g]   (less best_t[0][0], to stay in
//   range)
// so the inner loop is one addition and one minimum. Decisions are not stored; A is, and the way back finds
// the least p that has the minimum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/cpu.h"
#include "quant/codebook.h"

namespace hlwq {

struct TrellisTables {
  static constexpr int kMaxLevels = 64;
  static constexpr int kOne = 1 << 10;  ///< a standard deviation
  static constexpr int kMaxInput =
      16 * kOne;  ///< |u| beyond it counts as this: far more than any table reaches
  /// Sum over lags of the largest |T|. With it and kMaxInput, A is within +-2^31 wherever it starts from 0
  /// and kForbidden, and kForbidden never wins.
  static constexpr int kMaxReach = 6 * kOne;
  static constexpr int kForbidden = 1000 * kOne * kOne;  ///< cost of a start that is not the anchor

  /// Lags 2 or 3, at most 6 bits and kMaxReach, else Error(kInvalidArgument).
  explicit TrellisTables(const Codebook& codebook);

  int bits, lags, levels, states;
  alignas(64) float values[3][kMaxLevels] = {};  ///< [lag][code]; the last lag's table is values[lags - 1]
  alignas(64) int32_t fixed[3][kMaxLevels] = {};
  alignas(64) int32_t cross[kMaxLevels * kMaxLevels] = {};  ///< [p][q]: 2 T_0[q] T[p]
  /// Of the state [newest][oldest], which is [newest] with two lags: a and b as a pair of int16, a in the low
  /// half; c; c of the last value, which has b = 0; and what A_0 starts with.
  std::vector<int32_t> slopes, constants, last_slopes, last_constants, first_constants;

  int groups() const { return states / levels; }  ///< 1, with three lags the levels
};

/// Working memory of one thread, grown as needed.
class TrellisScratch {
 public:
  /// Sums of (c - u)^2, (c - u) c and c^2, from the last value to the first.
  struct Fit {
    float error, residual, square;
  };
  void reserve(const TrellisTables& tables, int block, int width);

  float* input() { return input_.get(); }    ///< u [n, width]
  int32_t* pairs() { return pairs_.get(); }  ///< [n + 1, width]: u_(t-1) and u_t in the halves of element t
  int32_t* costs() { return costs_.get(); }  ///< A [n + 1, states, width]
  uint8_t* codes() { return codes_.get(); }  ///< [n, width]

 private:
  struct Free {
    void operator()(void* p) const;
  };
  template <class T>
  using Buffer = std::unique_ptr<T[], Free>;
  Buffer<float> input_;
  Buffer<int32_t> pairs_, costs_;
  Buffer<uint8_t> codes_;
  size_t values_ = 0, states_ = 0;
};

/// Scales at which encode_rows searches a block (TrellisEncoder::encode).
constexpr int kTrellisTries = 7;
/// The k-th of them: 1, then beside it, on both sides in turn.
constexpr float trellis_factor(int k) {
  return 1 + 0.06f * static_cast<float>(k % 2 == 1 ? (k + 1) / 2 : -k / 2);
}
/// Values of the first search: longer ones lower the error by less than 0.1 % (0.2 % at 4 bits with three
/// lags).
constexpr int trellis_window(int lags, int block) {
  const int window = lags == 2 ? 48 : 96;
  return window < block ? window : block;
}

/// What is searched: u_i = factor * input((cut + i) mod block) for i < n <= block.
struct TrellisRange {
  int block, cut, n;
  float factor;
  int next(int at) const { return at + 1 == block ? 0 : at + 1; }
};

/// One implementation of the search over `width` sequences side by side.
struct TrellisSearch {
  static constexpr int kMaxWidth = 16;
  const char* name;
  int width;
  /// Codes of the range's values, from scratch.input() to scratch.codes(). anchors [width]: the states before
  /// the first value and after the last (newest * groups + oldest), or null: free at both ends. fit [width]:
  /// only with anchors.
  void (*search)(const TrellisTables& tables, const TrellisRange& range, const int* anchors,
                 TrellisScratch& scratch, TrellisScratch::Fit* fit);
};

extern const TrellisSearch kScalarTrellis;
#if defined(__x86_64__)
extern const TrellisSearch kAvx2Trellis, kAvx512Trellis;
#endif
const TrellisSearch& select_trellis(const CpuFeatures& cpu);

}  // namespace hlwq
