// Limits and refusals of the decoders, target sizes, and the automatic budget.
#include "vision/image.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "base/file.h"
#include "vision/preprocess.h"
#include "vision/resize.h"

namespace hlwq {
namespace {

const std::filesystem::path kImages = std::filesystem::path(HLWQ_UNPACKED) / "golden-images/images";

Image decode(const std::string& bytes, const ImageLimits& limits = {}) {
  return decode_image(std::as_bytes(std::span(bytes)), "input", limits);
}

void expect_error(const std::string& bytes, ErrorCode code, const std::string& part,
                  const ImageLimits& limits = {}) {
  try {
    decode(bytes, limits);
    FAIL() << "decoded; expected: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

std::string be32(uint64_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8),
          static_cast<char>(v)};
}

TEST(DecodeImage, TellsFormatsApart) {
  expect_error("", ErrorCode::kInvalidFile, "empty");
  expect_error("hello, this is text", ErrorCode::kInvalidFile, "not a JPEG, PNG or WebP");
  expect_error("GIF89a......", ErrorCode::kUnsupported, "GIF");
  expect_error("BM..........", ErrorCode::kUnsupported, "BMP");
  expect_error(std::string("II*\0........", 12), ErrorCode::kUnsupported, "TIFF");
  expect_error("....ftypavif....", ErrorCode::kUnsupported, "AVIF");
  expect_error("....ftypheic....", ErrorCode::kUnsupported, "HEIC");
  EXPECT_THROW(read_image(kImages / "nothing.png"), Error);
}

TEST(DecodeImage, ChecksSizesBeforeDecoding) {
  for (const char* name : {"rgb.jpg", "rgb.png", "lossy.webp", "lossless_alpha.webp"}) {
    const std::string file = read_file(kImages / name);
    EXPECT_EQ(decode(file).width, 317u);
    expect_error(file, ErrorCode::kInvalidFile, "too large", {.max_pixels = 317 * 211 - 1});
    expect_error(file, ErrorCode::kInvalidFile, name == std::string("rgb.png") ? "PNG" : "too large",
                 {.max_side = 316});
    expect_error(file, ErrorCode::kInvalidFile, "bytes are too many", {.max_bytes = file.size() - 1});
    EXPECT_EQ(decode(file, {.max_bytes = file.size(), .max_pixels = 317 * 211, .max_side = 317}).height,
              211u);
  }
  // Headers that promise what no file of this length can hold are refused for their size alone.
  std::string png = read_file(kImages / "rgb.png");
  png.replace(16, 8, be32(60000) + be32(60000));
  expect_error(png, ErrorCode::kInvalidFile, "");
  std::string jpeg = read_file(kImages / "rgb.jpg");
  const size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xea\x60\xea\x60");
  expect_error(jpeg, ErrorCode::kInvalidFile, "too large");
}

TEST(DecodeImage, ErrorsNameTheFileAndShowNoControlCharacters) {
  std::string png = read_file(kImages / "rgb.png");
  png[40] = '\x1b';
  try {
    decode(png);
    FAIL() << "a broken checksum was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).find("input: a broken PNG file"), 0u) << e.what();
    for (const char* c = e.what(); *c; ++c) EXPECT_GE(*c, ' ');
  }
}

Image filled(uint64_t w, uint64_t h, auto&& value) {
  Image image{w, h, std::vector<uint8_t>(w * h * 3)};
  for (uint64_t y = 0; y < h; ++y)
    for (uint64_t x = 0; x < w; ++x)
      for (uint64_t c = 0; c < 3; ++c) image.rgb[(y * w + x) * 3 + c] = static_cast<uint8_t>(value(x, y, c));
  return image;
}

TEST(Resize, KeepsFlatColoursAndMirrorsAndOriginals) {
  const Image flat = filled(37, 91, [](uint64_t, uint64_t, uint64_t c) { return 10 + 100 * c; });
  for (const auto& [w, h] : {std::pair<uint64_t, uint64_t>{48, 480}, {1, 1}, {37, 5}, {500, 91}, {37, 91}}) {
    const Image out = resize_bicubic(flat, w, h);
    ASSERT_EQ(out.rgb.size(), w * h * 3);
    for (size_t i = 0; i < out.rgb.size(); ++i) ASSERT_EQ(out.rgb[i], 10 + 100 * (i % 3));
  }
  const Image ramp = filled(40, 30, [](uint64_t x, uint64_t y, uint64_t c) { return x * 5 + y + c; });
  const Image mirrored =
      filled(40, 30, [](uint64_t x, uint64_t y, uint64_t c) { return (39 - x) * 5 + y + c; });
  const Image a = resize_bicubic(ramp, 17, 60), b = resize_bicubic(mirrored, 17, 60);
  for (uint64_t y = 0; y < 60; ++y)
    for (uint64_t x = 0; x < 17; ++x) ASSERT_NEAR(a.rgb[(y * 17 + x) * 3], b.rgb[(y * 17 + 16 - x) * 3], 1);
  EXPECT_EQ(resize_bicubic(ramp, 40, 30).rgb, ramp.rgb);
}

TEST(TargetSize, KeepsProportionsWithinTheBudget) {
  EXPECT_EQ(target_size(480, 336, 70), (ImageSize{480, 336}));
  EXPECT_EQ(target_size(1, 1, 70), (ImageSize{384, 384}));
  EXPECT_EQ(target_size(4000, 1, 70), (ImageSize{70 * 48, 48}));
  EXPECT_EQ(target_size(1, 20, 70), (ImageSize{48, 37 * 48}));
  EXPECT_EQ(target_size(3, 400, 70), (ImageSize{48, 70 * 48}));
  for (uint64_t budget : kImageBudgets)
    for (uint64_t w : {1, 2, 47, 48, 49, 333, 1920, 16384, 60000})
      for (uint64_t h : {1, 3, 48, 250, 1080, 16384, 65535}) {
        const ImageSize t = target_size(w, h, budget);
        EXPECT_TRUE(t.width > 0 && t.height > 0 && t.width % 48 == 0 && t.height % 48 == 0);
        EXPECT_LE(image_tokens(t), budget);
      }
  for (uint64_t budget : {0, 69, 71, 256, 1121}) EXPECT_THROW(target_size(100, 100, budget), Error);
  EXPECT_THROW(target_size(0, 100, 70), Error);
  EXPECT_THROW(target_size(UINT64_MAX, UINT64_MAX, 70), Error);
}

TEST(AutoBudget, FollowsSizeAndDetail) {
  const auto flat = [](uint64_t x, uint64_t y, uint64_t) { return x > 900 && y > 700 ? 200 : 40; };
  const auto stripes = [](uint64_t x, uint64_t y, uint64_t) { return (x / 3 + y / 5) % 2 * 255; };
  const auto texture = [](uint64_t x, uint64_t y, uint64_t) {
    return 128 + 60 * std::sin(static_cast<double>(x) * 1.0) * std::sin(static_cast<double>(y) * 1.0);
  };
  EXPECT_EQ(auto_budget(filled(200, 150, stripes)), 70u) << "small: there is nothing to gain from upscaling";
  EXPECT_EQ(auto_budget(filled(700, 450, stripes)), 140u);
  EXPECT_EQ(auto_budget(filled(2000, 1500, flat)), 70u) << "large and empty";
  EXPECT_EQ(auto_budget(filled(2000, 1500, stripes)), 1120u) << "large and full of strokes";
  const uint64_t middle = auto_budget(filled(2000, 1500, texture));
  EXPECT_TRUE(middle > 70 && middle < 1120) << middle;
}

}  // namespace
}  // namespace hlwq
