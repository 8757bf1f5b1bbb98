#include "quant/published_layout.h"

#include "quant/layout.h"

namespace hlwq {
namespace {

// Eight codes of b bits fill b bytes: the widest group that never leaves a byte half done.
void write_stream(int bits, const uint8_t* codes, uint8_t* out) {
  for (int i = 0; i < kPublishedBlock; i += 8, out += bits) {
    uint64_t group = 0;
    for (int j = 0; j < 8; ++j) group = group << bits | codes[i + j];
    for (int k = 0; k < bits; ++k) out[k] = static_cast<uint8_t>(group >> (8 * (bits - 1 - k)));
  }
}

}  // namespace

void read_published_stream(int bits, const uint8_t* in, uint8_t* codes) {
  const uint64_t mask = (1u << bits) - 1;
  for (int i = 0; i < kPublishedBlock; i += 8, in += bits) {
    uint64_t group = 0;
    for (int k = 0; k < bits; ++k) group = group << 8 | in[k];
    for (int j = 0; j < 8; ++j) codes[i + j] = static_cast<uint8_t>(group >> (bits * (7 - j)) & mask);
  }
}

void to_published(int bits, uint64_t blocks, const uint8_t* native, uint8_t* published) {
  const HlwqFormat format{bits, 1, kPublishedBlock};
  uint8_t codes[kPublishedBlock];
  for (uint64_t b = 0; b < blocks; ++b, native += format.block_bytes(), published += format.block_bytes()) {
    unpack_block(format, native, codes);
    for (uint8_t& c : codes) c = static_cast<uint8_t>(natural_code(c, bits));
    write_stream(bits, codes, published);
  }
}

std::string published_weight_name(std::string_view prefix) {
  if (prefix.find('.') != std::string_view::npos) return std::string(prefix);
  std::string name;
  for (size_t i = 0; i < prefix.size(); ++i) {
    const bool dot = prefix.substr(i, 2) == "__";
    name += dot ? '.' : prefix[i];
    i += dot;
  }
  if (!name.ends_with(".weight")) name += ".weight";
  return name;
}

}  // namespace hlwq
