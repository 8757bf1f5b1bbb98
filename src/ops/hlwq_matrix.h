// A quantised matrix as the kernels see it: pointers into the mapped checkpoint, and integer lookup tables.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/codebook.h"
#include "quant/layout.h"

namespace hlwq {

/// Integer form of a codebook: value(q) ~ step * (hi[q] + lo[q] / 128 + offset).
/// bits <= 5: lo is absent, offset is 0.5 and the step is chosen for least error (0.9 % of the coding error
/// at Q5, less below; without the offset it would be 1.4 %); bits >= 6: offset is 0 and lo carries 7 more
/// bits, since INT8 alone would cost 7 % at Q6 and more above. lags > 1: no lo at any width, offset 0.5, and
/// exact for tables that were trained on such a grid (quant/coupled_tables.h).
///
/// Codebooks are odd (quant/layout.h): kernels may look up magnitudes and apply the sign to either factor.
///   offset 0  : hi[q ^ sign bit] = -hi[q], the same for lo; both parts of one value have the same sign.
///   offset 0.5: hi[q ^ sign bit] = -hi[q] - 1, the bitwise complement.
/// Always |hi| <= 127 and |lo| <= 127; in lag 0, codes with a clear sign bit have hi >= 0.
struct LookupTables {
  int bits = 0, lags = 1;
  bool has_lo = false;
  float step = 0, offset = 0;
  /// lags > 1: the largest |sum of (hi + offset) over lags|; at most 127 where a block's values fit INT8.
  float largest_sum = 0;
  alignas(64) int8_t hi[3][256] = {};  // [lag][stored code]
  alignas(64) int8_t lo[3][256] = {};  // [lag][stored code]
};
/// Throws Error(kInvalidFile) when the codebook's size is wrong or its values are not finite, odd, and (lag
/// 0) of the sign that their code says.
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
  static constexpr uint64_t kQPadding = 64;
  uint64_t tokens = 0, cols = 0, blocks = 0;
  int block = 0;
  std::vector<int8_t> q;     // [tokens, blocks * block], zero-padded; kQPadding readable bytes follow
  std::vector<float> scale;  // [tokens, blocks], already divided by sqrt(block)
  std::vector<int32_t> sum;  // [tokens, blocks], sum of q over the block
  /// For coupled codebooks: q turned left inside its block, turned[l - 1][.., i] = q[.., (i + l) mod block].
  /// Empty until add_turns; padded like q.
  std::vector<int8_t> turned[2];
  /// Contents are unspecified afterwards; turned is empty.
  void resize(uint64_t tokens, uint64_t cols, int block);
  /// Makes turned[0 .. lags - 2] from q, where they are not there yet.
  void add_turns(int lags);
};

}  // namespace hlwq
