// Bits where they count: a format for each tensor, so that the predicted damage is least within a byte
// budget.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "quant/layout.h"

namespace hlwq {

/// One tensor to find a format for.
struct AllocationItem {
  std::string name;
  uint64_t rows = 0, cols = 0;
  int block = 128;
  double sensitivity = 0;  ///< KL divergence per relative squared error of this tensor
};

/// Relative squared error that a format's codebook has on Gaussian weights: what sensitivities are multiplied
/// with.
double expected_mse(const HlwqFormat& format);
/// Codes and norms of an item in a format.
uint64_t item_bytes(const AllocationItem& item, const HlwqFormat& format);
/// The formats to choose from, ascending in bits: 2 to 8 bits, each with `lags` where the width has such
/// tables.
std::vector<HlwqFormat> allocation_formats(int lags);

/// Bytes of all items in the smallest and in the largest format.
struct AllocationRange {
  uint64_t least = 0, most = 0;
};
AllocationRange allocation_range(const std::vector<AllocationItem>& items, int lags);

struct Allocation {
  std::vector<HlwqFormat> formats;  ///< one an item
  uint64_t bytes = 0;
  double predicted_kl = 0;  ///< sum of sensitivity times expected_mse
};

/// For every format of the largest item, steps along each other item's convex hull in order of damage saved
/// per byte, as long as they fit; the best of these. Throws Error(kInvalidArgument) with the smallest and
/// largest size when `budget` is below the smallest.
Allocation allocate(const std::vector<AllocationItem>& items, int lags, uint64_t budget);

/// The choice as a policy file (policy.h), one rule a tensor; `about` says how it came about.
std::string policy_json(const std::vector<AllocationItem>& items, const Allocation& allocation,
                        const OrderedJson& about);

}  // namespace hlwq
