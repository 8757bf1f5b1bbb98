#include "vision/image.h"

#include <cstring>

#include "base/file.h"
#include "vision/codec.h"

namespace hlwq {
namespace {

bool starts_with(Bytes file, std::string_view magic, size_t at = 0) {
  return file.size() >= at + magic.size() && std::memcmp(file.data() + at, magic.data(), magic.size()) == 0;
}

// The name of a picture format that is not read; null for anything else.
const char* other_format(Bytes file) {
  if (starts_with(file, "GIF8")) return "GIF";
  if (starts_with(file, "BM")) return "BMP";
  if (starts_with(file, std::string_view("II*\0", 4)) || starts_with(file, std::string_view("MM\0*", 4)))
    return "TIFF";
  if (starts_with(file, "ftypavif", 4) || starts_with(file, "ftypavis", 4)) return "AVIF";
  if (starts_with(file, "ftyphei", 4) || starts_with(file, "ftypmif1", 4)) return "HEIC";
  if (starts_with(file, std::string_view("\xff\x0a", 2)) || starts_with(file, "JXL ", 4)) return "JPEG XL";
  if (starts_with(file, "<svg") || starts_with(file, "<?xml")) return "SVG";
  return nullptr;
}

}  // namespace

void check_size(uint64_t width, uint64_t height, const std::string& what, const ImageLimits& limits) {
  const std::string size = std::to_string(width) + " x " + std::to_string(height);
  if (width == 0 || height == 0)
    throw Error(ErrorCode::kInvalidFile, what + ": an image of " + size + " pixels");
  if (width > limits.max_side || height > limits.max_side || width > limits.max_pixels / height)
    throw Error(ErrorCode::kInvalidFile, what + ": an image of " + size + " pixels is too large; at most " +
                                             std::to_string(limits.max_pixels) + " pixels and " +
                                             std::to_string(limits.max_side) +
                                             " a side are read, so shrink it first");
}

Error broken_image(const std::string& what, const char* format, std::string_view reason) {
  std::string text;
  for (char c : reason)
    if (c >= ' ' && c <= '~') text += c;
  return {ErrorCode::kInvalidFile, what + ": a broken " + format + " file (" + text + ")"};
}

Image decode_image(std::span<const std::byte> file, const std::string& what, const ImageLimits& limits) {
  if (file.size() > limits.max_bytes)
    throw Error(ErrorCode::kInvalidFile, what + ": " + std::to_string(file.size()) +
                                             " bytes are too many for an image; at most " +
                                             std::to_string(limits.max_bytes) + " are read");
  Decoded decoded;
  if (starts_with(file, "\xff\xd8\xff"))
    decoded = decode_jpeg(file, what, limits);
  else if (starts_with(file, "\x89PNG\r\n\x1a\n"))
    decoded = decode_png(file, what, limits);
  else if (starts_with(file, "RIFF") && starts_with(file, "WEBP", 8))
    decoded = decode_webp(file, what, limits);
  else if (const char* name = other_format(file))
    throw Error(ErrorCode::kUnsupported,
                what + ": " + name + " images are not read; convert it to PNG, JPEG or WebP");
  else
    throw Error(ErrorCode::kInvalidFile,
                what + (file.empty() ? ": an empty file, not an image" : ": not a JPEG, PNG or WebP image"));
  return upright(std::move(decoded.image), decoded.orientation);
}

Image read_image(const std::filesystem::path& path, const ImageLimits& limits) {
  const std::string bytes = read_file(path, limits.max_bytes);
  return decode_image(std::as_bytes(std::span(bytes)), path.string(), limits);
}

}  // namespace hlwq
