#include "vision/preprocess.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "hlwq/error.h"
#include "vision/resize.h"

namespace hlwq {
namespace {

constexpr double kCellError = 16;           // brightness, of 255, that a cell may be off (root mean square)
constexpr double kCellsOff = 0.03;          // part of the cells that may be off more
constexpr uint64_t kMostSide = 1ull << 24;  // keeps every product below within 64 bits

double brightness(const uint8_t* p) { return 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]; }

// Part of the cells of `a` that differ from `b`, of the same size, by more than kCellError.
double cells_off(const Image& a, const Image& b, uint64_t side) {
  uint64_t cells = 0, off = 0;
  for (uint64_t y0 = 0; y0 < a.height; y0 += side)
    for (uint64_t x0 = 0; x0 < a.width; x0 += side) {
      const uint64_t y1 = std::min(y0 + side, a.height), x1 = std::min(x0 + side, a.width);
      double sum = 0;
      for (uint64_t y = y0; y < y1; ++y)
        for (uint64_t x = x0; x < x1; ++x) {
          const uint64_t i = (y * a.width + x) * 3;
          const double d = brightness(&a.rgb[i]) - brightness(&b.rgb[i]);
          sum += d * d;
        }
      ++cells;
      off += sum > kCellError * kCellError * static_cast<double>((y1 - y0) * (x1 - x0));
    }
  return static_cast<double>(off) / static_cast<double>(cells);
}

}  // namespace

std::vector<std::array<int32_t, 2>> ImagePatches::positions() const {
  std::vector<std::array<int32_t, 2>> all;
  all.reserve(patches());
  for (uint64_t y = 0; y < rows; ++y)
    for (uint64_t x = 0; x < cols; ++x) all.push_back({static_cast<int32_t>(x), static_cast<int32_t>(y)});
  return all;
}

ImageSize target_size(uint64_t width, uint64_t height, uint64_t budget, const PatchShape& shape) {
  if (std::find(kImageBudgets.begin(), kImageBudgets.end(), budget) == kImageBudgets.end())
    throw Error(ErrorCode::kInvalidArgument,
                "an image gets at most 70, 140, 280, 560 or 1120 tokens, not " + std::to_string(budget));
  const std::string size = std::to_string(width) + " x " + std::to_string(height);
  if (width == 0 || height == 0 || width > kMostSide || height > kMostSide)
    throw Error(ErrorCode::kInvalidArgument, "an image of " + size + " pixels cannot be resized");
  // In double, step by step as the reference does it: rounding decides between neighbouring sizes.
  const uint64_t side = shape.side(), area = budget * side * side;
  const double w = static_cast<double>(width), h = static_cast<double>(height);
  const double factor = std::sqrt(static_cast<double>(area) / (w * h));
  const auto multiple = [&](double pixels) {
    return static_cast<uint64_t>(std::floor(pixels / static_cast<double>(side))) * side;
  };
  ImageSize target{multiple(factor * w), multiple(factor * h)};
  const uint64_t longest = budget * side;
  if (target.height == 0 && target.width != 0)
    target = {std::min(width / height * side, longest), side};
  else if (target.width == 0 && target.height != 0)
    target = {side, std::min(height / width * side, longest)};
  if (target.width == 0 || target.height == 0 || target.width * target.height > area)
    throw Error(ErrorCode::kInvalidArgument, "an image of " + size + " pixels is too narrow for " +
                                                 std::to_string(budget) + " tokens; crop it");
  return target;
}

uint64_t image_tokens(const ImageSize& target, const PatchShape& shape) {
  return (target.width / shape.side()) * (target.height / shape.side());
}

ImagePatches make_patches(const Image& image, uint64_t budget, const PatchShape& shape) {
  const ImageSize target = target_size(image.width, image.height, budget, shape);
  const Image resized = resize_bicubic(image, target.width, target.height);
  const uint64_t p = shape.patch, row = p * 3;
  ImagePatches out{target.width / p, target.height / p, shape, {}};
  out.pixels.resize(resized.rgb.size());
  uint8_t* to = out.pixels.data();
  for (uint64_t y = 0; y < out.rows; ++y)
    for (uint64_t x = 0; x < out.cols; ++x)
      for (uint64_t i = 0; i < p; ++i, to += row)
        std::memcpy(to, resized.rgb.data() + ((y * p + i) * target.width + x * p) * 3, row);
  return out;
}

uint64_t auto_budget(const Image& image, const PatchShape& shape) {
  const uint64_t cell = shape.side() * shape.side();
  size_t largest = 0;
  while (largest + 1 < kImageBudgets.size() && kImageBudgets[largest] * cell < image.width * image.height)
    ++largest;
  if (largest == 0) return kImageBudgets[0];
  const ImageSize full = target_size(image.width, image.height, kImageBudgets[largest], shape);
  const Image best = resize_bicubic(image, full.width, full.height);
  for (size_t i = 0; i < largest; ++i) {
    const ImageSize small = target_size(image.width, image.height, kImageBudgets[i], shape);
    const Image again =
        resize_bicubic(resize_bicubic(best, small.width, small.height), full.width, full.height);
    if (cells_off(best, again, shape.side()) <= kCellsOff) return kImageBudgets[i];
  }
  return kImageBudgets[largest];
}

}  // namespace hlwq
