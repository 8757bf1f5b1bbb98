#include "model/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <string>

#include "base/half.h"
#include "ops/elementwise.h"

namespace hlwq {

uint64_t KvCache::bytes(const ModelSpec& spec, uint64_t context, uint64_t max_chunk,
                        const KvSettings& settings) {
  return KvLayout::place(spec, context, max_chunk, settings, nullptr).bytes;
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
  layout_ =
      KvLayout::place(spec, context, max_chunk, settings, memory_.get(), [&](int bits, uint64_t head_dim) {
        auto& known = codecs_[{bits, head_dim}];
        if (!known) known = std::make_shared<const KvCodec>(bits, head_dim);
        return known.get();
      });
}

KvCache::KvCache(const KvCache& other)
    : context_(other.context_),
      max_chunk_(other.max_chunk_),
      bytes_(other.bytes_),
      length_(other.length_),
      highest_(other.highest_),
      memory_(allocate(bytes_, context_)),
      layout_(other.layout_),
      codecs_(other.codecs_),
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
  for (KvLayout::Layer& l : layout_.layers)
    for_rings(l.view, [&](KvRing& r) {
      const uint64_t slots = std::min(r.capacity, highest_), row = kv_row_bytes(r.bits, l.view.head_dim);
      copy(r.data, l.view.kv_heads, r.capacity * row, slots * row);
      if (r.norms) copy(r.norms, l.view.kv_heads, r.capacity * 2, slots * 2);
    });
  if (const float* from = other.layout_.rope) {
    layout_.rope = reinterpret_cast<float*>(moved(from));
    std::copy_n(from, rope_filled_ * 2 * layout_.rope_pairs, layout_.rope);
  }
}

void KvCache::extend_rope(uint64_t positions) {
  for (; rope_filled_ < positions; ++rope_filled_) {
    const uint64_t pairs = layout_.rope_pairs;
    float* cosines = layout_.rope + rope_filled_ * 2 * pairs;
    for (uint64_t i = 0; i < pairs; ++i)
      rope_angle(rope_filled_, layout_.inv_freq[i], 1, cosines[i], cosines[pairs + i]);
  }
}

void KvCache::store(const Compute& compute, uint64_t layer, uint64_t tokens, const float* k, const float* v) {
  const KvView& view = layout_.layers[layer].view;
  const uint64_t d = view.head_dim, heads = view.kv_heads;
  const auto to_bf16 = compute.kernels->vector.float_to_bf16;
  const auto row = [&](const KvRing& r, uint64_t head, uint64_t position) {
    const uint64_t slot = head * r.capacity + position % r.capacity;
    return static_cast<std::byte*>(r.data) + slot * kv_row_bytes(r.bits, d);
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
  KvView view = layout_.layers[layout_.layers[layer].from].view;
  view.k_weight = k_norm;
  view.k_pairs = layout_.rope_pairs;
  view.k_rope = layout_.rope;
  return view;
}

bool KvCache::truncate(uint64_t length) {
  if (length > length_) return false;
  if (length == 0) {
    length_ = highest_ = 0;
    return true;
  }
  if (!layout_.keeps(highest_, length)) return false;
  length_ = length;
  return true;
}

}  // namespace hlwq
