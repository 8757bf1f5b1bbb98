// Head vectors of keys and values as HLWQ codes: one block a vector, rotated by the Hadamard matrix of its
// size.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/hlwq_matrix.h"

namespace hlwq {

/// What a cache with codes needs for one width and head size: encoding, and the tables to read with.
class KvCodec {
 public:
  /// bits 2, 3, 4 or, for keys alone, 8 (values are read by kernels that know up to 4); head_dim as `fits`
  /// allows. Throws Error(kInvalidArgument) otherwise.
  KvCodec(int bits, uint64_t head_dim);

  /// Head sizes that can be coded: powers of two from 32 to 512. Others stay BF16.
  static bool fits(uint64_t head_dim);

  int bits() const { return codebook_.bits; }
  uint64_t row_bytes() const { return format_.block_bytes(); }

  /// x [head_dim] -> rotated = H x, its codes [row_bytes()] and least-squares norm (FP16 bits). A zero vector
  /// has norm 0; one that is not finite has norm NaN, so that it stays visible.
  void encode(const float* x, float* rotated, uint8_t* codes, uint16_t* norm) const;

  /// `rows` coded vectors as a matrix that the kernels read. Pointers stay the caller's; this must outlive
  /// it.
  HlwqMatrix matrix(const uint8_t* codes, const uint16_t* norms, uint64_t rows) const;

 private:
  HlwqFormat format_;
  Codebook codebook_;
  LookupTables tables_;
  std::vector<float> thresholds_;  // between neighbouring magnitudes, ascending
};

}  // namespace hlwq
