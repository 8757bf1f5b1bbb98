// Between decode_image and the codecs, one file each.
#pragma once

#include <string_view>

#include "hlwq/error.h"
#include "vision/image.h"

namespace hlwq {

using Bytes = std::span<const std::byte>;

struct Decoded {
  Image image;
  int orientation = 1;  ///< EXIF's, 1 (upright) to 8
};

Decoded decode_jpeg(Bytes file, const std::string& what, const ImageLimits& limits);
Decoded decode_png(Bytes file, const std::string& what, const ImageLimits& limits);
Decoded decode_webp(Bytes file, const std::string& what, const ImageLimits& limits);

/// Throws Error(kInvalidFile) when a picture of that size is empty or beyond the limits.
void check_size(uint64_t width, uint64_t height, const std::string& what, const ImageLimits& limits);
/// Error(kInvalidFile) "WHAT: a broken FORMAT file (REASON)"; unprintable bytes of the reason are left out.
Error broken_image(const std::string& what, const char* format, std::string_view reason);

/// The orientation that a TIFF structure (what EXIF is made of) holds; 1 when it holds none or is broken.
int exif_orientation(Bytes tiff);
/// The picture turned and mirrored so that it stands upright.
Image upright(Image image, int orientation);

}  // namespace hlwq
