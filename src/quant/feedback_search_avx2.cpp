// States side by side in 256-bit vectors. Up to 32 states change places by permutation, 64 by gathers.
#if defined(__x86_64__)
#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "quant/feedback_search.h"
#pragma GCC target("avx2,fma")
#include <immintrin.h>

namespace hlwq {
namespace {

/// out[v] = table[from[v]], for states in V vectors of eight.
template <int V>
void pick(const float* table, const __m256i* from, __m256* out) {
  if constexpr (V <= 2) {
    const __m256 low = _mm256_loadu_ps(table);
    if constexpr (V == 1) {
      out[0] = _mm256_permutevar8x32_ps(low, from[0]);
    } else {
      const __m256 high = _mm256_loadu_ps(table + 8);
      for (int v = 0; v < 2; ++v)
        // An index's bits above 2, moved to the sign, choose the vector.
        out[v] =
            _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, from[v]), _mm256_permutevar8x32_ps(high, from[v]),
                             _mm256_castsi256_ps(_mm256_slli_epi32(from[v], 28)));
    }
  } else if constexpr (V == 4) {
    __m256 part[4];
    for (int i = 0; i < 4; ++i) part[i] = _mm256_loadu_ps(table + 8 * i);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(from[v], 28));
      const __m256 bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(from[v], 27));
      out[v] = _mm256_blendv_ps(_mm256_blendv_ps(_mm256_permutevar8x32_ps(part[0], from[v]),
                                                 _mm256_permutevar8x32_ps(part[1], from[v]), bit3),
                                _mm256_blendv_ps(_mm256_permutevar8x32_ps(part[2], from[v]),
                                                 _mm256_permutevar8x32_ps(part[3], from[v]), bit3),
                                bit4);
    }
  } else {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) out[v] = _mm256_i32gather_ps(table, from[v], 4);
  }
}

/// The cheapest way into the states of `kGroup` vectors from any of `levels`.
template <int kGroup>
void relax(const float* cost, const float* miss, float weight, const float* t0, int levels, float* best,
           int32_t* from) {
  __m256 least[kGroup], values[kGroup];
  __m256i origin[kGroup];
  for (int v = 0; v < kGroup; ++v) {
    least[v] = _mm256_set1_ps(std::numeric_limits<float>::infinity());
    origin[v] = _mm256_setzero_si256();
    values[v] = _mm256_loadu_ps(t0 + 8 * v);
  }
  const __m256 w = _mm256_set1_ps(weight);
  for (int s = 0; s < levels; ++s) {
    const __m256 m = _mm256_set1_ps(miss[s]), c = _mm256_set1_ps(cost[s]);
    const __m256 index = _mm256_castsi256_ps(_mm256_set1_epi32(s));
#pragma GCC unroll 4
    for (int v = 0; v < kGroup; ++v) {
      const __m256 d = _mm256_sub_ps(m, values[v]);
      const __m256 candidate = _mm256_add_ps(c, _mm256_mul_ps(w, _mm256_mul_ps(d, d)));
      const __m256 less = _mm256_cmp_ps(candidate, least[v], _CMP_LT_OQ);
      least[v] = _mm256_blendv_ps(least[v], candidate, less);
      origin[v] = _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(origin[v]), index, less));
    }
  }
  for (int v = 0; v < kGroup; ++v) {
    _mm256_storeu_ps(best + 8 * v, least[v]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(from + 8 * v), origin[v]);
  }
}

template <int V>
void search(const FeedbackProblem& p, int anchor, FeedbackScratch& scratch, uint8_t* q) {
  constexpr int kRow = 8 * V, kGroup = std::min(V, 4);
  constexpr float kNever = std::numeric_limits<float>::infinity();
  const int n = p.block, levels = p.levels;
  const auto row = static_cast<size_t>(kRow);
  scratch.pending.assign(static_cast<size_t>(n) * row, 0.0f);
  scratch.from.resize(static_cast<size_t>(n) * row);
  alignas(32) float cost[kRow], next[kRow], miss[kRow], t0[kRow] = {}, t1[kRow] = {};
  alignas(32) int32_t origin[kRow];
  std::copy_n(p.t0, levels, t0);
  std::copy_n(p.t1, levels, t1);
  for (int s = 0; s < kRow; ++s) cost[s] = s < levels && (anchor < 0 || s == anchor) ? 0 : kNever;

  for (int j = 0; j < n; ++j) {
    const float* pending = &scratch.pending[static_cast<size_t>(j) * row];
    for (int s = 0; s < kRow; ++s) miss[s] = (p.target[j] + pending[s]) - t1[s];
    for (int v = 0; v < V; v += kGroup)
      relax<kGroup>(cost, miss, p.weight[j], t0 + 8 * v, levels, next + 8 * v, origin + 8 * v);
    // Lanes beyond the last state lead nowhere.
    for (int s = levels; s < kRow; ++s) next[s] = kNever;
    std::copy_n(next, kRow, cost);
    uint8_t* from_row = &scratch.from[static_cast<size_t>(j) * row];
    for (int s = 0; s < kRow; ++s) from_row[s] = static_cast<uint8_t>(origin[s]);

    __m256i from[V];
    __m256 error[V];
    for (int v = 0; v < V; ++v) from[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(origin + 8 * v));
    pick<V>(t1, from, error);
    const __m256 own = _mm256_set1_ps(p.own[j]);
    for (int v = 0; v < V; ++v)
      error[v] = _mm256_sub_ps(_mm256_sub_ps(own, _mm256_load_ps(t0 + 8 * v)), error[v]);
    const float* moves = p.feedback + static_cast<uint64_t>(j) * p.stride;
    for (int k = j + 1; k < n; ++k) {
      float* later = &scratch.pending[static_cast<size_t>(k) * row];
      const __m256 move = _mm256_set1_ps(moves[k]);
      __m256 old[V];
      pick<V>(later, from, old);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        _mm256_storeu_ps(later + 8 * v, _mm256_add_ps(old[v], _mm256_mul_ps(error[v], move)));
    }
  }
  read_back(scratch, row, n, anchor >= 0 ? anchor : cheapest(cost, levels), q);
}

}  // namespace

void feedback_search_avx2(const FeedbackProblem& p, int anchor, FeedbackScratch& scratch, uint8_t* q) {
  if (p.levels <= 8) return search<1>(p, anchor, scratch, q);
  if (p.levels == 16) return search<2>(p, anchor, scratch, q);
  if (p.levels == 32) return search<4>(p, anchor, scratch, q);
  search<8>(p, anchor, scratch, q);
}

}  // namespace hlwq
#endif
