// Input: an image file. What decodes is brought to patches as an engine would.
#include "fuzz_input.h"
#include "vision/preprocess.h"

namespace {

uint32_t crc(const uint8_t* data, size_t size) {
  uint32_t c = ~0u;
  for (size_t i = 0; i < size; ++i) {
    c ^= data[i];
    for (int bit = 0; bit < 8; ++bit) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
  }
  return ~c;
}

// Makes the checksums of a PNG file right, or no mutation would get past them.
void mend_png(std::vector<uint8_t>& file) {
  if (file.size() < 8 || file[0] != 0x89) return;
  for (size_t at = 8; at + 12 <= file.size();) {
    const size_t length =
        static_cast<size_t>(file[at]) << 24 | file[at + 1] << 16 | file[at + 2] << 8 | file[at + 3];
    if (length > file.size() - at - 12) return;
    const uint32_t c = crc(&file[at + 4], length + 4);
    for (int i = 0; i < 4; ++i)
      file[at + 8 + length + static_cast<size_t>(i)] = static_cast<uint8_t>(c >> (24 - 8 * i));
    at += length + 12;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> file(data, data + size);
  mend_png(file);
  hlwq::fuzz::allow_errors([&] {
    // Small limits keep an execution short; sizes are checked the same way at any limit.
    const hlwq::ImageLimits limits{.max_bytes = 1 << 20, .max_pixels = 1 << 14, .max_side = 4096};
    const hlwq::Image image = hlwq::decode_image(std::as_bytes(std::span(file)), "input", limits);
    if (image.rgb.size() != image.width * image.height * 3) __builtin_trap();
    const uint64_t budget = hlwq::auto_budget(image);
    if (hlwq::make_patches(image, budget).tokens() > budget) __builtin_trap();
  });
  return 0;
}
