// Where everything in a key/value cache lies, whatever memory holds it: rings of plain or coded head vectors,
// layer by layer. Sliding layers keep their window, full layers the whole context; layers that share
// another's keys and values keep nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "model/kv_settings.h"
#include "model/spec.h"
#include "ops/kv_view.h"

namespace hlwq {

/// How one layer really stores its keys and values under some settings.
struct KvLayerPlan {
  KvFormat format;    ///< k_bits 0: keys are rebuilt from the values
  uint64_t tail = 0;  ///< exact vectors beside codes; 0 where nothing is coded
  uint64_t sinks = 0;
  bool stores = true;  ///< false: the layer reads another's
};
/// What `settings` mean for layer `layer`: codes need a head size that is a power of two (32..512), others
/// stay BF16, and so does a layer whose exact tail covers all that it ever sees.
KvLayerPlan kv_layer_plan(const ModelSpec& spec, uint64_t layer, uint64_t context,
                          const KvSettings& settings);
/// Slots of a layer's ring: the whole context, or what a sliding window and one chunk need.
uint64_t kv_capacity(const LayerSpec& layer, uint64_t context, uint64_t max_chunk);

struct KvLayout {
  struct Layer {
    KvView view;  ///< k_weight, k_pairs and k_rope are left to the cache
    uint64_t window = 0;
    uint64_t from = 0;  ///< the layer whose view this one reads; its own, as a rule
  };
  uint64_t bytes = 0;
  std::vector<Layer> layers;
  /// Cosines and sines by which keys are rebuilt, [context, 2, rope_pairs]; null where none are.
  float* rope = nullptr;
  uint64_t rope_pairs = 0;
  std::vector<float> inv_freq;  ///< of that rotary embedding

  using CodecFor = std::function<const KvCodec*(int bits, uint64_t head_dim)>;
  /// Lays a cache out from `base` on (64-byte aligned; null: only sizes mean anything). `codec`: for coded
  /// rings; empty: none. Throws Error(kInvalidArgument) for settings out of range.
  static KvLayout place(const ModelSpec& spec, uint64_t context, uint64_t max_chunk,
                        const KvSettings& settings, std::byte* base, const CodecFor& codec = {});

  /// Whether a cache that has held positions below `highest` still has all that a continuation from `length`
  /// on needs: a sliding window or an exact tail forgets.
  bool keeps(uint64_t highest, uint64_t length) const;
};

/// Bytes of one head vector in a ring.
inline uint64_t kv_row_bytes(int bits, uint64_t head_dim) {
  return head_dim * static_cast<uint64_t>(bits) / 8;
}

template <typename Fn>
void for_rings(KvView& view, Fn&& fn) {
  for (KvStore* s : {&view.k, &view.v})
    for (KvRing* r : {&s->main, &s->exact, &s->sinks})
      if (r->bits) fn(*r);
}

}  // namespace hlwq
