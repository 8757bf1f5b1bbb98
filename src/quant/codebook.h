// Lloyd-Max codebooks of N(0,1), converged.
#pragma once

#include <vector>

#include "quant/layout.h"

namespace hlwq {

/// Tables of a (bits, lags): values[lag * 2^bits + stored code]. lags = 1 is Lloyd-Max.
struct Codebook {
  int bits = 0;
  int lags = 1;
  std::vector<float> values;
  float value(uint8_t code) const { return values[code]; }
};

/// The converged Lloyd-Max codebook of the standard normal, computed in double precision by Newton/Lloyd
/// iterations to |change| < 1e-12; bits 2..8, lags 1. Throws Error(kUnsupported) for other lags.
Codebook lloyd_max_codebook(int bits);

/// Expected squared error of a codebook on N(0,1) with nearest-centroid coding (exact, by erf).
double gaussian_mse(const Codebook& codebook);

/// The published, unconverged tables (100 Lloyd iterations): outer boundary at +-4 ("A") or +-infinity ("B").
enum class PublishedVariant { kFinite4, kInfinite };
Codebook published_codebook(int bits, PublishedVariant variant);

}  // namespace hlwq
