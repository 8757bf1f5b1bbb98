// What attention reads: one layer's keys and values, plain or coded, whole or rebuilt from each other.
#pragma once

#include <cstdint>

#include "ops/kv_codec.h"

namespace hlwq {

/// Rings of head vectors, one a KV head: position p lies in slot p % capacity.
struct KvRing {
  int bits = 0;               ///< 32: F32, 16: BF16, 2..4 (keys: 8 too): codes; 0: nothing is stored here
  uint64_t capacity = 0;      ///< slots
  void* data = nullptr;       ///< [kv_heads, capacity, head_dim] values, or codes of row_bytes() each
  uint16_t* norms = nullptr;  ///< with codes: FP16 [kv_heads, capacity]
  const KvCodec* codec = nullptr;  ///< with codes
  constexpr bool coded() const { return bits != 0 && bits < 16; }
};

/// Keys or values of a layer. Where `main` is coded, everything here lies in the rotated domain.
struct KvStore {
  KvRing main;
  KvRing exact;  ///< BF16 of the newest vectors, where main is coded and a tail is kept exact
  KvRing sinks;  ///< BF16 of the first vectors, likewise
};

/// Keys and values are head-major. Keys that are not stored (k.main.bits == 0) are rebuilt from the values:
/// K = RoPE(k_weight * V), the rotary embedding turning pairs (i, i + head_dim / 2) for i < k_pairs.
struct KvView {
  uint64_t kv_heads = 0, head_dim = 0;
  KvStore k, v;
  uint64_t tail = 0;   ///< each query sees this many newest keys, its own included, as `exact` has them
  uint64_t sinks = 0;  ///< positions below are read from the sinks
  const float* k_weight = nullptr;  ///< [head_dim]
  uint64_t k_pairs = 0;             ///< a power of two
  const float* k_rope = nullptr;    ///< [positions, 2, k_pairs]: cosines, then sines
};

}  // namespace hlwq
