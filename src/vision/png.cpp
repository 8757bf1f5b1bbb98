// PNG by libpng. As with JPEG, errors come back by longjmp: between setjmp and the library there is only
// plain data.
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

#include "vision/codec.h"

namespace hlwq {
namespace {

constexpr png_alloc_size_t kMostChunkBytes = 8 << 20;  // of a profile or text, unpacked

struct Png {
  png_structp png = nullptr;
  png_infop info = nullptr;
  const std::byte* next = nullptr;
  size_t left = 0;
  char message[128] = "";
  ~Png() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  Png* p = static_cast<Png*>(png_get_error_ptr(png));
  std::snprintf(p->message, sizeof p->message, "%s", message);
  png_longjmp(png, 1);
}

void on_read(png_structp png, png_bytep to, size_t size) {
  Png* p = static_cast<Png*>(png_get_io_ptr(png));
  if (size > p->left) png_error(png, "it ends too early");
  std::memcpy(to, p->next, size);
  p->next += size;
  p->left -= size;
}

bool read_header(Png& p, uint32_t max_side) {
  if (setjmp(png_jmpbuf(p.png))) return false;
  png_set_user_limits(p.png, max_side, max_side);
  png_set_chunk_malloc_max(p.png, kMostChunkBytes);
  png_set_read_fn(p.png, &p, on_read);
  png_read_info(p.png, p.info);
  return true;
}

// Asks for eight bits of red, green and blue, without gamma or background.
bool start(Png& p) {
  if (setjmp(png_jmpbuf(p.png))) return false;
  const int type = png_get_color_type(p.png, p.info);
  png_set_strip_16(p.png);
  png_set_packing(p.png);
  if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(p.png);
  if (type == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(p.png);
  if (!(type & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(p.png);
  png_set_strip_alpha(p.png);
  png_set_interlace_handling(p.png);
  png_read_update_info(p.png, p.info);
  return true;
}

// rows: one pointer a row. An EXIF chunk may stand behind the pixels.
bool read_pixels(Png& p, png_bytepp rows) {
  if (setjmp(png_jmpbuf(p.png))) return false;
  png_read_image(p.png, rows);
  png_read_end(p.png, p.info);
  return true;
}

}  // namespace

Decoded decode_png(Bytes file, const std::string& what, const ImageLimits& limits) {
  Png p;
  p.next = file.data();
  p.left = file.size();
  p.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &p, on_error, [](png_structp, png_const_charp) {});
  p.info = p.png ? png_create_info_struct(p.png) : nullptr;
  if (!p.info) throw Error(ErrorCode::kOutOfMemory, what + ": no memory to read a PNG file");
  constexpr uint64_t kMostSide = 0x7fffffff;
  if (!read_header(p, static_cast<uint32_t>(std::min(limits.max_side, kMostSide))))
    throw broken_image(what, "PNG", p.message);
  const uint64_t width = png_get_image_width(p.png, p.info), height = png_get_image_height(p.png, p.info);
  check_size(width, height, what, limits);
  if (!start(p)) throw broken_image(what, "PNG", p.message);
  if (png_get_rowbytes(p.png, p.info) != width * 3) throw broken_image(what, "PNG", "unknown colours");
  Decoded out{.image = {width, height, std::vector<uint8_t>(width * height * 3)}, .orientation = 1};
  std::vector<png_bytep> rows(height);
  for (uint64_t y = 0; y < height; ++y) rows[y] = out.image.rgb.data() + y * width * 3;
  if (!read_pixels(p, rows.data())) throw broken_image(what, "PNG", p.message);
  png_uint_32 exif_size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(p.png, p.info, &exif_size, &exif))
    out.orientation = exif_orientation(std::as_bytes(std::span(exif, exif_size)));
  return out;
}

}  // namespace hlwq
