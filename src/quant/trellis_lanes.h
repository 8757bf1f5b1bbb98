// The search of trellis_search.h over a vector of sequences. Included by files that target an instruction
// set, after `#pragma GCC target`, with a type L that wraps its vectors:
//   L::kWidth, L::kTile (minima kept in registers), L::F (floats), L::I (32-bit integers);
//   on I: load, store, set1, add, sub, min, mul, bit_and, bit_or, shift_left, shift_right, equal(a, b, yes,
//   no), madd(a, b, c) = a.low * b.low + a.high * b.high + c, gather(base, index), store_bytes(i, to),
//   lanes(); on F: loadf, storef, zerof, addf, subf, fmaf(a, b, c) = a * b + c; lookup<LEVELS>(table, index)
//   of either kind of table.
#pragma once

#include <utility>

#include "quant/trellis_search.h"

namespace hlwq {
namespace {

template <class L, int LEVELS, bool TWO_LAGS>
struct LaneSearch {
  using F = typename L::F;
  using I = typename L::I;
  static constexpr int W = L::kWidth, kGroups = TWO_LAGS ? 1 : LEVELS, kStates = LEVELS * kGroups;
  static constexpr int kTile = LEVELS < L::kTile ? LEVELS : L::kTile;

  static void round_values(const TrellisRange& r, TrellisScratch& scratch) {
    const F factor = L::set1f(r.factor), one = L::set1f(TrellisTables::kOne);
    const F most = L::set1f(TrellisTables::kMaxInput), least = L::set1f(-TrellisTables::kMaxInput);
    I before = L::set1(0);
    for (int i = 0, at = r.cut; i < r.n; ++i, at = r.next(at)) {
      const F u = L::mulf(L::mulf(L::loadf(scratch.input() + at * W), factor), one);
      const I now = L::round(L::minf(L::maxf(u, least), most));
      L::store(scratch.pairs() + i * W, L::bit_or(before, L::shift_left(now, 16)));
      before = L::bit_and(now, L::set1(0xffff));
    }
    L::store(scratch.pairs() + r.n * W, before);
  }

  static void first(const TrellisTables& t, const int* anchors, TrellisScratch& scratch) {
    int32_t* a = scratch.costs();
    const I u = L::load(scratch.pairs());
    const I forbidden = L::set1(anchors ? TrellisTables::kForbidden : 0);
    for (int s = 0; s < kStates; ++s)
      L::store(a + s * W, L::add(forbidden, L::madd(L::set1(t.slopes[s]), u, L::set1(t.first_constants[s]))));
    if (anchors)
      for (int j = 0; j < W; ++j) a[anchors[j] * W + j] -= TrellisTables::kForbidden;
  }

  struct StepTables {
    const int32_t *cross, *slopes, *constants;
  };

  /// The part of A_(t+1) that the states of group g at `a` and the codes from q0 lead to. The codes are
  /// spelled out as a pack: a loop over them would leave the minima in memory where the compiler unrolls it
  /// too late.
  template <int... J>
  static inline void tile(std::integer_sequence<int, J...>, const StepTables& t, I u, const int32_t* a, int g,
                          int q0, I& offset, int32_t* next) {
    const int32_t* row = t.cross + q0;
    I ap = L::load(a);
    I best[] = {L::add(ap, L::set1(row[J]))...};
#pragma GCC unroll 1
    for (int p = 1; p < LEVELS; ++p) {
      row += LEVELS;
      ap = L::load(a + p * W);
      ((best[J] = L::min(best[J], L::add(ap, L::set1(row[J]))), L::keep(best[J])), ...);
    }
    if (q0 == 0 && g == 0) offset = best[0];
    const auto finish = [&](I least, int s) {
      const I base = L::madd(L::set1(t.slopes[s]), u, L::set1(t.constants[s]));
      L::store(next + s * W, L::add(L::sub(least, offset), base));
    };
    (finish(best[J], (q0 + J) * kGroups + g), ...);
  }

  /// A_(t+1) from A_t; u is the pair of u_t and u_(t+1).
  static inline void step(const StepTables& t, I u, const int32_t* a, int32_t* next) {
    I offset = L::set1(0);
    for (int g = 0; g < kGroups; ++g, a += LEVELS * W)
      for (int q0 = 0; q0 < LEVELS; q0 += kTile)
        tile(std::make_integer_sequence<int, kTile>(), t, u, a, g, q0, offset, next);
  }

  /// The least p with the least at(p) + t0 * oldest[p].
  template <class At>
  static inline I least(const int32_t* oldest, I t0, const At& at) {
    I sum[LEVELS], best[4];
#pragma GCC unroll 16
    for (int p = 0; p < LEVELS; ++p) {
      sum[p] = L::madd(t0, L::set1(oldest[p] & 0xffff), at(p));
      best[p & 3] = p < 4 ? sum[p] : L::min(best[p & 3], sum[p]);
    }
    const I least = L::min(L::min(best[0], best[1]), L::min(best[2], best[3]));
    I index = L::set1(LEVELS - 1);
#pragma GCC unroll 16
    for (int p = LEVELS - 2; p >= 0; --p) index = L::equal(sum[p], least, L::set1(p), index);
    return index;
  }

