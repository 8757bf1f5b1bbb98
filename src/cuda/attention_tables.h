// Codebooks as the FP16 tables that attention's tensor core kernels look codes up in.
#pragma once

#include "base/half.h"
#include "cuda/attention.h"
#include "cuda/attention_mma.cuh"

namespace hlwq::cuda {

/// Zeros for bits without such a table.
inline CodeTable code_table(const KvTables& tables, int bits) {
  CodeTable t{};
  const float* levels = bits == 2 ? tables.level2 : bits == 3 ? tables.level3 : tables.level4;
  const int n = bits == 4 ? 8 : bits == 2 || bits == 3 ? 4 : 0;
  for (int i = 0; i < n; ++i) {
    const uint32_t h = float_to_fp16(levels[i]);
    t.high[i / 4] |= (h >> 8) << (8 * (i % 4));
    t.low[i / 4] |= (h & 255) << (8 * (i % 4));
  }
  return t;
}

}  // namespace hlwq::cuda
