// Pictures as the encoders want them: eight bits of red, green and blue, row by row, upright.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace hlwq {

struct Image {
  uint64_t width = 0, height = 0;
  std::vector<uint8_t> rgb;  ///< [height, width, 3]
};

/// What a file may ask for; checked against its header before anything is decoded.
struct ImageLimits {
  uint64_t max_bytes = 64ull << 20;   ///< of the file
  uint64_t max_pixels = 64ull << 20;  ///< width * height
  uint64_t max_side = 65535;          ///< pixels
};

/// Decodes a JPEG, PNG or WebP file, told apart by content; `what` names it in errors. Colours become what
/// Pillow's convert("RGB") makes of them: alpha and transparent palette entries are dropped, not blended. Of
/// 16 bits the upper eight stay (for grey, Pillow clips instead, which leaves a white picture). The
/// orientation that EXIF gives is applied; of a WebP animation the first frame is taken.
/// Throws Error(kInvalidFile) for anything broken, truncated or over `limits`, kUnsupported for other
/// formats.
Image decode_image(std::span<const std::byte> file, const std::string& what, const ImageLimits& limits = {});

/// Reads and decodes a file. Throws Error(kNotFound | kIo) besides.
Image read_image(const std::filesystem::path& path, const ImageLimits& limits = {});

}  // namespace hlwq
