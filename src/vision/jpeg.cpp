// JPEG by libjpeg-turbo. Its errors come back by longjmp, which must not pass over destructors: what runs
// between setjmp and the library holds only plain data, and throws only after returning.
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

// jpeglib.h needs FILE and size_t before it.
#include <jerror.h>
#include <jpeglib.h>

#include "vision/codec.h"

namespace hlwq {
namespace {

// A progressive file may hold any number of passes over the picture; real ones have about ten.
constexpr int kMostScans = 100;

struct Jpeg {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  jpeg_source_mgr source;
  jpeg_progress_mgr progress;
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void fail(j_common_ptr info) {
  Jpeg* jpeg = static_cast<Jpeg*>(info->client_data);
  info->err->format_message(info, jpeg->message);
  std::longjmp(jpeg->jump, 1);
}

[[noreturn]] void fail(Jpeg* jpeg, const char* message) {
  std::snprintf(jpeg->message, sizeof jpeg->message, "%s", message);
  std::longjmp(jpeg->jump, 1);
}

// Warnings come with level -1. Those of lost data are errors here; the others are about oddities that every
// decoder shrugs off.
void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;
  switch (info->err->msg_code) {
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_MUST_RESYNC:
    case JWRN_JPEG_EOF:
      fail(info);
    default:
      break;
  }
}

void on_progress(j_common_ptr info) {
  Jpeg* jpeg = static_cast<Jpeg*>(info->client_data);
  if (jpeg->info.input_scan_number > kMostScans) fail(jpeg, "too many scans");
}

void nothing(j_decompress_ptr) {}

boolean no_more_input(j_decompress_ptr info) {
  fail(static_cast<Jpeg*>(info->client_data), "it ends too early");
}

void skip_input(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  if (static_cast<size_t>(count) > info->src->bytes_in_buffer) no_more_input(info);
  info->src->next_input_byte += count;
  info->src->bytes_in_buffer -= static_cast<size_t>(count);
}

void set_up(Jpeg& jpeg, Bytes file) {
  std::memset(&jpeg, 0, sizeof jpeg);
  jpeg.info.err = jpeg_std_error(&jpeg.errors);
  jpeg.errors.error_exit = [](j_common_ptr info) { fail(info); };
  jpeg.errors.emit_message = on_message;
  jpeg.errors.output_message = [](j_common_ptr) {};
  jpeg.info.client_data = &jpeg;
  jpeg.source.init_source = nothing;
  jpeg.source.fill_input_buffer = no_more_input;
  jpeg.source.skip_input_data = skip_input;
  jpeg.source.resync_to_restart = jpeg_resync_to_restart;
  jpeg.source.term_source = nothing;
  jpeg.source.next_input_byte = reinterpret_cast<const JOCTET*>(file.data());
  jpeg.source.bytes_in_buffer = file.size();
  jpeg.progress.progress_monitor = on_progress;
}

bool read_header(Jpeg& jpeg) {
  if (setjmp(jpeg.jump)) return false;
  jpeg_create_decompress(&jpeg.info);
  jpeg.info.client_data = &jpeg;  // creating clears what was set before, except err and client_data
  jpeg.info.src = &jpeg.source;
  jpeg.info.progress = &jpeg.progress;
  jpeg_save_markers(&jpeg.info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&jpeg.info, TRUE);
  return true;
}

// pixels: [height, width, output components].
bool read_pixels(Jpeg& jpeg, J_COLOR_SPACE colours, uint8_t* pixels) {
  if (setjmp(jpeg.jump)) return false;
  jpeg.info.out_color_space = colours;
  jpeg_start_decompress(&jpeg.info);
  const size_t stride = size_t{jpeg.info.output_width} * static_cast<size_t>(jpeg.info.output_components);
  while (jpeg.info.output_scanline < jpeg.info.output_height) {
    JSAMPROW row = pixels + stride * jpeg.info.output_scanline;
    jpeg_read_scanlines(&jpeg.info, &row, 1);
  }
  return true;
}

struct Destroy {
  Jpeg& jpeg;
  ~Destroy() { jpeg_destroy_decompress(&jpeg.info); }
};

int orientation_of(const Jpeg& jpeg) {
  static constexpr char kExif[] = "Exif\0";  // and the terminating zero
  for (auto* m = jpeg.info.marker_list; m; m = m->next)
    if (m->data_length > sizeof kExif && std::memcmp(m->data, kExif, sizeof kExif) == 0)
      return exif_orientation(std::as_bytes(std::span(m->data, m->data_length)).subspan(sizeof kExif));
  return 1;
}

// (a * b) / 255, rounded.
uint32_t scaled(uint32_t a, uint32_t b) {
  const uint32_t p = a * b + 128;
  return ((p >> 8) + p) >> 8;
}

// Inks are stored inverted (255: none), as Adobe does and everybody expects.
void cmyk_to_rgb(const std::vector<uint8_t>& inks, std::vector<uint8_t>& rgb) {
  for (size_t i = 0; i < rgb.size() / 3; ++i) {
    const uint32_t black = inks[i * 4 + 3];
    for (size_t c = 0; c < 3; ++c)
      rgb[i * 3 + c] = static_cast<uint8_t>(black - scaled(255u - inks[i * 4 + c], black));
  }
}

}  // namespace

Decoded decode_jpeg(Bytes file, const std::string& what, const ImageLimits& limits) {
  Jpeg jpeg;
  set_up(jpeg, file);
  const Destroy destroy{jpeg};
  if (!read_header(jpeg)) throw broken_image(what, "JPEG", jpeg.message);
  check_size(jpeg.info.image_width, jpeg.info.image_height, what, limits);
  const int components = jpeg.info.num_components;
  if (components != 1 && components != 3 && components != 4)
    throw broken_image(what, "JPEG", std::to_string(components) + " colours");
  Decoded out{.image = {jpeg.info.image_width, jpeg.info.image_height, {}},
              .orientation = orientation_of(jpeg)};
  const size_t pixels = out.image.width * out.image.height;
  out.image.rgb.resize(pixels * 3);
  std::vector<uint8_t> inks(components == 4 ? pixels * 4 : 0);
  // libjpeg-turbo spreads grey over three channels by itself.
  if (!read_pixels(jpeg, components == 4 ? JCS_CMYK : JCS_RGB,
                   components == 4 ? inks.data() : out.image.rgb.data()))
    throw broken_image(what, "JPEG", jpeg.message);
  if (components == 4) cmyk_to_rgb(inks, out.image.rgb);
  return out;
}

}  // namespace hlwq
