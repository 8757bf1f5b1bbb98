// Storing new keys and values on the GPU: what KvCache::store and KvCodec::encode do.
#include "cuda/attention_store.cuh"
#include "cuda/chain.cuh"
#include "cuda/runtime.h"
#include "quant/codebook.h"

namespace hlwq::cuda {
namespace {

constexpr int kWarps = 4;  // vectors in a block, a warp each

struct StoreArgs {
  const KvView* views;
  const uint64_t* positions;
  const float *k, *v;
  int tokens, sequences, kv_heads, head_dim;
  KvTables tables;
};

/// Grid: vectors of the keys and then of the values, a warp each.
__global__ void __launch_bounds__(kWarps * 32) store_kernel(const __grid_constant__ StoreArgs a) {
  __shared__ float vector[kWarps][kMaxHeadDim];
  __shared__ uint8_t stored[kWarps][kMaxHeadDim];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, d = a.head_dim;
  const int64_t vectors = static_cast<int64_t>(a.sequences) * a.tokens * a.kv_heads;
  start_next_kernel();
  wait_for_previous_kernel();
  int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (i >= 2 * vectors) return;
  const bool is_value = i >= vectors;
  if (is_value) i -= vectors;
  const int head = static_cast<int>(i % a.kv_heads), token = static_cast<int>(i / a.kv_heads % a.tokens);
  const int sequence = static_cast<int>(i / a.kv_heads / a.tokens);
  const KvView& view = a.views[sequence];
  const KvStore& store = is_value ? view.v : view.k;
  if (store.main.bits == 0) return;  // keys that are rebuilt
  const int position = static_cast<int>(a.positions[sequence]) + token;
  const float* x = (is_value ? a.v : a.k) + i * d;
  for (int c = lane; c < d; c += 32) vector[warp][c] = x[c];
  __syncwarp();
  store_vector(a.tables, store, d, head, position, vector[warp], stored[warp], lane);
}

}  // namespace

KvTables kv_tables() {
  KvTables t;
  const auto fill = [](float* to, int bits, size_t n) {
    const Codebook book = lloyd_max_codebook(bits);
    for (size_t i = 0; i < n; ++i) to[i] = book.values[i];
  };
  fill(t.level2, 2, 4);
  fill(t.level3, 3, 8);
  fill(t.level4, 4, 16);
  fill(t.magnitude8, 8, 128);
  return t;
}

void store_kv(const AttentionPlan& plan, const AttentionSequences& sequences, const KvTables& tables,
              const float* k, const float* v, cudaStream_t stream) {
  const KvView& layout = plan.layout;
  const StoreArgs args{sequences.views,
                       sequences.positions,
                       k,
                       v,
                       static_cast<int>(plan.tokens),
                       static_cast<int>(plan.sequences),
                       static_cast<int>(layout.kv_heads),
                       static_cast<int>(layout.head_dim),
                       tables};
  const uint64_t vectors = 2 * plan.sequences * plan.tokens * layout.kv_heads;
  launch_chained(store_kernel, static_cast<unsigned>((vectors + kWarps - 1) / kWarps), kWarps * 32, 0, stream,
                 args);
  check_launch("storing keys and values");
}

}  // namespace hlwq::cuda
