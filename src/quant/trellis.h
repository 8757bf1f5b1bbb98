// The search for the best codes of a coupled codebook (lags 2 and 3): Viterbi over the last lags - 1 codes.
#pragma once

#include <cstdint>

#include "quant/codebook.h"

namespace hlwq {

/// Codes q [block] that make sum_t (u_t - c_t)^2 least, c = codebook_values(codebook, q). Exact for the
/// state at the middle of the block that a first search, free at both ends, decides; the ring then starts
/// and ends there. The scalar reference of every other implementation.
void trellis_reference(const Codebook& codebook, const float* u, int block, uint8_t* q);

}  // namespace hlwq
