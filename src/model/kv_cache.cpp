#include "model/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <string>

#include "base/checked.h"

namespace hlwq {
namespace {

uint64_t element_bytes(KvType type) { return type == KvType::kF32 ? 4 : 2; }

uint64_t layer_bytes(const LayerSpec& l, uint64_t slots, KvType type) {
  const std::string what = "key/value cache";
  return checked_mul(checked_mul(l.kv_heads * l.head_dim, slots, what), 2 * element_bytes(type), what);
}

}  // namespace

uint64_t KvCache::capacity(const LayerSpec& layer, uint64_t context, uint64_t max_chunk) {
  if (!layer.window) return context;
  // The last query of a chunk overwrites nothing that its first query still sees.
  return std::min(context, layer.window + max_chunk - 1);
}

uint64_t KvCache::bytes(const ModelSpec& spec, uint64_t context, uint64_t max_chunk,
                        const KvSettings& settings) {
  const KvType type = settings.full.k_bits == 32 ? KvType::kF32 : KvType::kBF16;
  uint64_t total = 0;
  for (const LayerSpec& l : spec.layers)
    if (l.kv_from < 0)
      total = checked_add(total, layer_bytes(l, capacity(l, context, max_chunk), type), "key/value cache");
  return total;
}

void KvCache::Unmap::operator()(std::byte* p) const { ::munmap(p, size); }

KvCache::KvCache(const ModelSpec& spec, uint64_t context, uint64_t max_chunk, const KvSettings& settings)
    : type_(settings.full.k_bits == 32 ? KvType::kF32 : KvType::kBF16),
      context_(context),
      max_chunk_(max_chunk),
      bytes_(bytes(spec, context, max_chunk, settings)) {
  // Anonymous pages: nothing is resident before it is used, so a large context costs what it holds.
  void* p =
      ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    throw Error(ErrorCode::kOutOfMemory, "no memory for a key/value cache of " + std::to_string(bytes_) +
                                             " bytes (context " + std::to_string(context) +
                                             "); ask for a shorter context");
  memory_ = std::unique_ptr<std::byte, Unmap>(static_cast<std::byte*>(p), Unmap{bytes_});
  std::byte* next = memory_.get();
  for (const LayerSpec& l : spec.layers) {
    if (l.kv_from >= 0) {  // an earlier layer's are used
      layers_.push_back({});
      continue;
    }
    const uint64_t slots = capacity(l, context, max_chunk), half = layer_bytes(l, slots, type_) / 2;
    layers_.push_back({l.kv_heads, l.head_dim, slots, l.window, next, next + half});
    next += 2 * half;
  }
}

void KvCache::store(const Compute& compute, uint64_t layer, uint64_t tokens, const float* k, const float* v) {
  const Layer& l = layers_[layer];
  const uint64_t d = l.head_dim;
  for (uint64_t t = 0; t < tokens; ++t)
    for (uint64_t h = 0; h < l.kv_heads; ++h) {
      const uint64_t from = (t * l.kv_heads + h) * d, to = (h * l.capacity + (length_ + t) % l.capacity) * d;
      if (type_ == KvType::kF32) {
        std::copy_n(k + from, d, reinterpret_cast<float*>(l.k) + to);
        std::copy_n(v + from, d, reinterpret_cast<float*>(l.v) + to);
      } else {
        compute.kernels->vector.float_to_bf16(k + from, reinterpret_cast<uint16_t*>(l.k) + to, d);
        compute.kernels->vector.float_to_bf16(v + from, reinterpret_cast<uint16_t*>(l.v) + to, d);
      }
    }
  highest_ = std::max(highest_, length_ + tokens);
}

KvView KvCache::view(uint64_t layer) const {
  const Layer& l = layers_[layer];
  return {type_, l.kv_heads, l.head_dim, l.capacity, l.k, l.v};
}

bool KvCache::truncate(uint64_t length) {
  if (length > length_) return false;
  if (length == 0) {
    length_ = highest_ = 0;
    return true;
  }
  for (const Layer& l : layers_) {
    if (!l.window) continue;
    const uint64_t first_needed = length + 1 > l.window ? length + 1 - l.window : 0;
    if (highest_ > l.capacity && highest_ - l.capacity > first_needed) return false;
  }
  length_ = length;
  return true;
}

}  // namespace hlwq
