// WebP by libwebp: still pictures directly, of an animation its first frame as a player shows it.
#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "vision/codec.h"

namespace hlwq {
namespace {

struct Delete {
  void operator()(WebPDemuxer* p) const { WebPDemuxDelete(p); }
  void operator()(WebPAnimDecoder* p) const { WebPAnimDecoderDelete(p); }
};

const uint8_t* data_of(Bytes bytes) { return reinterpret_cast<const uint8_t*>(bytes.data()); }

int orientation_of(const WebPDemuxer* demuxer) {
  WebPChunkIterator chunk;
  int orientation = 1;
  if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &chunk)) {
    Bytes bytes = std::as_bytes(std::span(chunk.chunk.bytes, chunk.chunk.size));
    // Some writers keep JPEG's marker in front.
    if (bytes.size() > 6 && std::string_view(reinterpret_cast<const char*>(bytes.data()), 4) == "Exif")
      bytes = bytes.subspan(6);
    orientation = exif_orientation(bytes);
  }
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

void decode_still(Bytes file, Image& image, const std::string& what) {
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) throw Error(ErrorCode::kUnsupported, "libwebp is of another version");
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = image.rgb.data();
  config.output.u.RGBA.stride = static_cast<int>(image.width * 3);
  config.output.u.RGBA.size = image.rgb.size();
  const VP8StatusCode status = WebPDecode(data_of(file), file.size(), &config);
  WebPFreeDecBuffer(&config.output);
  if (status == VP8_STATUS_OUT_OF_MEMORY)
    throw Error(ErrorCode::kOutOfMemory, what + ": no memory to decode a WebP file");
  if (status != VP8_STATUS_OK)
    throw broken_image(what, "WebP", status == VP8_STATUS_NOT_ENOUGH_DATA ? "it ends too early" : "bad data");
}

void decode_first_frame(Bytes file, Image& image, const std::string& what) {
  WebPAnimDecoderOptions options;
  if (!WebPAnimDecoderOptionsInit(&options))
    throw Error(ErrorCode::kUnsupported, "libwebp is of another version");
  options.color_mode = MODE_RGBA;
  const WebPData data{data_of(file), file.size()};
  const std::unique_ptr<WebPAnimDecoder, Delete> decoder(WebPAnimDecoderNew(&data, &options));
  uint8_t* pixels = nullptr;
  int timestamp = 0;
  if (!decoder || !WebPAnimDecoderGetNext(decoder.get(), &pixels, &timestamp))
    throw broken_image(what, "WebP", "its first frame cannot be decoded");
  for (size_t i = 0; i < image.width * image.height; ++i)
    for (size_t c = 0; c < 3; ++c) image.rgb[i * 3 + c] = pixels[i * 4 + c];
}

}  // namespace

Decoded decode_webp(Bytes file, const std::string& what, const ImageLimits& limits) {
  const WebPData data{data_of(file), file.size()};
  const std::unique_ptr<WebPDemuxer, Delete> demuxer(WebPDemux(&data));
  if (!demuxer) throw broken_image(what, "WebP", "it is no whole RIFF file");
  const uint64_t width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
  const uint64_t height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
  check_size(width, height, what, limits);
  const bool animated = WebPDemuxGetI(demuxer.get(), WEBP_FF_FORMAT_FLAGS) & ANIMATION_FLAG;
  // The demuxer reads the container's size, the decoder the picture's own.
  WebPBitstreamFeatures features;
  if (!animated &&
      (WebPGetFeatures(data.bytes, data.size, &features) != VP8_STATUS_OK ||
       static_cast<uint64_t>(features.width) != width || static_cast<uint64_t>(features.height) != height))
    throw broken_image(what, "WebP", "container and picture differ in size");
  Decoded out{.image = {width, height, std::vector<uint8_t>(width * height * 3)},
              .orientation = orientation_of(demuxer.get())};
  animated ? decode_first_frame(file, out.image, what) : decode_still(file, out.image, what);
  return out;
}

}  // namespace hlwq
