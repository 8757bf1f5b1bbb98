// The published bit-packed layout ("hlwq-q5"): how its tensors are named and its codes packed.
//
// For a weight X [out, in]: blocks of 128 along `in`, the last zero-padded; nb = ceil(in / 128), total = out
// * nb * 128.
//   X__packed  U8 [total * bits / 8]  natural (ascending) codes, row after row, as one bit stream, MSB first
//   X__norms   F16 [out, nb]          block norms
//   X__meta    I64 [5]                out, nb, 128, total, in
// X is the weight's own name here ("...q_proj.weight__packed"). Other published files write the name with
// "__" for every dot and without ".weight", and stop the meta at `total`; 8-bit codes take a byte each. No
// codebook is stored: decoders compute the unconverged 100-iteration table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hlwq {

constexpr int kPublishedBlock = 128;
constexpr std::string_view kPublishedPacked = "__packed";
constexpr std::string_view kPublishedNorms = "__norms";
constexpr std::string_view kPublishedMeta = "__meta";

/// Widths the published decoders know: 2 to 6 bits as a stream, 8 as bytes.
constexpr bool published_bits(int bits) { return (bits >= 2 && bits <= 6) || bits == 8; }

/// The natural codes of one block of 128 from the published stream.
void read_published_stream(int bits, const uint8_t* in, uint8_t* codes);

/// Native blocks of 128 to the published stream: `blocks` times 16 * bits bytes on both sides.
void to_published(int bits, uint64_t blocks, const uint8_t* native, uint8_t* published);

/// The weight's name from the part before "__packed": dotted names stay, the others get their dots and
/// ".weight" back.
std::string published_weight_name(std::string_view prefix);

}  // namespace hlwq
