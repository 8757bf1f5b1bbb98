// The packed layout of HLWQ codes, bit by bit: the one place that says where a code lives.
//
// A weight matrix [rows, cols] is cut along cols into blocks of `block` values (the last may be zero-padded),
// each with one FP16 norm and block * bits / 8 bytes of codes. Rows follow each other without gaps, blocks
// within a row likewise.
//
// Stored code: q = sign << (bits-1) | m. The codebook is odd: value(q) = sign ? -mag[m] : mag[m], mag
// ascending.
//   Natural (ascending) index n of the published formats: n >= 2^(bits-1) <=> sign 0, m = n - 2^(bits-1);
//   otherwise sign 1, m = 2^(bits-1) - 1 - n.
//
// A block is a run of granules of G = min(block, 128) codes. A granule stores bit planes, widest first, from
// the low bits of the code upwards:
//   bits 2: [2]   3: [2][1]   4: [4]   5: [4][1]   6: [4][2]   7: [4][2][1]   8: [8]
//   plane of 8 bits: byte i = code i
//   plane of 4 bits: G/2 bytes, byte i = v[i] | v[G/2 + i] << 4
//   plane of 2 bits: G/4 bytes, byte i = v[i] | v[G/4 + i] << 2 | v[G/2 + i] << 4 | v[3G/4 + i] << 6
//   plane of 1 bit : G/8 bytes, bit j of byte i = v[8i + j]
// where v[t] are that plane's bits of code t. So Q5 of a 128-block is 64 bytes of low nibbles, then 16 bytes
// of signs. One vector load, shift and mask gives consecutive codes; the 1-bit plane is an AVX-512 mask as it
// stands.
//
// Lags (coupled codebooks): the packing does not depend on the number of lags; only the tables do. With L
// lags each code also moves its L - 1 right neighbours, cyclically inside the block:
//   value(t) = T_0[q_t] + T_1[q_(t-1)] + ... + T_(L-1)[q_(t-L+1)],  indices modulo the block.
// The ring makes a block's first value as good as any other, and costs nothing: x . value becomes
// sum_t (T_0[q_t] x_t + T_1[q_t] x_(t+1) ...), with activations turned by one inside the block.
#pragma once

#include <cstdint>
#include <string>

#include "base/checked.h"

namespace hlwq {

struct HlwqFormat {
  int bits = 5;     ///< 2..8
  int lags = 1;     ///< 1 = scalar codebook; 2, 3 = coupled with the left neighbours, up to 6 bits
  int block = 128;  ///< 32, 64, 128, 256 or 512

  friend bool operator==(const HlwqFormat&, const HlwqFormat&) = default;

  constexpr uint64_t block_bytes() const { return static_cast<uint64_t>(block) * bits / 8; }
  constexpr int granule() const { return block < 128 ? block : 128; }
  constexpr uint64_t granule_bytes() const { return static_cast<uint64_t>(granule()) * bits / 8; }
  constexpr uint64_t row_blocks(uint64_t cols) const { return ceil_div(cols, block); }
  constexpr uint64_t row_bytes(uint64_t cols) const { return row_blocks(cols) * block_bytes(); }
  constexpr int levels() const { return 1 << bits; }
  /// Bits per weight, norms included, without padding.
  constexpr double bits_per_weight() const { return bits + 16.0 / block; }
};

constexpr bool valid(const HlwqFormat& f) {
  return f.bits >= 2 && f.bits <= 8 && f.lags >= 1 && f.lags <= (f.bits <= 6 ? 3 : 1) &&
         (f.block == 32 || f.block == 64 || f.block == 128 || f.block == 256 || f.block == 512);
}

/// The planes of a width, low bits first: width in bits, and the bit of the code where it starts.
struct Planes {
  int count;
  int width[3];
  int shift[3];
};
constexpr Planes planes(int bits) {
  switch (bits) {
    case 2:
      return {1, {2, 0, 0}, {0, 0, 0}};
    case 3:
      return {2, {2, 1, 0}, {0, 2, 0}};
    case 4:
      return {1, {4, 0, 0}, {0, 0, 0}};
    case 5:
      return {2, {4, 1, 0}, {0, 4, 0}};
    case 6:
      return {2, {4, 2, 0}, {0, 4, 0}};
    case 7:
      return {3, {4, 2, 1}, {0, 4, 6}};
    default:
      return {1, {8, 0, 0}, {0, 0, 0}};
  }
}

constexpr uint8_t stored_code(int natural, int bits) {
  const int half = 1 << (bits - 1);
  return static_cast<uint8_t>(natural >= half ? natural - half : half | (half - 1 - natural));
}
constexpr int natural_code(uint8_t stored, int bits) {
  const int half = 1 << (bits - 1), m = stored & (half - 1);
  return stored & half ? half - 1 - m : half + m;
}

static_assert(HlwqFormat{5, 1, 128}.block_bytes() == 80);
static_assert(HlwqFormat{5, 1, 64}.row_bytes(576) == 9 * 40);
static_assert(HlwqFormat{3, 1, 32}.block_bytes() == 12);
static_assert(HlwqFormat{7, 1, 512}.granule_bytes() * 4 == HlwqFormat{7, 1, 512}.block_bytes());
static_assert(natural_code(stored_code(0, 5), 5) == 0 && natural_code(stored_code(31, 5), 5) == 31);
static_assert(stored_code(16, 5) == 0 && stored_code(15, 5) == 16);

/// Packs one block of stored codes (one byte each) into block_bytes() bytes, and back. The scalar truth.
void pack_block(const HlwqFormat& format, const uint8_t* codes, uint8_t* packed);
void unpack_block(const HlwqFormat& format, const uint8_t* packed, uint8_t* codes);

/// "Q5", and "Q5 l2" with coupled codebooks: how a format is shown to people.
inline std::string format_label(const HlwqFormat& f) {
  return "Q" + std::to_string(f.bits) + (f.lags > 1 ? " l" + std::to_string(f.lags) : "");
}

/// Names of a quantised weight's parts in a checkpoint, from the weight's own name ("...q_proj.weight").
inline std::string codes_name(const std::string& weight) {
  return weight + ".hlwq_codes";
}  // U8  [rows, row_bytes]
inline std::string norms_name(const std::string& weight) {
  return weight + ".hlwq_norms";
}  // F16 [rows, row_blocks]
/// The codebook tensor of a (bits, lags): F32 [lags, 2^bits], indexed by stored code.
inline std::string codebook_name(int bits, int lags) {
  return std::string("hlwq.codebook.q") + std::to_string(bits) + (lags > 1 ? "l" + std::to_string(lags) : "");
}

}  // namespace hlwq
