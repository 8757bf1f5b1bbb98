// Codebooks of N(0,1): Lloyd-Max, converged, and coupled ones with several lags.
#pragma once

#include <vector>

#include "quant/layout.h"

namespace hlwq {

/// Tables of a (bits, lags): values[lag * 2^bits + stored code]. lags = 1 is Lloyd-Max; coupled tables hold
/// odd multiples of half a step, so that kernels compute on exactly these values in INT8.
struct Codebook {
  int bits = 0;
  int lags = 1;
  std::vector<float> values;
  float value(uint8_t code) const { return values[code]; }
};

/// The converged Lloyd-Max codebook of the standard normal, computed in double precision by Newton/Lloyd
/// iterations to |change| < 1e-12; bits 2..8, lags 1. Throws Error(kUnsupported) for other lags.
Codebook lloyd_max_codebook(int bits);

/// The trained coupled tables of quant/coupled_tables.h. Throws Error(kUnsupported) for a (bits, lags) that
/// has none.
Codebook coupled_codebook(int bits, int lags);
/// What a checkpoint of that format is written with: Lloyd-Max for lags 1, else the coupled tables.
Codebook standard_codebook(int bits, int lags);
bool has_standard_codebook(int bits, int lags);

/// c[t] = sum over lags l of T_l[q[(t - l) mod block]]: what a block's stored codes stand for.
void codebook_values(const Codebook& codebook, const uint8_t* q, int block, float* c);

/// Expected squared error of a codebook on N(0,1) with nearest-centroid coding (exact, by erf).
double gaussian_mse(const Codebook& codebook);

/// The published, unconverged tables (100 Lloyd iterations): outer boundary at +-4 ("A") or +-infinity ("B").
enum class PublishedVariant { kFinite4, kInfinite };
Codebook published_codebook(int bits, PublishedVariant variant);

}  // namespace hlwq
