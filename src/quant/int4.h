// Symmetric 4-bit integers with one BF16 scale a group: what compressed-tensors calls W4A16,
// "pack-quantized".
#pragma once

#include <cstdint>
#include <span>

#include "quant/codec.h"

namespace hlwq {

/// Groups that we write; each takes a whole number of 32-bit words.
constexpr bool valid_int4_group(int group) { return group == 32 || group == 64 || group == 128; }

/// Rounds one row, whose length `group` divides: weight = scale * code, codes from -8 to 7.
///
/// A group's scale is the one of least squared error among: absmax / d for d from 7 (nothing is cut off) to
/// 11, and for each of these the best scale for its codes, everything rounded to BF16 first. It is never
/// worse than absmax / 7. Scales are positive; a group of zeros gets 1. A group whose largest magnitude is
/// below 2^-100 becomes zeros.
///
/// packed: row.size() / 8 words, each with eight codes + 8, the first in its lowest bits. scales: BF16 bits,
/// one a group. Values must be finite.
CodecStats round_int4_row(std::span<const float> row, int group, uint32_t* packed, uint16_t* scales);

/// The row that such codes stand for.
void decode_int4_row(const uint32_t* packed, const uint16_t* scales, int group, std::span<float> out);

}  // namespace hlwq
