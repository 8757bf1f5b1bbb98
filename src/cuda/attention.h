// Attention on the GPU over the same forms of cache as ops/attention.h, and the storing of keys and values.
//
// Rings, codes, the rotated domain, exact tails, sinks and keys rebuilt from values are those of
// ops/kv_view.h and model/kv_cache.h, bit by bit. Every pointer in a KvView here is a device pointer, and
// KvRing::codec is null: the codebook follows from the bits (lloyd_max_codebook), the block is head_dim.
//
// Positions live in device memory, so that a captured graph of a decode step can be replayed as they grow: no
// grid and no host value depends on them, only on AttentionPlan.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/activations.h"
#include "ops/kv_view.h"

namespace hlwq::cuda {

/// Codebook levels of coded keys and values, passed to kernels by value.
struct KvTables {
  float level2[4], level3[8], level4[16];  ///< by stored code (quant/layout.h)
  float magnitude8[128];                   ///< keys of 8 bits: by magnitude index
};
KvTables kv_tables();

/// What the host knows of a call. Either many sequences of one token each (decode), or one sequence of many
/// tokens (a prompt's chunk).
struct AttentionPlan {
  uint64_t heads = 0;  ///< query heads, a multiple of layout.kv_heads
  uint64_t sequences = 1, tokens = 1;
  uint64_t window = 0;   ///< > 0: a query at p sees keys p - window + 1 .. p; 0: all up to p
  uint64_t context = 0;  ///< no query sees more keys than this
  float scale = 1;       ///< multiplies q.k
  KvView layout;         ///< sizes and forms, the same for every sequence; its data pointers are not used
};

/// Device arrays over the plan's sequences.
struct AttentionSequences {
  const KvView* views = nullptr;        ///< [sequences]: this layer's rings
  const uint64_t* positions = nullptr;  ///< [sequences]: position of the first new token
  /// [tokens], or null: one past the last key that each query sees (AttentionShape::key_end); one sequence
  /// only.
  const uint64_t* key_end = nullptr;
};

/// Stores k and v, [sequences * tokens, kv_heads, head_dim] floats, at positions[s] .. positions[s] + tokens:
/// what KvCache::store does, codes and norms equal to its own up to rounding at a threshold. k null: keys are
/// rebuilt. Asynchronous on `stream`.
void store_kv(const AttentionPlan& plan, const AttentionSequences& sequences, const KvTables& tables,
              const float* k, const float* v, cudaStream_t stream);

/// Bytes of scratch that attention() needs for this plan; depends on nothing else.
uint64_t attention_scratch_bytes(const AttentionPlan& plan, int multiprocessors);

/// q, out: [sequences * tokens, heads, head_dim] floats. Scores and sums are float. Keys and values are
/// decoded where they are used, never expanded in memory; long contexts are split over the multiprocessors
/// and merged by their log-sum-exp. Asynchronous on `stream`; may be captured into a graph.
void attention(const AttentionPlan& plan, const AttentionSequences& sequences, const KvTables& tables,
               const float* q, float* out, void* scratch, int multiprocessors, cudaStream_t stream);

/// Whether attention_step() has kernels for such a plan, on this GPU, and for an input of the next linear in
/// blocks of `block`.
bool attention_step_fits(const AttentionPlan& plan, int block);
/// A decode step between two linears in two kernels: head_step(), store_kv() where the step has a v,
/// attention() and quantize_step() into `quantized`; `out` is written only where `plain`, but is always room
/// to work in. step.*_out are not used.
void attention_step(const HeadStep& step, const AttentionPlan& plan, const AttentionSequences& sequences,
                    const KvTables& tables, float* out, bool plain, const DeviceActivations& quantized,
                    int lags, void* scratch, int multiprocessors, cudaStream_t stream);

}  // namespace hlwq::cuda
