#include "model/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "base/checked.h"
#include "base/half.h"
#include "ops/elementwise.h"

namespace hlwq {
namespace {

constexpr uint64_t kAlignment = 64;  // of each ring
const std::string kWhat = "key/value cache";

uint64_t row_bytes(int bits, uint64_t head_dim) { return head_dim * static_cast<uint64_t>(bits) / 8; }

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
    r.data = take(checked_mul(slots, row_bytes(bits, head_dim), kWhat));
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
  s.main = placer.ring(bits, l.kv_heads, l.head_dim, KvCache::capacity(l, context, max_chunk), codec);
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
  while (i < spec.layers.size() && KvCache::layer_plan(spec, i, context, settings).format.k_bits != 0) ++i;
  return i;
}

uint64_t rope_floats(const ModelSpec& spec, uint64_t layer, uint64_t context) {
  const LayerSpec& l = spec.layers[layer];
  return checked_mul(context, 2 * rotating_pairs(spec.ropes[l.rope], l.head_dim), kWhat);
}

template <typename Fn>
void for_rings(KvView& view, Fn&& fn) {
  for (KvStore* s : {&view.k, &view.v})
    for (KvRing* r : {&s->main, &s->exact, &s->sinks})
      if (r->bits) fn(*r);
}

}  // namespace

