// What the files of GPU attention share: arguments of their kernels, and how work is split.
#pragma once

#include "cuda/activations.h"
#include "cuda/attention.h"

namespace hlwq::cuda {

constexpr int kMaxHeadDim = 512;

/// A call of attention() as its kernels see it.
struct AttentionArgs {
  const KvView* views;
  const uint64_t* positions;
  const uint64_t* key_end;
  const float* q;
  float* out;
  float* sums;   ///< [sequences * tokens * heads, splits, head_dim]: unnormalised outputs, where splits > 1
  float* stats;  ///< [sequences * tokens * heads, splits, 2]: maximum of the scores, sum of the weights
  int heads, group, head_dim, tokens, sequences, window, splits;
  int k_bits, v_bits, tail, sinks;
  float scale;
  KvTables tables;

  __host__ __device__ bool coded() const { return (k_bits && k_bits < 16) || v_bits < 16; }
};

/// Rows (tokens x heads of a group) that one block of the float kernel works on.
constexpr int kFloatRows = 8;
/// Splits of the keys, at most.
constexpr int kMaxSplits = 256;
/// Splits are worth this many keys at least.
constexpr int kKeysPerSplit = 32;

/// The tensor core kernels of a decode step: attention_decode.cu. Of compute capability 8.0 on.
bool decode_fits(const AttentionPlan& plan);
int decode_head_tiles(const AttentionPlan& plan);
int decode_blocks_per_multiprocessor(const AttentionPlan& plan);
/// With `step`, also norms, turns and stores what the linears gave, and args.q is not read.
void launch_decode(const AttentionArgs& args, int kv_heads, const HeadStep* step, cudaStream_t stream);

/// The tensor core kernels of many tokens: attention_prefill.cu. Of compute capability 8.0 on;
/// `shared_bytes`: what a block may have.
constexpr int kPrefillRows = 64;
bool prefill_fits(const AttentionPlan& plan);
void launch_prefill(const AttentionArgs& args, int kv_heads, int shared_bytes, cudaStream_t stream);

/// A decode step whose keys are rebuilt, for heads of 512 with 64 rotating pairs: attention_rebuilt.cu.
bool rebuilt_fits(const AttentionPlan& plan);
void launch_rebuilt(const AttentionArgs& args, int kv_heads, cudaStream_t stream);

/// The kernel for every form and head size, in float: attention_float.cu.
void launch_float(const AttentionArgs& args, int kv_heads, cudaStream_t stream);
/// out = the splits' outputs merged by their log-sum-exp, rotated back where values are coded. With one split
/// `out` holds the outputs already.
void launch_merge(const AttentionArgs& args, cudaStream_t stream);
/// Also with one split; with the rotated INT8 form in blocks of 128, and `out` only where `plain`.
void launch_merge_quantized(const AttentionArgs& args, const DeviceActivations& quantized, int lags,
                            bool plain, cudaStream_t stream);

}  // namespace hlwq::cuda
