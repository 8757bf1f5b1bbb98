// Causal attention of a run of new tokens over one layer's key/value cache, grouped-query, full or sliding.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/linear.h"

namespace hlwq {

enum class KvType { kF32, kBF16 };

/// One layer's cache: head-major rings. Position p lives in slot p % capacity.
struct KvView {
  KvType type = KvType::kBF16;
  uint64_t kv_heads = 0, head_dim = 0, capacity = 0;
  const void* k = nullptr;  // [kv_heads, capacity, head_dim]
  const void* v = nullptr;  // [kv_heads, capacity, head_dim]
};

struct AttentionShape {
  uint64_t heads = 0;           ///< query heads, a multiple of kv_heads
  uint64_t first_position = 0;  ///< position of the first query
  uint64_t tokens = 0;          ///< queries; their keys are already in the cache
  uint64_t window = 0;          ///< > 0: a query at p sees keys p - window + 1 .. p; 0: all up to p
  float scale = 1;              ///< multiplies q.k
  /// One past the last key that each query sees, [tokens], at most first_position + tokens: tokens of an
  /// image also see those after them. Null: causal, position + 1.
  const uint64_t* key_end = nullptr;
};

/// Scratch that the caller keeps between calls, so that a step allocates nothing.
struct AttentionScratch {
  std::vector<float> partial;                  // per (split, query row): max, sum, accumulator
  std::vector<std::vector<float>> per_thread;  // tiles
};

/// q, out: [tokens, heads, head_dim]. Scores and sums are float; keys and values are read in tiles, never
/// expanded as a whole. Long contexts are split over the threads and merged by their log-sum-exp.
void attention(const Compute& compute, const KvView& cache, const AttentionShape& shape, const float* q,
               float* out, AttentionScratch& scratch);

}  // namespace hlwq
