#include "model/kv_layout.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/checked.h"
#include "ops/kv_codec.h"

namespace hlwq {
namespace {

constexpr uint64_t kAlignment = 64;  // of each ring
const std::string kWhat = "key/value cache";

/// Lays rings out one after another; without a base it only counts.
class Placer {
 public:
  explicit Placer(std::byte* base) : base_(base) {}
  uint64_t used() const { return used_; }

  void* take(uint64_t bytes) {
    used_ = checked_mul(ceil_div(used_, kAlignment), kAlignment, kWhat);
    void* p = base_ ? base_ + used_ : nullptr;
    used_ = checked_add(used_, bytes, kWhat);
    return p;
  }
  KvRing ring(int bits, uint64_t heads, uint64_t head_dim, uint64_t capacity, const KvCodec* codec) {
    KvRing r{.bits = bits, .capacity = capacity};
    if (!bits || !capacity) return {};
    const uint64_t slots = checked_mul(heads, capacity, kWhat);
    r.data = take(checked_mul(slots, kv_row_bytes(bits, head_dim), kWhat));
    if (!r.coded()) return r;
    r.norms = static_cast<uint16_t*>(take(checked_mul(slots, 2, kWhat)));
    r.codec = codec;
    return r;
  }

 private:
  std::byte* base_;
  uint64_t used_ = 0;
};

KvStore place_store(Placer& placer, int bits, const LayerSpec& l, const KvLayerPlan& plan, uint64_t context,
                    uint64_t max_chunk, const KvCodec* codec) {
  KvStore s;
  s.main = placer.ring(bits, l.kv_heads, l.head_dim, kv_capacity(l, context, max_chunk), codec);
  if (!s.main.coded()) return s;
  if (plan.tail)
    s.exact = placer.ring(16, l.kv_heads, l.head_dim, std::min(context, plan.tail + max_chunk - 1), nullptr);
  s.sinks = placer.ring(16, l.kv_heads, l.head_dim, plan.sinks, nullptr);
  return s;
}

/// Leading pairs that rotate; for heads that can be coded a power of two, the rest of it turning by zero.
uint64_t rotating_pairs(const RopeSpec& rope, uint64_t head_dim) {
  uint64_t pairs = rope.inv_freq.size();
  while (pairs > 0 && rope.inv_freq[pairs - 1] == 0) --pairs;
  return KvCodec::fits(head_dim) ? std::bit_ceil(std::max<uint64_t>(pairs, 1)) : pairs;
}

/// The layer whose rotary embedding rebuilds keys; all that do share one. spec.layers.size() when none does.
uint64_t first_rebuilt(const ModelSpec& spec, uint64_t context, const KvSettings& settings) {
  uint64_t i = 0;
  while (i < spec.layers.size() && kv_layer_plan(spec, i, context, settings).format.k_bits != 0) ++i;
  return i;
}

uint64_t rope_floats(const ModelSpec& spec, uint64_t layer, uint64_t context) {
  const LayerSpec& l = spec.layers[layer];
  return checked_mul(context, 2 * rotating_pairs(spec.ropes[l.rope], l.head_dim), kWhat);
}

}  // namespace

KvLayerPlan kv_layer_plan(const ModelSpec& spec, uint64_t layer, uint64_t context,
                          const KvSettings& settings) {
  const LayerSpec& l = spec.layers[layer];
  KvLayerPlan plan;
  plan.format = l.window ? settings.sliding : settings.full;
  if (l.kv_from >= 0) return {.format = plan.format, .stores = false};
  const uint64_t sees = l.window ? std::min(l.window, context) : context;
  if (!KvCodec::fits(l.head_dim) || settings.tail >= sees)
    for (int* bits : {&plan.format.k_bits, &plan.format.v_bits})
      if (*bits < 16) *bits = 16;
  // K = RoPE(k_norm * V) holds where V is the normed projection itself and the rotation keeps lengths.
  if (l.k_is_v && spec.v_norm && spec.qk_norm && spec.ropes[l.rope].scale == 1 &&
      settings.share != KvShare::kOff)
    plan.format.k_bits = 0;
  if ((plan.format.k_bits && plan.format.k_bits < 16) || plan.format.v_bits < 16) {
    plan.tail = settings.tail;
    plan.sinks = std::min(settings.sinks, sees);
  }
  return plan;
}

uint64_t kv_capacity(const LayerSpec& layer, uint64_t context, uint64_t max_chunk) {
  if (!layer.window) return context;
  // The last query of a chunk overwrites nothing that its first query still sees.
  return std::min(context, layer.window + max_chunk - 1);
}

KvLayout KvLayout::place(const ModelSpec& spec, uint64_t context, uint64_t max_chunk,
                         const KvSettings& settings, std::byte* base, const CodecFor& codec) {
  validate(settings);
  const auto codec_of = [&](int bits, uint64_t head_dim) -> const KvCodec* {
    return bits == 0 || bits >= 16 || !codec ? nullptr : codec(bits, head_dim);
  };
  KvLayout layout;
  Placer placer(base);
  for (uint64_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& l = spec.layers[i];
    const KvLayerPlan plan = kv_layer_plan(spec, i, context, settings);
    Layer& layer = layout.layers.emplace_back();
    layer.window = l.window;
    layer.from = plan.stores ? i : static_cast<uint64_t>(l.kv_from);
    layer.view = {.kv_heads = l.kv_heads, .head_dim = l.head_dim, .k = {}, .v = {}};
    if (!plan.stores) continue;
    const auto [k_bits, v_bits] = plan.format;
    layer.view.k = place_store(placer, k_bits, l, plan, context, max_chunk, codec_of(k_bits, l.head_dim));
    layer.view.v = place_store(placer, v_bits, l, plan, context, max_chunk, codec_of(v_bits, l.head_dim));
    layer.view.tail = plan.tail;
    layer.view.sinks = plan.sinks;
  }
  if (const uint64_t i = first_rebuilt(spec, context, settings); i < spec.layers.size()) {
    layout.inv_freq = spec.ropes[spec.layers[i].rope].inv_freq;
    layout.rope_pairs = rotating_pairs(spec.ropes[spec.layers[i].rope], spec.layers[i].head_dim);
    layout.rope =
        static_cast<float*>(placer.take(checked_mul(rope_floats(spec, i, context), sizeof(float), kWhat)));
  }
  layout.bytes = placer.used();
  return layout;
}

bool KvLayout::keeps(uint64_t highest, uint64_t length) const {
  // A ring of newest positions still holds those from highest - capacity on; the next query needs its window.
  const auto lost = [&](uint64_t capacity, uint64_t window) {
    const uint64_t first_needed = length + 1 > window ? length + 1 - window : 0;
    return highest > capacity && highest - capacity > first_needed;
  };
  for (const Layer& l : layers)
    for (const KvStore* s : {&l.view.k, &l.view.v}) {
      if (s->main.bits && l.window && lost(s->main.capacity, l.window)) return false;
      if (s->exact.bits && lost(s->exact.capacity, l.view.tail)) return false;
    }
  return true;
}

}  // namespace hlwq
