// Encoding a weight matrix into HLWQ codes and back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "quant/codebook.h"
#include "quant/layout.h"

namespace hlwq {

/// Error sums over encoded values; mse() is relative to the source's mean square.
struct CodecStats {
  double source_sq = 0, error_sq = 0, dot = 0, decoded_sq = 0;
  CodecStats& operator+=(const CodecStats& o);
  double relative_mse() const { return source_sq > 0 ? error_sq / source_sq : 0; }
  double cosine() const;
};

enum class NormRule {
  kCorrected,  ///< n * <u,c> / <c,c>: the least-squares scale for the chosen codes
  kPublished,  ///< n = ||w||, as the published implementation stores it
};

/// Throws Error(kInvalidArgument) for a format that is none, or a codebook of another one.
void check_codec(const HlwqFormat& format, const Codebook& codebook);

/// With one lag, what lies between the codebook's magnitudes: |u| has magnitude index m when m of them are
/// less. Throws Error(kInvalidArgument) for a codebook that is not finite, odd and ascending.
std::vector<double> magnitude_thresholds(const Codebook& codebook);

/// Encodes `rows` rows of `cols` floats. codes: rows * row_bytes(cols); norms: rows * row_blocks(cols) FP16
/// bits. A zero block gets zero norm and decodes to zeros. NaN or Inf throws Error(kInvalidArgument) naming
/// `name` and the element's index (first_row is added to the row). A norm over FP16's range is an error that
/// says so, one under it is zero.
CodecStats encode_rows(const HlwqFormat& format, const Codebook& codebook, NormRule rule,
                       const float* weights, uint64_t rows, uint64_t cols, const std::string& name,
                       uint64_t first_row, ThreadPool& pool, uint8_t* codes, uint16_t* norms);

/// Decodes one row to cols floats.
void decode_row(const HlwqFormat& format, const Codebook& codebook, const uint8_t* codes,
                const uint16_t* norms, uint64_t cols, float* out);

/// Largest power of two up to 128 that divides cols and is >= 32, or 0 when none does.
int natural_block(uint64_t cols);

}  // namespace hlwq
