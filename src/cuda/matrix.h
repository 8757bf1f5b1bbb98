// HLWQ matrices and their activations in GPU memory. Codes and norms lie as in the file (quant/layout.h):
// what the disk holds is copied and used as it is.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/runtime.h"
#include "ops/hlwq_matrix.h"

namespace hlwq::cuda {

/// Integer tables (ops/hlwq_matrix.h) by magnitude, four values a word, as PRMT takes them; for 2 bits four
/// signed values. Passed to kernels by value.
struct PrmtTables {
  uint32_t lag[3][8];
  uint32_t low[8];  ///< 6 bits, one lag: the low parts
  float step, offset;
};
PrmtTables prmt_tables(const LookupTables& tables);

/// A quantised matrix; pointers into device memory that others own.
struct DeviceMatrix {
  HlwqFormat format;
  uint64_t rows = 0, cols = 0;
  const uint8_t* codes = nullptr;        ///< [rows, format.row_bytes(cols)], 16-byte aligned
  const uint16_t* norms = nullptr;       ///< FP16 [rows, format.row_blocks(cols)]
  const LookupTables* tables = nullptr;  ///< on the host
  const Codebook* codebook = nullptr;    ///< on the host
};

/// Rotated INT8 activations of one layer input, as ops/hlwq_matrix.h has them, but in pair order inside each
/// granule of G = min(block, 128): value 2p is coordinate p, value 2p + 1 is coordinate G/2 + p.
struct DeviceActivations {
  uint64_t tokens = 0, cols = 0, blocks = 0;
  int block = 0;
  int8_t* q[3] = {};            ///< by lag: turned left by 0, 1, 2; [tokens, blocks * block], 16-byte aligned
  float2* scale_sum = nullptr;  ///< [tokens, blocks]: scale (divided by sqrt(block) twice) and sum of q

  /// Bytes that place() needs for up to `tokens`, every lag included.
  static uint64_t bytes(uint64_t tokens, uint64_t cols, int block);
  /// Lays the arrays out in `memory` (16-byte aligned device memory of that size).
  static DeviceActivations place(void* memory, uint64_t tokens, uint64_t cols, int block);
};

}  // namespace hlwq::cuda
