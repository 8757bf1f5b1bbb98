// One sequence running through a model, wherever that happens: what sessions and measurements see of a
// backend.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "model/kv_cache.h"
#include "model/transformer.h"

namespace hlwq {

class Sequence {
 public:
  virtual ~Sequence() = default;
  Sequence& operator=(const Sequence&) = delete;

  /// A sequence of its own with the same content; of the last forward() it keeps the last token's state
  /// alone.
  virtual std::unique_ptr<Sequence> fork() const = 0;

  virtual uint64_t context() const = 0;        ///< positions there is room for
  virtual uint64_t max_chunk() const = 0;      ///< tokens that one forward() takes at most
  virtual uint64_t length() const = 0;         ///< tokens stored
  virtual uint64_t kv_bytes() const = 0;       ///< of the cache
  virtual uint64_t scratch_bytes() const = 0;  ///< activations and logits

  /// Runs `ids` at positions length() .. and stores their keys and values. Images and errors as
  /// Transformer::forward.
  virtual void forward(std::span<const int32_t> ids, std::span<const ImageRun> images = {}) = 0;
  /// Final normed hidden states [rows, hidden] of tokens first .. first + rows of the last forward().
  virtual void states(uint64_t first, uint64_t rows, float* out) = 0;
  /// Logits [rows, vocab] of such states.
  virtual void logits(const float* states, uint64_t rows, float* out) = 0;
  /// Logits [vocab] after the last token that was run.
  virtual void last_logits(float* out) = 0;
  /// Forgets positions from `length` on; false, and nothing changes, where KvCache::truncate says so.
  virtual bool truncate(uint64_t length) = 0;

 protected:
  Sequence() = default;
  Sequence(const Sequence&) = default;
};

/// On the processor. The transformer and what `compute` points to must outlive it.
class CpuSequence final : public Sequence {
 public:
  /// As KvCache.
  CpuSequence(const Transformer& transformer, const Compute& compute, uint64_t context, uint64_t max_chunk,
              const KvSettings& settings);

  std::unique_ptr<Sequence> fork() const override;
  uint64_t context() const override { return cache_.context(); }
  uint64_t max_chunk() const override { return cache_.max_chunk(); }
  uint64_t length() const override { return cache_.length(); }
  uint64_t kv_bytes() const override { return cache_.allocated_bytes(); }
  uint64_t scratch_bytes() const override;
  void forward(std::span<const int32_t> ids, std::span<const ImageRun> images) override;
  void states(uint64_t first, uint64_t rows, float* out) override;
  void logits(const float* states, uint64_t rows, float* out) override;
  void last_logits(float* out) override;
  bool truncate(uint64_t length) override { return cache_.truncate(length); }

 private:
  CpuSequence(const CpuSequence& other);

  const Transformer& transformer_;
  Compute compute_;
  KvCache cache_;
  Workspace workspace_;
  uint64_t tokens_ = 0;  // of the last forward, whose states the workspace holds
};

}  // namespace hlwq
