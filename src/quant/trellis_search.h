// What the implementations of the trellis search share: tables, working memory, and one arithmetic.
//
// A state is the last lags - 1 codes, the newest in its low bits. With p the oldest code of a state, T that
// code's table (the last lag's), v = u - T_1[..] without T and w = v - T[p], one step is
//   cost'(.., q) = min over p of (cost(p, ..) + w^2 - 2 T_0[q] w + T_0[q]^2)
//               = min over p of (A[p] + cross[p][q]) + (T_0[q]^2 - 2 T_0[q] v),   A[p] = fma(w, w, cost(p,
//               ..)),
// so that the inner loop is one addition and one minimum. All in float, in this order, the last bracket as a
// fused multiply-add, and no other sum contracted: every implementation gives the same costs, bit by bit.
// Decisions are not stored; A is, and the way back finds the least p that has the minimum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/cpu.h"
#include "quant/codebook.h"

namespace hlwq {

struct TrellisTables {
  static constexpr int kMaxLevels = 64;
  explicit TrellisTables(const Codebook& codebook);

  int bits, lags, levels, states;
  /// table[lag][code]; the last lag's table is oldest().
  alignas(64) float table[3][kMaxLevels] = {};
  alignas(64) float minus_twice[kMaxLevels] = {}, square[kMaxLevels] = {};  ///< -2 T_0 and T_0^2
  /// cross[p * levels + q] = 2 T_0[q] * T[p], rounded once.
  alignas(64) float cross[kMaxLevels * kMaxLevels] = {};

  const float* oldest() const { return table[lags - 1]; }
  int groups() const { return states / levels; }  ///< 1, with three lags the levels of the newest code
};

/// Working memory of one thread, grown as needed.
class TrellisScratch {
 public:
  struct Sums {
    float error, residual,
        square;  ///< sums of (u - c)^2, (u - c) c and c^2, from the last value to the first
  };
  void reserve(const TrellisTables& tables, int n, int width);

  float* input() { return input_.get(); }    ///< [n, width]
  uint8_t* codes() { return codes_.get(); }  ///< [n, width]
  float* costs() { return costs_.get(); }    ///< [2, states, width]
  float* sums() { return sums_.get(); }      ///< A: [n, states, width]
 private:
  struct Free {
    void operator()(void* p) const;
  };
  template <class T>
  using Buffer = std::unique_ptr<T[], Free>;
  Buffer<float> input_, costs_, sums_;
  Buffer<uint8_t> codes_;
  size_t input_size_ = 0, costs_size_ = 0, sums_size_ = 0, codes_size_ = 0;
};

/// One implementation of the search over `width` sequences side by side.
struct TrellisSearch {
  static constexpr int kMaxWidth = 16;
  const char* name;
  int width;
  /// Codes [n, width] of scratch.input() [n, width] to scratch.codes(). anchors [width]: the states before
  /// the first value and after the last, or null: free at both ends. fit [width]: the sums over c, only with
  /// anchors.
  void (*search)(const TrellisTables& tables, int n, const int* anchors, TrellisScratch& scratch,
                 TrellisScratch::Sums* fit);
};

extern const TrellisSearch kScalarTrellis;
#if defined(__x86_64__)
extern const TrellisSearch kAvx2Trellis, kAvx512Trellis;
#endif
const TrellisSearch& select_trellis(const CpuFeatures& cpu);

}  // namespace hlwq
