// How a key/value cache stores what it keeps: bits for keys and values, per kind of layer, and what stays
// exact.
#pragma once

#include <cstdint>
#include <string>

namespace hlwq {

/// Bits of one kind of layer: 2, 3, 4 (HLWQ codes of each rotated head vector, one FP16 norm; keys also 8),
/// 16 (BF16) or 32 (F32).
struct KvFormat {
  int k_bits = 16;
  int v_bits = 16;
  friend bool operator==(const KvFormat&, const KvFormat&) = default;
};

/// Whether layers whose V is K's projection (attention_k_eq_v) store V alone and rebuild
/// K = RoPE(k_norm_weight * V) inside attention.
enum class KvShare { kAuto, kOn, kOff };

struct KvSettings {
  KvFormat sliding, full;
  uint64_t tail = 0;   ///< every query sees this many newest keys (its own included) in BF16 beside codes
  uint64_t sinks = 0;  ///< and the first ones, positions 0 .. sinks - 1
  KvShare share = KvShare::kAuto;

  /// What `--kv-bits N` means: 32 and 16 store everything plainly; 4, 3 and 2 are chosen in
  /// docs/kv-cache.md. Throws Error(kInvalidArgument) for other numbers.
  static KvSettings preset(int bits);
  static KvSettings f32() { return preset(32); }
  static KvSettings bf16() { return preset(16); }
  /// All layers and both parts at `bits`, nothing exact.
  static KvSettings uniform(int bits);
};

/// Throws Error(kInvalidArgument) naming the setting that is out of range.
void validate(const KvSettings& settings);

/// "BF16", "sliding BF16, full K8V4, exact 4 + 1024" (first and newest tokens)...
std::string describe(const KvSettings& settings);

}  // namespace hlwq
