// Viterbi's algorithm over sixteen independent sequences side by side: the trainer's inner loop.
//
// With v = u - T_1[p] ... - T_(L-2) and r the oldest code that still matters, the squared error of code q is
//   (v - T_last[r] - T_0[q])^2 = (v - T_0[q])^2 + (T_last[r]^2 - 2 v T_last[r]) + 2 T_0[q] T_last[r],
// so the only part that depends on both q and r does not depend on u: the search over predecessors is a
// min-plus product with a constant matrix, one addition and one minimum a cell. Decisions are not stored; the
// way back finds them again, at one row of the matrix a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hlwq::training {

constexpr int kLanes = 16;

/// Float tables of a (bits, lags): [lags, 2^bits], by stored code.
struct Tables {
  int bits = 0, lags = 0;
  std::vector<float> values;

  int levels() const { return 1 << bits; }
  int half() const { return 1 << (bits - 1); }
  const float* lag(int l) const { return values.data() + (static_cast<size_t>(l) << bits); }
  /// Free parameters, the codes of the positive sign: [lags, 2^(bits-1)].
  static Tables odd(int bits, int lags, std::span<const double> positive);
};

class BatchTrellis {
 public:
  BatchTrellis(int bits, int lags, int length);

  /// The codes q [length, kLanes] that stand for u [length, kLanes] with the least squared error; both ends
  /// free, so the codes before the first are chosen too and not told.
  void search(const Tables& tables, const float* u, uint8_t* q);

 private:
  template <int L>
  void search_levels(const Tables& tables, const float* u, uint8_t* q);

  int bits_, lags_, length_, states_;
  std::vector<float> matrix_, biased_, cost_;
};

}  // namespace hlwq::training
