// Attention of a run of new tokens over one layer's key/value cache: causal or with images, grouped-query,
// full or sliding.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/kv_view.h"
#include "ops/linear.h"

namespace hlwq {

struct AttentionShape {
  uint64_t heads = 0;           ///< query heads, a multiple of kv_heads
  uint64_t first_position = 0;  ///< position of the first query
  uint64_t tokens = 0;          ///< queries; their keys are already in the cache
  uint64_t window = 0;          ///< > 0: a query at p sees keys p - window + 1 .. p; 0: all up to p
  float scale = 1;              ///< multiplies q.k
  /// One past the last key that each query sees, [tokens], ascending, at most first_position + tokens: tokens
  /// of an image also see those after them. Null: causal, position + 1.
  const uint64_t* key_end = nullptr;
};

/// Scratch that the caller keeps between calls, so that a step allocates nothing.
struct AttentionScratch {
  struct Thread {
    std::vector<float> queries, rotated, pairs;        // [rows, head_dim], likewise, [rows, 2 k_pairs]
    std::vector<float> values, keys, scores, rebuilt;  // tiles: [keys, head_dim] twice, [rows, keys] twice
    QuantizedActivations q8;                           // queries for coded keys
  };
  std::vector<float> partial;  // per (split, query row): max, sum, accumulator
  std::vector<Thread> threads;
};

/// q, out: [tokens, heads, head_dim]. Scores and sums are float, except that queries meet coded keys as INT8
/// (one scale a head). Keys and values are read in tiles where they lie, never expanded as a whole. Long
/// contexts are split over the threads and merged by their log-sum-exp.
void attention(const Compute& compute, const KvView& cache, const AttentionShape& shape, const float* q,
               float* out, AttentionScratch& scratch);

}  // namespace hlwq
