// From a picture to the patches of the Gemma 4 image encoder: target size, resizing, cutting.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "vision/image.h"

namespace hlwq {

/// Soft tokens that an image may get at most; the model was trained on these five.
inline constexpr std::array<uint64_t, 5> kImageBudgets{70, 140, 280, 560, 1120};

/// Sizes of the encoder: patches of patch x patch pixels, pooling x pooling of them make one soft token.
struct PatchShape {
  uint64_t patch = 16, pooling = 3;
  uint64_t side() const { return patch * pooling; }  ///< pixels a side of one soft token
};

struct ImageSize {
  uint64_t width = 0, height = 0;
  friend bool operator==(const ImageSize&, const ImageSize&) = default;
};

/// An image cut up, row by row of patches, the first patch top left.
struct ImagePatches {
  uint64_t cols = 0, rows = 0;  ///< patches across and down
  PatchShape shape;
  std::vector<uint8_t> pixels;  ///< [rows * cols, patch * patch * 3]: row, column, colour; 255 stands for 1

  uint64_t patches() const { return cols * rows; }
  uint64_t tokens() const { return patches() / (shape.pooling * shape.pooling); }
  /// (x, y) of each patch in the grid.
  std::vector<std::array<int32_t, 2>> positions() const;
};

/// The size that an image of width x height is brought to: its proportions nearly kept, both sides multiples
/// of a soft token's side, the largest such area within `budget` soft tokens. Throws Error(kInvalidArgument)
/// for a budget that is not in kImageBudgets, and for an image so narrow that nothing is left of it.
ImageSize target_size(uint64_t width, uint64_t height, uint64_t budget, const PatchShape& shape = {});
/// Soft tokens that target_size comes to.
uint64_t image_tokens(const ImageSize& target, const PatchShape& shape = {});

/// Resizes to the target size and cuts. Throws as target_size does.
ImagePatches make_patches(const Image& image, uint64_t budget, const PatchShape& shape = {});

/// The budget that an image needs. First by size: the smallest one that holds the image at its own
/// resolution, or the largest. Then by detail: of the smaller ones, the smallest whose picture, blown up
/// again, still looks the same. A cell of 48 x 48 pixels is held to have lost detail when its brightness is
/// off by more than 16 of 255 (root mean square); at most 3 % of the cells may be. Flat drawings go with few
/// tokens this way; pages of text and busy photographs get many.
uint64_t auto_budget(const Image& image, const PatchShape& shape = {});

}  // namespace hlwq
