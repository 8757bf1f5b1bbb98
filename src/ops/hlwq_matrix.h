// A quantised matrix as the kernels see it: pointers into the mapped checkpoint, and integer lookup tables.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/codebook.h"
#include "quant/layout.h"

namespace hlwq {

/// Integer form of a codebook: value(q) ~ step * (hi[q] + lo[q] / 128 + offset).
/// bits <= 5: lo is absent and step/offset are chosen for least error (0.9 % of the MSE at Q5, less below);
/// bits >= 6: lo carries 7 more bits, since INT8 alone would cost 7 % at Q6 and more above.
struct LookupTables {
  int bits = 0, lags = 1;
  bool has_lo = false;
  float step = 0, offset = 0;              // offset is 0 or 0.5
  alignas(64) int8_t hi[3][256] = {};      // [lag][stored code], |hi| <= 127
  alignas(64) int8_t lo[3][256] = {};      // [lag][stored code]
};
LookupTables make_lookup_tables(const Codebook& codebook);

struct HlwqMatrix {
  HlwqFormat format;
  uint64_t rows = 0, cols = 0;
  const uint8_t* codes = nullptr;        // [rows, format.row_bytes(cols)]
  const uint16_t* norms = nullptr;       // FP16 [rows, format.row_blocks(cols)]
  const LookupTables* tables = nullptr;  // shared by all matrices of the same codebook
  const Codebook* codebook = nullptr;    // for decoding single rows (embeddings)
};

/// Rotated INT8 activations of one layer input, made once and shared by every matrix that reads it.
/// For token t and block b: H x ~ scale[t, b] * q[t, b, :], scale = absmax / 127.
struct QuantizedActivations {
  uint64_t tokens = 0, cols = 0, blocks = 0;
  int block = 0;
  std::vector<int8_t> q;      // [tokens, blocks * block], zero-padded
  std::vector<float> scale;   // [tokens, blocks], already divided by sqrt(block)
  std::vector<int32_t> sum;   // [tokens, blocks], sum of q over the block
  void resize(uint64_t tokens, uint64_t cols, int block);
};

}  // namespace hlwq
