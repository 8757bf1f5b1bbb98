// Encoding rows of a matrix on the GPU: the codes, norms and figures of quant/codec.h, bit by bit.
//
// Everything that is integer there is integer here, and what is not has the same operations in the same order
// (the search sums in integers; rotation, norms and least squares in floats and doubles without fused
// products), so a checkpoint does not show where it was made.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "quant/codec.h"

namespace hlwq::cuda {

enum class SourceType { kBf16, kF16, kF32 };
constexpr uint64_t source_bytes(SourceType type) { return type == SourceType::kF32 ? 4 : 2; }

/// A format's tables in device memory, of the current device. Constant: streams share them.
class EncodeTables {
 public:
  /// Throws what the CPU's encoder would, and Error(kUnsupported) for three lags with more than 4 bits.
  EncodeTables(const HlwqFormat& format, const Codebook& codebook, NormRule rule);

  const HlwqFormat& format() const { return format_; }
  NormRule rule() const { return rule_; }
  /// The values, then what the search needs: thresholds with one lag, else the parts of TrellisTables.
  const float* values() const { return data_.as<float>(); }
  template <typename T>
  const T* search() const {
    return data_.as<T>() + format_.lags * format_.levels();
  }

 private:
  HlwqFormat format_;
  NormRule rule_;
  Buffer data_;
};

/// Working memory of one stream, which grows with what is encoded: about 5 bytes for each of the weights that
/// go through it at once, and up to 64 MiB where the search's costs do not fit into shared memory.
class EncodeWorkspace {
 public:
  static constexpr uint64_t kNoRow = ~uint64_t{0};

  explicit EncodeWorkspace(uint64_t weights_at_once = uint64_t{4} << 20);

  /// The first row so far that could not be encoded, because it holds NaN or infinity or has a block whose
  /// norm is over FP16's range; or kNoRow. Waits for the stream.
  uint64_t bad_row(cudaStream_t stream) const;
  /// The same in device memory, for a copy of one's own.
  const uint64_t* device_bad_row() const { return bad_row_.as<uint64_t>(); }
  void clear_bad_row(cudaStream_t stream);

 private:
  friend void encode_rows(const EncodeTables&, const struct EncodeRows&, EncodeWorkspace&, cudaStream_t);
  friend struct EncodeBatch;
  uint64_t weights_;
  Buffer bad_row_, u_, q_, squares_, stats_, history_;
};

/// Rows in device memory, and where their parts go: codes [rows, row_bytes(cols)], norms [rows,
/// row_blocks(cols)], stats [rows] or null.
struct EncodeRows {
  const void* source = nullptr;  ///< [rows, cols]
  SourceType type = SourceType::kBf16;
  uint64_t rows = 0, cols = 0;
  uint64_t first_row = 0;  ///< added to the rows that EncodeWorkspace::bad_row() tells of
  uint8_t* codes = nullptr;
  uint16_t* norms = nullptr;
  CodecStats* stats = nullptr;
};

/// Asynchronous on `stream`, but for memory that the workspace still has to get. What cannot be encoded is
/// told by the workspace; its codes and norms are zero.
void encode_rows(const EncodeTables& tables, const EncodeRows& rows, EncodeWorkspace& workspace,
                 cudaStream_t stream);

}  // namespace hlwq::cuda