  template <bool FIT>
  static void backward(const TrellisTables& t, const TrellisRange& r, I state, TrellisScratch& scratch,
                       TrellisScratch::Fit* fit) {
    const float* oldest_values = t.values[t.lags - 1];
    const int32_t* oldest = t.fixed[t.lags - 1];
    const I lane = L::lanes(), mask = L::set1(LEVELS - 1);
    // Newest and oldest code of the state after value i.
    I q = TWO_LAGS ? state : L::shift_right(state, t.bits), g = L::bit_and(state, mask);
    const F minus_factor = L::set1f(-r.factor);
    F error = L::set1f(0), residual = error, square = error;
    for (int i = r.n - 1; i >= 0; --i) {
      const int32_t* a = scratch.costs() + static_cast<ptrdiff_t>(i) * kStates * W;
      L::store_bytes(q, scratch.codes() + i * W);
      // 2 T_0[q] T[p] as a product of 16-bit halves: T_0 doubled is below 2^14.
      const I twice = L::template lookup<LEVELS>(t.fixed[0], q);
      const I t0 = L::bit_and(L::shift_left(twice, 1), L::set1(0xffff));
      F c{};
      if constexpr (FIT) c = L::template lookup<LEVELS>(t.values[0], q);
      I p;
      if constexpr (TWO_LAGS) {
        p = least(oldest, t0, [&](int k) { return L::load(a + k * W); });
        q = p;
      } else {
        const I at = L::add(L::mul(g, L::set1(LEVELS * W)), lane);
        p = least(oldest, t0, [&](int k) { return L::gather(a + k * W, at); });
        if constexpr (FIT) c = L::addf(c, L::template lookup<LEVELS>(t.values[1], g));
        q = g, g = p;
      }
      if constexpr (FIT) {
        c = L::addf(c, L::template lookup<LEVELS>(oldest_values, p));
        const int at = r.cut + i < r.block ? r.cut + i : r.cut + i - r.block;
        const F d = L::fmaf(L::loadf(scratch.input() + at * W), minus_factor, c);
        error = L::fmaf(d, d, error);
        residual = L::fmaf(d, c, residual);
        square = L::fmaf(c, c, square);
      }
    }
    if constexpr (FIT) {
      float sums[3][W];
      L::storef(sums[0], error), L::storef(sums[1], residual), L::storef(sums[2], square);
      for (int j = 0; j < W; ++j) fit[j] = {sums[0][j], sums[1][j], sums[2][j]};
    }
  }

  static void search(const TrellisTables& t, const TrellisRange& r, const int* anchors,
                     TrellisScratch& scratch, TrellisScratch::Fit* fit) {
    round_values(r, scratch);
    first(t, anchors, scratch);
    int32_t* a = scratch.costs();
    const int32_t* pairs = scratch.pairs() + W;
    for (int i = 0; i + 1 < r.n; ++i, a += kStates * W, pairs += W)
      step({t.cross, t.slopes.data(), t.constants.data()}, L::load(pairs), a, a + kStates * W);
    if (anchors) return backward<true>(t, r, L::load(anchors), scratch, fit);

    step({t.cross, t.last_slopes.data(), t.last_constants.data()}, L::load(pairs), a, a + kStates * W);
    a += kStates * W;
    I best = L::load(a), state = L::set1(0);
    for (int s = 1; s < kStates; ++s) {
      const I lower = L::min(L::load(a + s * W), best);
      state = L::equal(lower, best, state, L::set1(s));
      best = lower;
    }
    backward<false>(t, r, state, scratch, fit);
  }
};

template <class L, bool TWO_LAGS>
void search_levels(const TrellisTables& t, const TrellisRange& r, const int* anchors, TrellisScratch& scratch,
                   TrellisScratch::Fit* fit) {
  switch (t.bits) {
    case 2:
      return LaneSearch<L, 4, TWO_LAGS>::search(t, r, anchors, scratch, fit);
    case 3:
      return LaneSearch<L, 8, TWO_LAGS>::search(t, r, anchors, scratch, fit);
    case 4:
      return LaneSearch<L, 16, TWO_LAGS>::search(t, r, anchors, scratch, fit);
    case 5:
      return LaneSearch<L, 32, TWO_LAGS>::search(t, r, anchors, scratch, fit);
    default:
      return LaneSearch<L, 64, TWO_LAGS>::search(t, r, anchors, scratch, fit);
  }
}

template <class L>
void trellis_search(const TrellisTables& t, const TrellisRange& r, const int* anchors,
                    TrellisScratch& scratch, TrellisScratch::Fit* fit) {
  if (t.lags == 2)
    search_levels<L, true>(t, r, anchors, scratch, fit);
  else
    search_levels<L, false>(t, r, anchors, scratch, fit);
}

}  // namespace
}  // namespace hlwq
