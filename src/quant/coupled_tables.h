// Trained tables of coupled codebooks (quant/layout.h: lags). coupled_tables.cpp is written by
// tools/train_codebooks.
#pragma once

#include <cstdint>
#include <span>

namespace hlwq {

struct CoupledTable {
  int bits, lags;
  float step;
  /// n of the codes with a clear sign bit, [lags, 2^(bits-1)]: value = step * (n + 0.5), the other sign's
  /// its negative. Lag 0 has n >= 0, not descending. |value| of any sum of lags is at most 127 steps where
  /// bits <= 5, so that a block's values fit INT8.
  std::span<const int8_t> entries;
  double mse;  ///< measured on Gaussian blocks of 128, by one search at scale 1 (quant/trellis.h)
};

/// Null when there is none.
const CoupledTable* coupled_table(int bits, int lags);

}  // namespace hlwq
