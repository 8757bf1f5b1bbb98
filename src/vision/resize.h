// Bicubic resizing with antialiasing, as Pillow and torchvision do it to eight-bit pictures.
#pragma once

#include "vision/image.h"

namespace hlwq {

/// `image` at width x height, both > 0. Weights are fixed-point numbers of 22 fractional bits; columns first,
/// then rows, rounded to eight bits after each.
Image resize_bicubic(const Image& image, uint64_t width, uint64_t height);

}  // namespace hlwq
