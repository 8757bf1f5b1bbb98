// Every kind of picture through decoding, resizing and cutting, against transformers' own image processor.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "base/file.h"
#include "base/json.h"
#include "vision/preprocess.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

const fs::path kGoldens = fs::path(HLWQ_UNPACKED) / "golden-images";

// FILE@BUDGET.position_ids of golden.safetensors, without the layers above this one.
std::vector<int32_t> golden_positions(const std::string& key) {
  static const std::string file = read_file(kGoldens / "golden.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, file.data(), 8);
  static const OrderedJson index = parse_ordered_json(std::string_view(file).substr(8, header), "header");
  const auto& entry = index[key + ".position_ids"];
  EXPECT_EQ(entry["dtype"], "I32");
  const uint64_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
  std::vector<int32_t> ids((end - begin) / 4);
  std::memcpy(ids.data(), file.data() + 8 + header + begin, end - begin);
  return ids;
}

TEST(GoldenImages, PixelsAndPositionsEqualTransformers) {
  const OrderedJson golden = read_ordered_json(kGoldens / "golden.json");
  int different = 0;
  for (const auto& g : golden["images"]) {
    const std::string name = g["file"], key = name + "@" + std::to_string(g["budget"].get<int>());
    SCOPED_TRACE(key);
    const Image image = read_image(kGoldens / "images" / name);
    EXPECT_EQ(image.width, g["size"][0].get<uint64_t>());
    EXPECT_EQ(image.height, g["size"][1].get<uint64_t>());
    const ImagePatches patches = make_patches(image, g["budget"]);
    ASSERT_EQ(patches.cols, g["grid"][0].get<uint64_t>());
    ASSERT_EQ(patches.rows, g["grid"][1].get<uint64_t>());
    EXPECT_EQ(patches.tokens(), g["tokens"].get<uint64_t>());

    const auto positions = patches.positions();
    const auto expected_positions = golden_positions(key);
    ASSERT_EQ(expected_positions.size(), 2 * positions.size());
    for (size_t p = 0; p < positions.size(); ++p)
      ASSERT_TRUE(positions[p][0] == expected_positions[2 * p] &&
                  positions[p][1] == expected_positions[2 * p + 1])
          << p;

    const Image expected = read_image(kGoldens / "expected" / (key + ".webp"));
    ASSERT_EQ(expected.width, patches.cols * 16);
    ASSERT_EQ(expected.height, patches.rows * 16);
    int worst = 0;
    for (uint64_t y = 0; y < expected.height; ++y)
      for (uint64_t x = 0; x < expected.width; ++x)
        for (uint64_t c = 0; c < 3; ++c) {
          const uint64_t patch = y / 16 * patches.cols + x / 16, pixel = y % 16 * 16 + x % 16;
          const int d = std::abs(patches.pixels[patch * 768 + pixel * 3 + c] -
                                 expected.rgb[(y * expected.width + x) * 3 + c]);
          worst = std::max(worst, d);
          different += d != 0;
        }
    EXPECT_LE(worst, 1);
  }
  EXPECT_GE(golden["images"].size(), 45u);
  // Pillow's arithmetic is ours; only torchvision's differs, in the last bit of some.
  if (golden["versions"]["processor"] == "pil") {
    EXPECT_EQ(different, 0);
  }
}

// The eight orientations are the same drawing in eight positions, so they come out as one.
TEST(GoldenImages, OrientationsAgreeWithEachOther) {
  const Image first = read_image(kGoldens / "images/oriented_1.jpg");
  const uint64_t w = first.width, h = first.height;
  struct From {
    bool swap, right, bottom;
  };
  // EXIF's table: where row 0 and column 0 of the stored picture lie.
  const From table[] = {{false, false, false}, {false, true, false}, {false, true, true},
                        {false, false, true},  {true, false, false}, {true, false, true},
                        {true, true, true},    {true, true, false}};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const From& f = table[orientation - 1];
    const Image turned = read_image(kGoldens / ("images/oriented_" + std::to_string(orientation) + ".jpg"));
    ASSERT_EQ(turned.width, f.swap ? h : w);
    ASSERT_EQ(turned.height, f.swap ? w : h);
    for (uint64_t y = 0; y < turned.height; ++y)
      for (uint64_t x = 0; x < turned.width; ++x) {
        uint64_t u = f.swap ? y : x, v = f.swap ? x : y;
        if (f.right) u = w - 1 - u;
        if (f.bottom) v = h - 1 - v;
        for (uint64_t c = 0; c < 3; ++c)
          ASSERT_EQ(turned.rgb[(y * turned.width + x) * 3 + c], first.rgb[(v * w + u) * 3 + c])
              << orientation << " at " << x << ", " << y;
      }
  }
}

// Any prefix of a file, and any byte changed, either still is a picture or a typed error; with the sanitizers
// this also looks for leaks and reads outside.
TEST(BrokenImages, PrefixesAndFlippedBytesNeverCrash) {
  int refused = 0, read = 0;
  const auto attempt = [&](const std::string& bytes) {
    try {
      decode_image(std::as_bytes(std::span(bytes)), "input");
      ++read;
      return true;
    } catch (const Error& e) {
      EXPECT_TRUE(e.code() == ErrorCode::kInvalidFile || e.code() == ErrorCode::kUnsupported) << e.what();
      EXPECT_EQ(std::string(e.what()).find("input: "), 0u) << e.what();
      ++refused;
      return false;
    }
  };
  for (const char* name :
       {"oriented_6.jpg", "cmyk.jpg", "progressive.jpg", "palette_transparent.png", "interlaced_alpha16.png",
        "oriented_6.png", "lossy_alpha.webp", "oriented_8.webp", "animated.webp"}) {
    const std::string file = read_file(kGoldens / "images" / name);
    for (size_t n = 0; n < file.size(); n += 1 + file.size() / 40)
      EXPECT_FALSE(attempt(file.substr(0, n))) << name << " cut after " << n << " of " << file.size();
    for (size_t i = 0; i < file.size(); i += 1 + file.size() / 150) {
      std::string changed = file;
      changed[i] = static_cast<char>(changed[i] ^ 0xff);
      attempt(changed);
    }
  }
  EXPECT_GT(refused, 500);
  EXPECT_GT(read, 50) << "a flipped byte among the pixels is still a picture";
}

}  // namespace
}  // namespace hlwq
