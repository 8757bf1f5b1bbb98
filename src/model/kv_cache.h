// Keys and values of one sequence, one ring per layer. Sliding layers keep their window, full layers the
// whole context; layers that attend to an earlier layer's keys and values have none.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/kv_settings.h"
#include "model/spec.h"
#include "ops/attention.h"

namespace hlwq {

class KvCache {
 public:
  /// Room for `context` positions, fed in chunks of at most `max_chunk` tokens.
  /// Throws Error(kOutOfMemory) with the bytes that it needed.
  KvCache(const ModelSpec& spec, uint64_t context, uint64_t max_chunk, const KvSettings& settings);

  /// Slots of a layer's ring: the whole context, or what a sliding window and one chunk need.
  static uint64_t capacity(const LayerSpec& layer, uint64_t context, uint64_t max_chunk);
  /// Bytes that a cache of these settings allocates, exactly.
  static uint64_t bytes(const ModelSpec& spec, uint64_t context, uint64_t max_chunk,
                        const KvSettings& settings);

  uint64_t context() const { return context_; }
  uint64_t max_chunk() const { return max_chunk_; }
  uint64_t allocated_bytes() const { return bytes_; }
  uint64_t length() const { return length_; }  ///< tokens stored

  /// Stores k and v, [tokens, kv_heads, head_dim], of one layer at positions length() .. length() + tokens.
  void store(const Compute& compute, uint64_t layer, uint64_t tokens, const float* k, const float* v);
  /// Call after every layer has stored its part.
  void advance(uint64_t tokens) { length_ += tokens; }
  KvView view(uint64_t layer) const;

  /// Forgets positions from `length` on. False, and nothing changes, when a sliding layer has already
  /// overwritten positions that a continuation from there needs.
  bool truncate(uint64_t length);

 private:
  struct Layer {
    uint64_t kv_heads = 0, head_dim = 0, capacity = 0, window = 0;
    std::byte* k = nullptr;
    std::byte* v = nullptr;
  };
  struct Unmap {
    uint64_t size;
    void operator()(std::byte* p) const;
  };
  KvType type_;
  uint64_t context_, max_chunk_, bytes_ = 0, length_ = 0, highest_ = 0;
  std::unique_ptr<std::byte, Unmap> memory_;
  std::vector<Layer> layers_;
};

}  // namespace hlwq
