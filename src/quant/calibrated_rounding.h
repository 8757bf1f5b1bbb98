// Rounding that knows its inputs: errors are pushed where the layer's inputs hardly see them.
//
// With A = E[z z^T] the second moments of a linear's rotated inputs, the output's squared error is tr(E A
// E^T) for weight errors E. Written as A = R R^T with R upper triangular it is |E R|^2, a sum over columns j
// of R_jj^2 (e_j + sum_(i<j) e_i R_ij / R_jj)^2: columns are coded in order, each aiming at its weight plus
// what the errors before it call for (the order of GPTQ and LDLQ). Codes, norms and the decoder are the usual
// ones.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "quant/codec.h"

namespace hlwq {

/// Sums of x x^T over a linear's inputs.
class InputMoments {
 public:
  explicit InputMoments(uint64_t cols) : cols_(cols), sums_(cols * cols) {}
  /// x [tokens, cols], as the layer gets it, not rotated.
  void add(const float* x, uint64_t tokens, int threads);
  /// This much of the identity, relative to the mean square of an input: for matrices that are used in other
  /// ways too, where any error counts alike.
  void blend_identity(float share);
  uint64_t cols() const { return cols_; }
  uint64_t tokens() const { return tokens_; }
  const std::vector<float>& upper() const { return sums_; }  ///< [cols, cols], the upper triangle
 private:
  uint64_t cols_, tokens_ = 0;
  std::vector<float> sums_;
};

/// What rounding in blocks of `block` needs of the moments. Padded columns included.
class RoundingPlan {
 public:
  /// `damping`: added to the diagonal, relative to its mean; raised until the factorisation succeeds. Throws
  /// Error(kInvalidArgument) for moments that are not finite.
  RoundingPlan(const InputMoments& moments, int block, float damping, ThreadPool& pool);
  int block() const { return block_; }
  uint64_t padded() const { return padded_; }
  const float* feedback() const {
    return feedback_.data();
  }                                                       ///< [padded, padded] R_ij / R_jj, 1 on the diagonal
  const float* weight() const { return weight_.data(); }  ///< [padded] R_jj^2, mean 1

 private:
  int block_;
  uint64_t padded_;
  std::vector<float> feedback_, weight_;
};

/// encode_rows (codec.h) by a plan that was made for this matrix's inputs and the format's block. The
/// statistics are those of the plain error.
CodecStats round_rows(const HlwqFormat& format, const Codebook& codebook, const RoundingPlan& plan,
                      const float* weights, uint64_t rows, uint64_t cols, const std::string& name,
                      uint64_t first_row, ThreadPool& pool, uint8_t* codes, uint16_t* norms);

}  // namespace hlwq
