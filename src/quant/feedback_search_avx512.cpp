// States side by side in 512-bit vectors; survivors change places by permutation.
#if defined(__x86_64__)
#include <cstddef>
#include <limits>
#include <vector>

#include "quant/feedback_search.h"
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
// g++ 12's own AVX-512 headers pass variables that are deliberately not initialised.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

namespace hlwq {
namespace {

/// V vectors of 16 states. Fewer than 16 states leave lanes that cost infinitely much and feed nothing.
template <int V>
void search(const FeedbackProblem& p, int anchor, FeedbackScratch& scratch, uint8_t* q) {
  constexpr size_t kRow = 16 * V;
  const int n = p.block, levels = p.levels;
  scratch.pending.assign(static_cast<size_t>(n) * kRow, 0.0f);
  scratch.from.resize(static_cast<size_t>(n) * kRow);
  const __m512 never = _mm512_set1_ps(std::numeric_limits<float>::infinity());
  alignas(64) float cost[kRow], miss[kRow], t0[kRow] = {}, t1[kRow] = {};
  for (int s = 0; s < levels; ++s) t0[s] = p.t0[s], t1[s] = p.t1[s];
  for (int s = 0; s < static_cast<int>(kRow); ++s)
    cost[s] = s < levels && (anchor < 0 || s == anchor) ? 0 : std::numeric_limits<float>::infinity();
  __m512 t0v[V], t1v[V];
  for (int v = 0; v < V; ++v) t0v[v] = _mm512_load_ps(t0 + 16 * v), t1v[v] = _mm512_load_ps(t1 + 16 * v);

  for (int j = 0; j < n; ++j) {
    const float* pending = &scratch.pending[static_cast<size_t>(j) * kRow];
    const __m512 target = _mm512_set1_ps(p.target[j]), weight = _mm512_set1_ps(p.weight[j]);
    for (int v = 0; v < V; ++v)
      _mm512_store_ps(miss + 16 * v,
                      _mm512_sub_ps(_mm512_add_ps(target, _mm512_loadu_ps(pending + 16 * v)), t1v[v]));
    __m512 best[V];
    __m512i from[V];
    for (int v = 0; v < V; ++v) best[v] = never, from[v] = _mm512_setzero_si512();
    for (int s = 0; s < levels; ++s) {
      const __m512 m = _mm512_set1_ps(miss[s]), c = _mm512_set1_ps(cost[s]);
      const __m512i index = _mm512_set1_epi32(s);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const __m512 d = _mm512_sub_ps(m, t0v[v]);
        const __m512 candidate = _mm512_add_ps(c, _mm512_mul_ps(weight, _mm512_mul_ps(d, d)));
        const __mmask16 less = _mm512_cmp_ps_mask(candidate, best[v], _CMP_LT_OQ);
        best[v] = _mm512_mask_mov_ps(best[v], less, candidate);
        from[v] = _mm512_mask_mov_epi32(from[v], less, index);
      }
    }
    // out[to] = table[from[to]].
    const auto pick = [&from](const __m512* table, int v) {
      if constexpr (V == 1) return _mm512_permutexvar_ps(from[v], table[0]);
      if constexpr (V == 2) return _mm512_permutex2var_ps(table[0], from[v], table[1]);
      if constexpr (V == 4)
        return _mm512_mask_blend_ps(_mm512_test_epi32_mask(from[v], _mm512_set1_epi32(32)),
                                    _mm512_permutex2var_ps(table[0], from[v], table[1]),
                                    _mm512_permutex2var_ps(table[2], from[v], table[3]));
    };
    const __m512 own = _mm512_set1_ps(p.own[j]);
    __m512 error[V];
    for (int v = 0; v < V; ++v) {
      error[v] = _mm512_sub_ps(_mm512_sub_ps(own, t0v[v]), pick(t1v, v));
      _mm512_store_ps(cost + 16 * v, best[v]);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(&scratch.from[static_cast<size_t>(j) * kRow + 16 * v]),
                       _mm512_cvtepi32_epi8(from[v]));
    }
    if (levels < 16)
      _mm512_store_ps(cost, _mm512_mask_mov_ps(never, static_cast<__mmask16>((1 << levels) - 1), best[0]));
    const float* moves = p.feedback + static_cast<uint64_t>(j) * p.stride;
    for (int k = j + 1; k < n; ++k) {
      float* later = &scratch.pending[static_cast<size_t>(k) * kRow];
      const __m512 move = _mm512_set1_ps(moves[k]);
      __m512 old[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) old[v] = _mm512_loadu_ps(later + 16 * v);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        _mm512_storeu_ps(later + 16 * v, _mm512_add_ps(pick(old, v), _mm512_mul_ps(error[v], move)));
    }
  }
  read_back(scratch, kRow, n, anchor >= 0 ? anchor : cheapest(cost, levels), q);
}

}  // namespace

void feedback_search_avx512(const FeedbackProblem& p, int anchor, FeedbackScratch& scratch, uint8_t* q) {
  if (p.levels <= 16) return search<1>(p, anchor, scratch, q);
  if (p.levels == 32) return search<2>(p, anchor, scratch, q);
  search<4>(p, anchor, scratch, q);
}

}  // namespace hlwq
#endif
