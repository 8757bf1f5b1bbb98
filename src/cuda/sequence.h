// A sequence on the GPU: its cache there, the decode step as one captured graph.
#pragma once

#include <memory>
#include <vector>

#include "cuda/model.h"
#include "model/sequence.h"

namespace hlwq::cuda {

/// Memory that one pass of up to `max_chunk` tokens works in; forks share it, since a GPU runs one pass at a
/// time.
struct GpuWorkspace {
  GpuWorkspace(const GpuModel& model, uint64_t context, uint64_t max_chunk, const KvLayout& layout);

  uint64_t max_chunk, scratch_bytes;
  Buffer memory, logits;
  float *x[2], *projected, *normed, *states, *q, *k, *v, *q_heads, *k_heads, *v_heads, *attended, *gate, *up,
      *gated;
  void *hidden_in, *attended_in, *inner_in, *other_in,
      *scratch;  // activations (matrix.h), and what kernels work in
  // Of models with experts: a batch of expert_tokens().
  float *expert_scores, *expert_gate_up, *expert_gated, *expert_outputs;
  void *expert_routing, *expert_inner;
  // Of models with per-layer embeddings.
  float *per_layer_rows, *per_layer_projected, *per_layer_values, *per_layer_gate, *per_layer_gated;
  void* per_layer_in;
  int32_t* ids;
  uint64_t *position, *key_end;
  PinnedBuffer host;            // position, key_end, ids
  PinnedBuffer per_layer_host;  // rows of the per-layer table
  const void* owner = nullptr;  // the sequence whose states these are
};

/// How many of `tokens` go through the experts at once.
uint64_t expert_tokens(const ModelSpec& spec, uint64_t tokens);

class GpuSequence final : public Sequence {
 public:
  /// Throws Error(kOutOfMemory) with what is missing; `model` must outlive this. Layers that are not on the
  /// GPU run with `compute` on the processor.
  GpuSequence(std::shared_ptr<const GpuModel> model, const Compute& compute, uint64_t context,
              uint64_t max_chunk, const KvSettings& settings);
  ~GpuSequence() override;

  /// GPU memory of such a sequence: its cache, and the workspace that it shares with its forks.
  static uint64_t device_bytes(const ModelSpec& gpu_spec, uint64_t context, uint64_t max_chunk,
                               const KvSettings& settings, int multiprocessors);

  std::unique_ptr<Sequence> fork() const override;
  uint64_t context() const override { return context_; }
  uint64_t max_chunk() const override { return max_chunk_; }
  uint64_t length() const override { return length_; }
  uint64_t kv_bytes() const override {
    return memory_.bytes() + (cpu_cache_ ? cpu_cache_->allocated_bytes() : 0);
  }
  uint64_t scratch_bytes() const override { return workspace_->memory.bytes() + workspace_->logits.bytes(); }
  void forward(std::span<const int32_t> ids, std::span<const ImageRun> images) override;
  void states(uint64_t first, uint64_t rows, float* out) override;
  void logits(const float* states, uint64_t rows, float* out) override;
  void last_logits(float* out) override;
  bool truncate(uint64_t length) override;
  /// Takes positions below `length` as filled, with zeros: to measure steps at a context that nobody has
  /// read.
  void assume_filled(uint64_t length);

 private:
  GpuSequence(const GpuSequence& other);
  void make_views();
  void check_ids(std::span<const int32_t> ids) const;
  void prepare(std::span<const int32_t> ids, std::span<const ImageRun> images);
  void look_up(uint64_t tokens);
  void run_layers(uint64_t tokens, bool images);
  void run_layer(uint64_t layer, uint64_t tokens, bool images);
  void capture_step();
  void mix_experts(const GpuExperts& experts, uint64_t tokens);
  void look_up_per_layer(std::span<const int32_t> ids);
  void prepare_per_layer(uint64_t tokens);
  void project_per_layer(uint64_t layer, const float* mlp_norm, uint64_t tokens);
  void run_linears(const float* floats, const DeviceActivations& act, const InputForms& forms,
                   std::span<const std::pair<const GpuWeight*, float*>> tasks, uint64_t tokens);
  void residual(const float* projected, const float* delta_norm, float scale, const float* norm,
                const InputForms& next, uint64_t tokens, float* normed);
  void head(const float* states, uint64_t rows, float* out);

  std::shared_ptr<const GpuModel> model_;
  Compute compute_;
  uint64_t context_, max_chunk_, length_ = 0, highest_ = 0;
  KvSettings settings_;
  KvLayout layout_;
  Buffer memory_, views_;  // the cache; KvView [layers]
  KvTables tables_;
  std::shared_ptr<GpuWorkspace> workspace_;
  int current_ = 0;                 // which of the workspace's x holds the residual
  Buffer last_state_;               // [hidden]
  uint64_t tokens_ = 0;             // of the last forward
  bool warm_ = false;               // whether a single token has run outside a capture
  cudaGraphExec_t step_ = nullptr;  // one token
  // Layers that run on the processor.
  std::unique_ptr<KvCache> cpu_cache_;
  std::shared_ptr<Workspace> cpu_workspace_;
};

}  // namespace hlwq::cuda
