#include "cuda/attention.h"

#include <algorithm>
#include <string>

#include "base/checked.h"
#include "cuda/attention_kernels.h"
#include "cuda/runtime.h"
#include "hlwq/error.h"

namespace hlwq::cuda {
namespace {

constexpr uint64_t kBlocksPerMultiprocessor = 4;

void validate(const AttentionPlan& plan) {
  const KvView& l = plan.layout;
  const bool sizes = l.kv_heads && plan.heads && plan.heads % l.kv_heads == 0 && l.head_dim % 8 == 0 &&
                     l.head_dim >= 8 && l.head_dim <= kMaxHeadDim;
  if (!sizes || !plan.sequences || !plan.tokens || (plan.sequences > 1 && plan.tokens > 1))
    throw Error(ErrorCode::kInvalidArgument,
                "attention on the GPU: " + std::to_string(plan.heads) + " query heads over " +
                    std::to_string(l.kv_heads) + " of size " + std::to_string(l.head_dim) + ", " +
                    std::to_string(plan.sequences) + " sequences of " + std::to_string(plan.tokens) +
                    " tokens; head sizes are multiples of 8 up to 512, and either number is 1");
}

/// Parts that keys are cut into, so that blocks come in whole waves; known without the device, as graphs and
/// scratch need it.
uint64_t splits(const AttentionPlan& plan, int multiprocessors) {
  const uint64_t rows = plan.tokens * (plan.heads / plan.layout.kv_heads);
  uint64_t tiles = ceil_div(rows, kFloatRows), per_multiprocessor = kBlocksPerMultiprocessor;
  if (decode_fits(plan)) {
    tiles = static_cast<uint64_t>(decode_head_tiles(plan));
    per_multiprocessor = static_cast<uint64_t>(decode_blocks_per_multiprocessor(plan));
  } else if (rebuilt_fits(plan)) {
    tiles = 1;
    per_multiprocessor = 2;
  } else if (prefill_fits(plan)) {
    tiles = ceil_div(rows, kPrefillRows);
    per_multiprocessor = plan.layout.head_dim > 256 ? 1 : 2;
  }
  const uint64_t blocks = plan.sequences * plan.layout.kv_heads * tiles;
  const uint64_t sees = plan.window ? std::min(plan.context, plan.window + plan.tokens - 1) : plan.context;
  const uint64_t wanted = per_multiprocessor * static_cast<uint64_t>(multiprocessors) / blocks;
  return std::clamp<uint64_t>(std::min(wanted, ceil_div(sees, kKeysPerSplit)), 1, kMaxSplits);
}

uint64_t rows(const AttentionPlan& plan) { return plan.sequences * plan.tokens * plan.heads; }

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&value, attribute, device), "asking for the device");
  return value;
}
int capability_major() { return device_attribute(cudaDevAttrComputeCapabilityMajor); }

AttentionArgs arguments(const AttentionPlan& plan, const AttentionSequences& sequences,
                        const KvTables& tables, const float* q, float* out, void* scratch,
                        int multiprocessors) {
  validate(plan);
  const KvView& l = plan.layout;
  const uint64_t n = splits(plan, multiprocessors);
  AttentionArgs a{};
  a.views = sequences.views;
  a.positions = sequences.positions;
  a.key_end = sequences.key_end;
  a.q = q;
  a.out = out;
  a.sums = static_cast<float*>(scratch);
  a.stats = a.sums + rows(plan) * n * l.head_dim;
  a.heads = static_cast<int>(plan.heads);
  a.group = static_cast<int>(plan.heads / l.kv_heads);
  a.head_dim = static_cast<int>(l.head_dim);
  a.tokens = static_cast<int>(plan.tokens);
  a.sequences = static_cast<int>(plan.sequences);
  a.window = static_cast<int>(plan.window);
  a.splits = static_cast<int>(n);
  a.k_bits = l.k.main.bits;
  a.v_bits = l.v.main.bits;
  a.tail = static_cast<int>(l.tail);
  a.sinks = static_cast<int>(l.sinks);
  a.scale = plan.scale;
  a.tables = tables;
  return a;
}

}  // namespace

uint64_t attention_scratch_bytes(const AttentionPlan& plan, int multiprocessors) {
  validate(plan);
  const uint64_t n = splits(plan, multiprocessors);
  return n == 1 ? 0 : rows(plan) * n * (plan.layout.head_dim + 2) * sizeof(float);
}

bool attention_step_fits(const AttentionPlan& plan, int block) {
  return block == 128 && decode_fits(plan) && capability_major() >= 8;
}

void attention_step(const HeadStep& step, const AttentionPlan& plan, const AttentionSequences& sequences,
                    const KvTables& tables, float* out, bool plain, const DeviceActivations& quantized,
                    int lags, void* scratch, int multiprocessors, cudaStream_t stream) {
  const AttentionArgs a = arguments(plan, sequences, tables, nullptr, out, scratch, multiprocessors);
  launch_decode(a, static_cast<int>(plan.layout.kv_heads), &step, stream);
  launch_merge_quantized(a, quantized, lags, plain, stream);
}

void attention(const AttentionPlan& plan, const AttentionSequences& sequences, const KvTables& tables,
               const float* q, float* out, void* scratch, int multiprocessors, cudaStream_t stream) {
  const AttentionArgs a = arguments(plan, sequences, tables, q, out, scratch, multiprocessors);
  const int kv_heads = static_cast<int>(plan.layout.kv_heads), major = capability_major();
  if (major >= 8 && decode_fits(plan))
    launch_decode(a, kv_heads, nullptr, stream);
  else if (major >= 8 && rebuilt_fits(plan))
    launch_rebuilt(a, kv_heads, stream);
  else if (major >= 8 && prefill_fits(plan))
    launch_prefill(a, kv_heads, device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), stream);
  else
    launch_float(a, kv_heads, stream);
  launch_merge(a, stream);
}

}  // namespace hlwq::cuda
