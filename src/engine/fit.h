// Which context fits on which graphics card.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "model/kv_settings.h"
#include "model/spec.h"

namespace hlwq {

struct GpuCard {
  std::string_view name;     ///< "24 GB"
  std::string_view example;  ///< a card that has it: "RTX 4090"
  uint64_t bytes;            ///< the memory that the driver reports for it
};

/// The usual sizes from 8 to 96 GB, ascending.
std::span<const GpuCard> gpu_cards();

/// Of a card's memory, what plans leave alone: the driver keeps some 350 MB for itself and a context of its
/// runtime takes 250 MB more.
constexpr uint64_t kGpuReserve = 600'000'000;

/// The longest context up to the model's own whose plan_memory().total is at most `memory` bytes; 0 when
/// none is.
uint64_t largest_context(const ModelSpec& spec, uint64_t weight_bytes, uint64_t vision_bytes, uint64_t chunk,
                         const KvSettings& kv, uint64_t memory);

}  // namespace hlwq
