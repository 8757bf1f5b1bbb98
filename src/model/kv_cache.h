// Keys and values of one sequence: rings of plain or coded head vectors, layer by layer. Sliding layers keep
// their window, full layers the whole context; layers that share another's keys and values keep nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "model/kv_settings.h"
#include "model/spec.h"
#include "ops/attention.h"

namespace hlwq {

/// How one layer really stores its keys and values under some settings.
struct KvLayerPlan {
  KvFormat format;    ///< k_bits 0: keys are rebuilt from the values
  uint64_t tail = 0;  ///< exact vectors beside codes; 0 where nothing is coded
  uint64_t sinks = 0;
  bool stores = true;  ///< false: the layer reads another's
};

class KvCache {
 public:
  /// Room for `context` positions, fed in chunks of at most `max_chunk` tokens.
  /// Throws Error(kInvalidArgument) for settings out of range, Error(kOutOfMemory) with the bytes that it
  /// needed.
  KvCache(const ModelSpec& spec, uint64_t context, uint64_t max_chunk, const KvSettings& settings);
  /// A fork: a sequence of its own with the same content. Copies what is in use, nothing more.
  KvCache(const KvCache& other);
  KvCache& operator=(const KvCache&) = delete;

  /// What `settings` mean for layer `layer`: codes need a head size that is a power of two (32..512), others
  /// stay BF16, and so does a layer whose exact tail covers all that it ever sees.
  static KvLayerPlan layer_plan(const ModelSpec& spec, uint64_t layer, uint64_t context,
                                const KvSettings& settings);
  /// Slots of a layer's ring: the whole context, or what a sliding window and one chunk need.
  static uint64_t capacity(const LayerSpec& layer, uint64_t context, uint64_t max_chunk);
  /// Bytes that a cache of these settings allocates, exactly.
  static uint64_t bytes(const ModelSpec& spec, uint64_t context, uint64_t max_chunk,
                        const KvSettings& settings);

  uint64_t context() const { return context_; }
  uint64_t max_chunk() const { return max_chunk_; }
  uint64_t allocated_bytes() const { return bytes_; }
  uint64_t length() const { return length_; }  ///< tokens stored

  /// Whether the layer's keys are rebuilt from its values: store() then takes no keys.
  bool keys_rebuilt(uint64_t layer) const { return layers_[layers_[layer].from].view.k.main.bits == 0; }
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
  struct Layer {
    KvView view;
    uint64_t window = 0;
    uint64_t from = 0;  // the layer whose view this one reads; its own, as a rule
  };
  struct Unmap {
    uint64_t size;
    void operator()(std::byte* p) const;
  };
  using Memory = std::unique_ptr<std::byte, Unmap>;
  static Memory allocate(uint64_t bytes, uint64_t context);
  void extend_rope(uint64_t positions);

  uint64_t context_, max_chunk_, bytes_ = 0, length_ = 0, highest_ = 0;
  Memory memory_;
  std::vector<Layer> layers_;
  std::map<std::pair<int, uint64_t>, std::shared_ptr<const KvCodec>> codecs_;  // by bits and head size
  // Cosines and sines by which keys are rebuilt, for every position so far.
  std::vector<float> inv_freq_;
  float* rope_ = nullptr;
  uint64_t rope_pairs_ = 0, rope_filled_ = 0;
};

}  // namespace hlwq
