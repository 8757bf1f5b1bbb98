// What linear() hands to its kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/matrix.h"

namespace hlwq::cuda {

class Cublas;

/// One matrix of a launch.
struct LinearPart {
  const uint8_t* codes;
  const uint16_t* norms;
  float* y;
  uint64_t y_stride;
  uint32_t rows, first_group;  ///< groups of rows before this part
};

/// Up to four matrices of one format over one input; a kernel parameter.
struct LinearCall {
  static constexpr int kMaxParts = 4;
  LinearPart parts[kMaxParts];
  int n_parts = 0;
  int granule = 0;         ///< codes that are packed together: min(block, 128)
  uint32_t granules = 0;   ///< in a row
  int granules_shift = 0;  ///< log2 of granules in a block
  uint32_t granule_bytes = 0;
  const int8_t* q[3] = {};
  const float2* scale_sum = nullptr;
  PrmtTables tables;

  /// Numbers the groups of `rows_each` rows; returns how many there are.
  uint32_t set_groups(uint32_t rows_each) {
    uint32_t groups = 0;
    for (int i = 0; i < n_parts; ++i) {
      parts[i].first_group = groups;
      groups += (parts[i].rows + rows_each - 1) / rows_each;
    }
    return groups;
  }
#ifdef __CUDACC__
  /// The part that a group belongs to; groups beyond the end belong to the last and see no row of it twice.
  __device__ const LinearPart& part_of(uint32_t group) const {
    int i = 0;
    while (i + 1 < n_parts && group >= parts[i + 1].first_group) ++i;
    return parts[i];
  }
#endif
};

/// Tokens that want different matrices of one stack (experts), grouped by matrix; all in device memory, made
/// by the GPU itself.
struct LinearGroups {
  /// A few tokens of one matrix: outputs first .. first + count.
  struct Tile {
    uint32_t matrix, first, count;
  };
  const Tile* tiles = nullptr;
  const uint32_t* n_tiles = nullptr;
  /// Output i reads input inputs[i] / inputs_each, or, where this is null, input i.
  const uint32_t* inputs = nullptr;
  uint32_t inputs_each = 1;
};

/// Calls run.operator()<bits, lags>() for the formats that PRMT kernels know: 2..6 bits with 1 to 3 lags.
/// False for others.
template <typename Run>
bool dispatch_format(int bits, int lags, Run&& run) {
  const auto with_lags = [&]<int kBits>() {
    if (lags == 1) run.template operator()<kBits, 1>();
    if (lags == 2) run.template operator()<kBits, 2>();
    if constexpr (kBits <= 4)
      if (lags == 3) run.template operator()<kBits, 3>();
    return lags <= 2 || (lags == 3 && kBits <= 4);
  };
  switch (bits) {
    case 2:
      return with_lags.template operator()<2>();
    case 3:
      return with_lags.template operator()<3>();
    case 4:
      return with_lags.template operator()<4>();
    case 5:
      return with_lags.template operator()<5>();
    case 6:
      return with_lags.template operator()<6>();
    default:
      return false;
  }
}

void launch_vector(LinearCall& call, int bits, int lags, uint64_t tokens, int multiprocessors,
                   cudaStream_t stream);
/// One token, two lags, 4 to 6 bits in granules of 128, on GPUs with much shared memory; false for all else.
bool launch_pairs(LinearCall& call, int bits, int lags, int multiprocessors, int shared_memory,
                  cudaStream_t stream);
void launch_table(LinearCall& call, const LookupTables& tables, uint64_t tokens, cudaStream_t stream);
void launch_batch(LinearCall& call, int bits, int lags, uint64_t tokens, cudaStream_t stream);
/// Parts are stacks of matrices of `rows` rows each. `max_tiles`: at least *groups.n_tiles; tile_tokens: 8 or
/// 32, at least every tile's count. Formats of dispatch_format only.
void launch_grouped(LinearCall& call, int bits, int lags, const LinearGroups& groups, uint64_t max_tiles,
                    uint64_t tile_tokens, cudaStream_t stream);
/// False, and nothing is done, when the format, the device (its shared memory a block) or the scratch does
/// not allow it.
bool launch_matrix(LinearCall& call, const HlwqFormat& format, const LookupTables& tables, uint64_t tokens,
                   void* scratch, uint64_t scratch_bytes, int shared_memory, cudaStream_t stream);
/// Likewise through BF16 and cuBLAS.
bool launch_bf16(LinearCall& call, const HlwqFormat& format, uint64_t tokens, Cublas& cublas, void* scratch,
                 uint64_t scratch_bytes, cudaStream_t stream);
uint64_t bf16_scratch_bytes(uint64_t tokens, uint64_t rows, uint64_t cols);
uint64_t matrix_scratch_bytes(uint64_t tokens, uint64_t rows, uint64_t cols);

}  // namespace hlwq::cuda
