// EXIF's orientation: finding it in a TIFF structure, and applying it.
#include <algorithm>
#include <cstring>

#include "vision/codec.h"

namespace hlwq {
namespace {

constexpr uint64_t kOrientationTag = 0x0112;

struct Tiff {
  Bytes bytes;
  bool big_endian;
  bool has(uint64_t at, uint64_t n) const { return at <= bytes.size() && n <= bytes.size() - at; }
  uint64_t number(uint64_t at, uint64_t n) const {
    uint64_t v = 0;
    for (uint64_t i = 0; i < n; ++i)
      v |= std::to_integer<uint64_t>(bytes[at + i]) << 8 * (big_endian ? n - 1 - i : i);
    return v;
  }
};

}  // namespace

int exif_orientation(Bytes bytes) {
  if (bytes.size() < 8) return 1;
  const bool little = std::memcmp(bytes.data(), "II*\0", 4) == 0;
  if (!little && std::memcmp(bytes.data(), "MM\0*", 4) != 0) return 1;
  const Tiff tiff{bytes, !little};
  const uint64_t directory = tiff.number(4, 4);
  if (!tiff.has(directory, 2)) return 1;
  const uint64_t entries = tiff.number(directory, 2);
  for (uint64_t i = 0; i < entries; ++i) {
    const uint64_t at = directory + 2 + 12 * i;
    if (!tiff.has(at, 12)) return 1;
    if (tiff.number(at, 2) != kOrientationTag) continue;
    const uint64_t type = tiff.number(at + 2, 2);
    const uint64_t size = type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0;  // byte, short, long
    if (size == 0 || tiff.number(at + 4, 4) != 1) return 1;
    const uint64_t value = tiff.number(at + 8, size);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image upright(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  // Where output pixel (x, y) comes from: 5 to 8 swap the axes; then each source axis may run backwards.
  const bool swap = orientation >= 5;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const uint64_t w = image.width, h = image.height;
  Image out{swap ? h : w, swap ? w : h, std::vector<uint8_t>(image.rgb.size())};
  uint8_t* to = out.rgb.data();
  for (uint64_t y = 0; y < out.height; ++y)
    for (uint64_t x = 0; x < out.width; ++x, to += 3) {
      const uint64_t u = swap ? y : x, v = swap ? x : y;
      const uint64_t i = (from_bottom ? h - 1 - v : v) * w + (from_right ? w - 1 - u : u);
      std::copy_n(image.rgb.data() + i * 3, 3, to);
    }
  return out;
}

}  // namespace hlwq
