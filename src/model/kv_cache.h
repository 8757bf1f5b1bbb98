// Keys and values of one sequence in the machine's memory (model/kv_layout.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "model/kv_layout.h"
#include "model/kv_settings.h"
#include "model/spec.h"
#include "ops/attention.h"

namespace hlwq {

class KvCache {
 public:
  /// Room for `context` positions, fed in chunks of at most `max_chunk` tokens.
  /// Throws Error(kInvalidArgument) for settings out of range, Error(kOutOfMemory) with the bytes that it
  /// needed.
  KvCache(const ModelSpec& spec, uint64_t context, uint64_t max_chunk, const KvSettings& settings);
  /// A fork: a sequence of its own with the same content. Copies what is in use, nothing more.
  KvCache(const KvCache& other);
  KvCache& operator=(const KvCache&) = delete;

  /// Bytes that a cache of these settings allocates, exactly.
  static uint64_t bytes(const ModelSpec& spec, uint64_t context, uint64_t max_chunk,
                        const KvSettings& settings);

  uint64_t context() const { return context_; }
  uint64_t max_chunk() const { return max_chunk_; }
  uint64_t allocated_bytes() const { return bytes_; }
  uint64_t length() const { return length_; }  ///< tokens stored

  /// Whether the layer's keys are rebuilt from its values: store() then takes no keys.
  bool keys_rebuilt(uint64_t layer) const {
    return layout_.layers[layout_.layers[layer].from].view.k.main.bits == 0;
  }
  /// Stores k and v, [tokens, kv_heads, head_dim], of one layer at positions length() .. length() + tokens.
  void store(const Compute& compute, uint64_t layer, uint64_t tokens, const float* k, const float* v);
  /// Call after every layer has stored its part.
  void advance(uint64_t tokens) { length_ += tokens; }
  /// `k_norm`: the layer's key norm weights [head_dim], for keys that are rebuilt.
  KvView view(uint64_t layer, const float* k_norm = nullptr) const;

  /// Forgets positions from `length` on. False, and nothing changes, when a sliding window or an exact tail
  /// has already lost positions that a continuation from there needs.
  bool truncate(uint64_t length);

 private:
  struct Unmap {
    uint64_t size;
    void operator()(std::byte* p) const;
  };
  using Memory = std::unique_ptr<std::byte, Unmap>;
  static Memory allocate(uint64_t bytes, uint64_t context);
  void extend_rope(uint64_t positions);

  uint64_t context_, max_chunk_, bytes_ = 0, length_ = 0, highest_ = 0;
  Memory memory_;
  KvLayout layout_;
  std::map<std::pair<int, uint64_t>, std::shared_ptr<const KvCodec>> codecs_;  // by bits and head size
  uint64_t rope_filled_ = 0;  // positions whose rotary embedding is there
};

}  // namespace hlwq
