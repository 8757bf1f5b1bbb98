#include "engine/fit.h"

#include <array>

#include "engine/plan.h"

namespace hlwq {
namespace {

constexpr uint64_t mib(uint64_t n) { return n << 20; }

constexpr std::array kCards = {
    GpuCard{"8 GB", "RTX 4060", mib(8188)},      GpuCard{"10 GB", "RTX 3080", mib(10240)},
    GpuCard{"11 GB", "RTX 2080 Ti", mib(11264)}, GpuCard{"12 GB", "RTX 4070", mib(12282)},
    GpuCard{"16 GB", "RTX 4080", mib(16376)},    GpuCard{"20 GB", "RTX 4000 Ada", mib(20475)},
    GpuCard{"24 GB", "RTX 4090", mib(24564)},    GpuCard{"32 GB", "RTX 5090", mib(32607)},
    GpuCard{"40 GB", "A100 40 GB", mib(40960)},  GpuCard{"48 GB", "RTX 6000 Ada", mib(49140)},
    GpuCard{"80 GB", "H100 80 GB", mib(81559)},  GpuCard{"96 GB", "RTX PRO 6000", mib(97887)},
};

}  // namespace

std::span<const GpuCard> gpu_cards() { return kCards; }

uint64_t largest_context(const ModelSpec& spec, uint64_t weight_bytes, uint64_t vision_bytes, uint64_t chunk,
                         const KvSettings& kv, uint64_t memory) {
  const auto fits = [&](uint64_t context) {
    return plan_memory(spec, weight_bytes, vision_bytes, context, chunk, kv).total <= memory;
  };
  if (fits(spec.max_context)) return spec.max_context;
  uint64_t low = 0, high = spec.max_context;  // low fits or is 0, high does not
  while (high - low > 1) {
    const uint64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

FittingRate largest_rate(const ModelSpec& spec, const WeightSizes& sizes, uint64_t extra, uint64_t context,
                         uint64_t chunk, const KvSettings& kv, uint64_t memory) {
  const uint64_t kept = sizes.text - sizes.coded;
  const uint64_t other = plan_memory(spec, kept, sizes.vision + extra, context, chunk, kv).total;
  if (other > memory || sizes.coded_params == 0) return {};
  const uint64_t coded = memory - other;
  return {8.0 * static_cast<double>(coded) / static_cast<double>(sizes.coded_params),
          sizes.checkpoint() - sizes.coded + coded};
}

}  // namespace hlwq