KvLayerPlan KvCache::layer_plan(const ModelSpec& spec, uint64_t layer, uint64_t context,
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

uint64_t KvCache::capacity(const LayerSpec& layer, uint64_t context, uint64_t max_chunk) {
  if (!layer.window) return context;
  // The last query of a chunk overwrites nothing that its first query still sees.
  return std::min(context, layer.window + max_chunk - 1);
}

uint64_t KvCache::bytes(const ModelSpec& spec, uint64_t context, uint64_t max_chunk,
                        const KvSettings& settings) {
  validate(settings);
  Placer placer(nullptr);
  for (uint64_t i = 0; i < spec.layers.size(); ++i) {
    const KvLayerPlan plan = layer_plan(spec, i, context, settings);
    if (!plan.stores) continue;
    for (int bits : {plan.format.k_bits, plan.format.v_bits})
      place_store(placer, bits, spec.layers[i], plan, context, max_chunk, nullptr);
  }
  if (const uint64_t i = first_rebuilt(spec, context, settings); i < spec.layers.size())
    placer.take(checked_mul(rope_floats(spec, i, context), sizeof(float), kWhat));
  return placer.used();
}

void KvCache::Unmap::operator()(std::byte* p) const { ::munmap(p, size); }

KvCache::Memory KvCache::allocate(uint64_t bytes, uint64_t context) {
  // Anonymous pages: nothing is resident before it is used, so a large context costs what it holds.
  const uint64_t size = std::max<uint64_t>(bytes, 1);
  void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    throw Error(ErrorCode::kOutOfMemory, "no memory for a key/value cache of " + std::to_string(bytes) +
                                             " bytes (context " + std::to_string(context) +
                                             "); ask for a shorter context or fewer bits");
  return Memory(static_cast<std::byte*>(p), Unmap{size});
}

KvCache::KvCache(const ModelSpec& spec, uint64_t context, uint64_t max_chunk, const KvSettings& settings)
    : context_(context),
      max_chunk_(max_chunk),
      bytes_(bytes(spec, context, max_chunk, settings)),
      memory_(allocate(bytes_, context)) {
  const auto codec = [&](int bits, uint64_t head_dim) -> const KvCodec* {
    if (bits == 0 || bits >= 16) return nullptr;
    auto& known = codecs_[{bits, head_dim}];
    if (!known) known = std::make_shared<const KvCodec>(bits, head_dim);
    return known.get();
  };
  Placer placer(memory_.get());
  for (uint64_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& l = spec.layers[i];
    const KvLayerPlan plan = layer_plan(spec, i, context, settings);
    Layer& layer = layers_.emplace_back();
    layer.window = l.window;
    layer.from = plan.stores ? i : static_cast<uint64_t>(l.kv_from);
    layer.view = {.kv_heads = l.kv_heads, .head_dim = l.head_dim, .k = {}, .v = {}};
    if (!plan.stores) continue;
    const auto [k_bits, v_bits] = plan.format;
    layer.view.k = place_store(placer, k_bits, l, plan, context, max_chunk, codec(k_bits, l.head_dim));
    layer.view.v = place_store(placer, v_bits, l, plan, context, max_chunk, codec(v_bits, l.head_dim));
    layer.view.tail = plan.tail;
    layer.view.sinks = plan.sinks;
  }
  if (const uint64_t i = first_rebuilt(spec, context, settings); i < spec.layers.size()) {
    inv_freq_ = spec.ropes[spec.layers[i].rope].inv_freq;
    rope_pairs_ = rotating_pairs(spec.ropes[spec.layers[i].rope], spec.layers[i].head_dim);
    rope_ = static_cast<float*>(placer.take(rope_floats(spec, i, context) * sizeof(float)));
  }
}

KvCache::KvCache(const KvCache& other)
    : context_(other.context_),
      max_chunk_(other.max_chunk_),
      bytes_(other.bytes_),
      length_(other.length_),
      highest_(other.highest_),
      memory_(allocate(bytes_, context_)),
      layers_(other.layers_),
      codecs_(other.codecs_),
      inv_freq_(other.inv_freq_),
      rope_pairs_(other.rope_pairs_),
      rope_filled_(other.rope_filled_) {
  const auto moved = [&](const void* p) {
    return memory_.get() + (static_cast<const std::byte*>(p) - other.memory_.get());
  };
  const auto copy = [&](auto*& p, uint64_t heads, uint64_t stride, uint64_t used) {
    const auto* from = reinterpret_cast<const std::byte*>(p);
    std::byte* to = moved(p);
    for (uint64_t h = 0; h < heads; ++h) std::copy_n(from + h * stride, used, to + h * stride);
    p = reinterpret_cast<std::remove_reference_t<decltype(p)>>(to);
  };
  for (Layer& l : layers_)
    for_rings(l.view, [&](KvRing& r) {
      const uint64_t slots = std::min(r.capacity, highest_), row = row_bytes(r.bits, l.view.head_dim);
      copy(r.data, l.view.kv_heads, r.capacity * row, slots * row);
      if (r.norms) copy(r.norms, l.view.kv_heads, r.capacity * 2, slots * 2);
    });
  if (other.rope_) {
    rope_ = reinterpret_cast<float*>(moved(other.rope_));
    std::copy_n(other.rope_, rope_filled_ * 2 * rope_pairs_, rope_);
  }
}

void KvCache::extend_rope(uint64_t positions) {
  for (; rope_filled_ < positions; ++rope_filled_) {
    float* cosines = rope_ + rope_filled_ * 2 * rope_pairs_;
    for (uint64_t i = 0; i < rope_pairs_; ++i)
      rope_angle(rope_filled_, inv_freq_[i], 1, cosines[i], cosines[rope_pairs_ + i]);
  }
}

void KvCache::store(const Compute& compute, uint64_t layer, uint64_t tokens, const float* k, const float* v) {
  const KvView& view = layers_[layer].view;
  const uint64_t d = view.head_dim, heads = view.kv_heads;
  const auto to_bf16 = compute.kernels->vector.float_to_bf16;
  const auto row = [&](const KvRing& r, uint64_t head, uint64_t position) {
    const uint64_t slot = head * r.capacity + position % r.capacity;
    return static_cast<std::byte*>(r.data) + slot * row_bytes(r.bits, d);
  };
  const auto put = [&](const KvStore& s, uint64_t head, uint64_t position, const float* x) {
    if (s.main.bits == 32) {
      std::copy_n(x, d, reinterpret_cast<float*>(row(s.main, head, position)));
    } else if (s.main.bits == 16) {
      to_bf16(x, reinterpret_cast<uint16_t*>(row(s.main, head, position)), d);
    } else if (s.main.coded()) {
      std::array<float, 512> rotated;
      s.main.codec->encode(x, rotated.data(), reinterpret_cast<uint8_t*>(row(s.main, head, position)),
                           s.main.norms + head * s.main.capacity + position % s.main.capacity);
      if (s.exact.bits) to_bf16(rotated.data(), reinterpret_cast<uint16_t*>(row(s.exact, head, position)), d);
      if (position < s.sinks.capacity)
        to_bf16(rotated.data(), reinterpret_cast<uint16_t*>(row(s.sinks, head, position)), d);
    }
  };
  const uint64_t grain = std::max<uint64_t>(1, 4096 / d);
  compute.pool->parallel_for(tokens * heads, grain, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) {
      const uint64_t position = length_ + i / heads, head = i % heads;
      put(view.k, head, position, k ? k + i * d : nullptr);
      put(view.v, head, position, v + i * d);
    }
  });
  if (keys_rebuilt(layer)) extend_rope(length_ + tokens);
  highest_ = std::max(highest_, length_ + tokens);
}

KvView KvCache::view(uint64_t layer, const float* k_norm) const {
  KvView view = layers_[layers_[layer].from].view;
  view.k_weight = k_norm;
  view.k_pairs = rope_pairs_;
  view.k_rope = rope_;
  return view;
}

bool KvCache::truncate(uint64_t length) {
  if (length > length_) return false;
  if (length == 0) {
    length_ = highest_ = 0;
    return true;
  }
  // A ring of newest positions still holds those from highest_ - capacity on; the next query needs its
  // window.
  const auto lost = [&](uint64_t capacity, uint64_t window) {
    const uint64_t first_needed = length + 1 > window ? length + 1 - window : 0;
    return highest_ > capacity && highest_ - capacity > first_needed;
  };
  for (Layer& l : layers_) {
    bool gone = false;
    for (const KvStore* s : {&l.view.k, &l.view.v}) {
      if (s->main.bits && l.window) gone |= lost(s->main.capacity, l.window);
      if (s->exact.bits) gone |= lost(s->exact.capacity, l.view.tail);
    }
    if (gone) return false;
  }
  length_ = length;
  return true;
}

}  // namespace hlwq
