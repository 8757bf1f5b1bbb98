// Which context fits on which graphics card.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "engine/weight_sizes.h"
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

/// How finely weights may be quantised so that a plan fits: what --bpw and --size of `hlwq quantize` take.
struct FittingRate {
  double bits_per_weight = 0;  ///< over the weights in codes, norms included; 0: not even the kept ones fit
  uint64_t checkpoint = 0;     ///< bytes of all tensor data at that rate
};

/// The most that leaves plan_memory().total at most `memory` bytes. `sizes` is of any policy: what it
/// quantizes may take any width, the rest stays. `extra` is other memory, as the work on an image.
FittingRate largest_rate(const ModelSpec& spec, const WeightSizes& sizes, uint64_t extra, uint64_t context,
                         uint64_t chunk, const KvSettings& kv, uint64_t memory);

}  // namespace hlwq
