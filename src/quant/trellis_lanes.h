// The search of trellis_search.h over a vector of sequences. Included by files that target an instruction
// set, after `#pragma GCC target`, with a type L that wraps its vectors:
//   L::kWidth, L::kTile (minima kept in registers), L::F (floats), L::I (32-bit integers);
//   load, store, set1, add, sub, mul, min, fma (a * b + c); iload, istore, iset1;
//   gather(base, index); shift_left(i, bits), shift_right(i, bits), bit_and, bit_or, mul_add of integers as
//   scale(i, factor) and iadd; equal(a, b, yes, no): yes where a = b, else no; store_bytes(i, to).
#pragma once

#include <algorithm>
#include <limits>

#include "quant/trellis_search.h"

namespace hlwq {
namespace {

template <class L, int LEVELS>
struct LaneSearch {
  using F = typename L::F;
  using I = typename L::I;
  static constexpr int W = L::kWidth;
  static constexpr int kTile = LEVELS < L::kTile ? LEVELS : L::kTile;

  /// Costs of the states that follow the LEVELS states with sums a.
  static inline void minima(const TrellisTables& t, const float* a, F v, float* next) {
    for (int q0 = 0; q0 < LEVELS; q0 += kTile) {
      const float* cross = t.cross + q0;
      F best[kTile];
      const F first = L::load(a);
#pragma GCC unroll 16
      for (int j = 0; j < kTile; ++j) best[j] = L::add(first, L::set1(cross[j]));
      for (int p = 1; p < LEVELS; ++p) {
        const F ap = L::load(a + p * W);
        const float* row = cross + p * LEVELS;
#pragma GCC unroll 16
        for (int j = 0; j < kTile; ++j) best[j] = L::min(best[j], L::add(ap, L::set1(row[j])));
      }
#pragma GCC unroll 16
      for (int j = 0; j < kTile; ++j) {
        const int q = q0 + j;
        L::store(next + q * W, L::add(best[j], L::fma(L::set1(t.minus_twice[q]), v, L::set1(t.square[q]))));
      }
    }
  }

  static void forward(const TrellisTables& t, int n, TrellisScratch& scratch, float*& cost, float*& next) {
    const float* oldest = t.oldest();
    const int groups = t.groups();
    float* a = scratch.sums();
    for (int i = 0; i < n; ++i) {
      const F u = L::load(scratch.input() + i * W);
      for (int g = 0; g < groups; ++g, a += LEVELS * W) {
        // With three lags, states that share their newest code g form a group, which leads to the states (g,
        // q).
        const F v = groups == 1 ? u : L::sub(u, L::set1(t.table[1][g]));
#pragma GCC unroll 4
        for (int p = 0; p < LEVELS; ++p) {
          const F w = L::sub(v, L::set1(oldest[p]));
          L::store(a + p * W, L::fma(w, w, L::load(cost + (p * groups + g) * W)));
        }
        minima(t, a, v, next + g * LEVELS * W);
      }
      std::swap(cost, next);
    }
  }

  /// The least p with the least a[p] + cross[p][q]; twice = 2 T_0[q]. at(p) loads a[p].
  template <class At>
  static inline I least(const float* oldest, F twice, const At& at) {
    F sum[LEVELS];
    F best[4];
#pragma GCC unroll 16
    for (int p = 0; p < LEVELS; ++p) {
      sum[p] = L::add(at(p), L::mul(twice, L::set1(oldest[p])));
      best[p & 3] = p < 4 ? sum[p] : L::min(best[p & 3], sum[p]);
    }
    const F least = L::min(L::min(best[0], best[1]), L::min(best[2], best[3]));
    I index = L::iset1(LEVELS - 1);
#pragma GCC unroll 16
    for (int p = LEVELS - 2; p >= 0; --p) index = L::equal(sum[p], least, L::iset1(p), index);
    return index;
  }

  static void backward(const TrellisTables& t, int n, I state, TrellisScratch& scratch,
                       TrellisScratch::Sums* fit) {
    const int groups = t.groups(), bits = t.bits;
    const float* oldest = t.oldest();
    const I mask = L::iset1(LEVELS - 1);
    F error = L::set1(0), residual = error, square = error;
    const I lane = L::lanes();
    for (int i = n - 1; i >= 0; --i) {
      const float* a = scratch.sums() + static_cast<ptrdiff_t>(i) * t.states * W;
      const I q = L::bit_and(state, mask), g = L::shift_right(state, bits);
      L::store_bytes(q, scratch.codes() + i * W);
      const F t0 = L::gather(t.table[0], q), twice = L::add(t0, t0);
      F c = t0;
      I p;
      if (groups == 1) {
        p = least(oldest, twice, [&](int k) { return L::load(a + k * W); });
        state = p;
      } else {
        const I at = L::iadd(L::scale(g, LEVELS * W), lane);
        p = least(oldest, twice, [&](int k) { return L::gather(a + k * W, at); });
        state = L::bit_or(L::shift_left(p, bits), g);
        c = L::add(c, L::gather(t.table[1], g));
      }
      c = L::add(c, L::gather(oldest, p));
      const F d = L::sub(L::load(scratch.input() + i * W), c);
      error = L::fma(d, d, error);
      residual = L::fma(d, c, residual);
      square = L::fma(c, c, square);
    }
    if (!fit) return;
    float sums[3][W];
    L::store(sums[0], error), L::store(sums[1], residual), L::store(sums[2], square);
    for (int j = 0; j < W; ++j) fit[j] = {sums[0][j], sums[1][j], sums[2][j]};
  }

  static void search(const TrellisTables& t, int n, const int* anchors, TrellisScratch& scratch,
                     TrellisScratch::Sums* fit) {
    float *cost = scratch.costs(), *next = cost + t.states * W;
    std::fill_n(cost, t.states * W, anchors ? std::numeric_limits<float>::infinity() : 0);
    if (anchors)
      for (int j = 0; j < W; ++j) cost[anchors[j] * W + j] = 0;
    forward(t, n, scratch, cost, next);
    I state;
    if (anchors) {
      state = L::iload(anchors);
    } else {
      F best = L::load(cost);
      state = L::iset1(0);
      for (int s = 1; s < t.states; ++s) {
        const F c = L::load(cost + s * W);
        const F lower = L::min(c, best);
        state = L::equal(lower, best, state, L::iset1(s));
        best = lower;
      }
    }
    backward(t, n, state, scratch, fit);
  }
};

template <class L>
void trellis_search(const TrellisTables& t, int n, const int* anchors, TrellisScratch& scratch,
                    TrellisScratch::Sums* fit) {
  switch (t.bits) {
    case 2:
      return LaneSearch<L, 4>::search(t, n, anchors, scratch, fit);
    case 3:
      return LaneSearch<L, 8>::search(t, n, anchors, scratch, fit);
    case 4:
      return LaneSearch<L, 16>::search(t, n, anchors, scratch, fit);
    case 5:
      return LaneSearch<L, 32>::search(t, n, anchors, scratch, fit);
    default:
      return LaneSearch<L, 64>::search(t, n, anchors, scratch, fit);
  }
}

}  // namespace
}  // namespace hlwq
