#include "vision/resize.h"

#include <algorithm>
#include <cmath>

namespace hlwq {
namespace {

constexpr int kFractionBits = 22;  // eight bits of pixel and two of headroom leave these in 32
constexpr uint64_t kChannels = 3;

// Keys' cubic with a = -1/2, nonzero within two pixels.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// What each output pixel of one axis takes from the input: weights[i * taps ..] from first[i] on.
struct Axis {
  uint64_t taps = 0;
  std::vector<uint64_t> first, count;
  std::vector<int32_t> weights;
};

Axis make_axis(uint64_t in, uint64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);  // shrinking widens the filter: that is the antialiasing
  const double support = 2 * stretch;
  Axis axis;
  axis.taps = static_cast<uint64_t>(std::ceil(support)) * 2 + 1;
  axis.first.resize(out);
  axis.count.resize(out);
  axis.weights.assign(out * axis.taps, 0);
  std::vector<double> real(axis.taps);
  for (uint64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto begin = static_cast<uint64_t>(std::max(0.0, center - support + 0.5));
    const uint64_t end = std::min<uint64_t>(static_cast<uint64_t>(center + support + 0.5), in);
    double sum = 0;
    for (uint64_t x = begin; x < end; ++x)
      sum += real[x - begin] = cubic((static_cast<double>(x) - center + 0.5) * (1.0 / stretch));
    axis.first[i] = begin;
    axis.count[i] = end - begin;
    for (uint64_t k = 0; k < end - begin; ++k) {
      const double w = (sum != 0 ? real[k] / sum : real[k]) * (1 << kFractionBits);
      axis.weights[i * axis.taps + k] = static_cast<int32_t>(w < 0 ? w - 0.5 : w + 0.5);
    }
  }
  return axis;
}

uint8_t rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255)); }

Image resize_columns(const Image& in, uint64_t width) {
  const Axis axis = make_axis(in.width, width);
  Image out{width, in.height, std::vector<uint8_t>(width * in.height * kChannels)};
  for (uint64_t y = 0; y < in.height; ++y) {
    const uint8_t* row = in.rgb.data() + y * in.width * kChannels;
    uint8_t* to = out.rgb.data() + y * width * kChannels;
    for (uint64_t i = 0; i < width; ++i, to += kChannels) {
      const int32_t* w = axis.weights.data() + i * axis.taps;
      const uint8_t* from = row + axis.first[i] * kChannels;
      int32_t r = 1 << (kFractionBits - 1), g = r, b = r;
      for (uint64_t k = 0; k < axis.count[i]; ++k, from += kChannels) {
        r += w[k] * from[0];
        g += w[k] * from[1];
        b += w[k] * from[2];
      }
      to[0] = rounded(r);
      to[1] = rounded(g);
      to[2] = rounded(b);
    }
  }
  return out;
}

Image resize_rows(const Image& in, uint64_t height) {
  const Axis axis = make_axis(in.height, height);
  const uint64_t stride = in.width * kChannels;
  Image out{in.width, height, std::vector<uint8_t>(height * stride)};
  std::vector<int32_t> sums(stride);
  for (uint64_t i = 0; i < height; ++i) {
    const int32_t* w = axis.weights.data() + i * axis.taps;
    std::fill(sums.begin(), sums.end(), 1 << (kFractionBits - 1));
    for (uint64_t k = 0; k < axis.count[i]; ++k) {
      const uint8_t* from = in.rgb.data() + (axis.first[i] + k) * stride;
      for (uint64_t x = 0; x < stride; ++x) sums[x] += w[k] * from[x];
    }
    uint8_t* to = out.rgb.data() + i * stride;
    for (uint64_t x = 0; x < stride; ++x) to[x] = rounded(sums[x]);
  }
  return out;
}

}  // namespace

Image resize_bicubic(const Image& image, uint64_t width, uint64_t height) {
  if (image.width == width) return image.height == height ? image : resize_rows(image, height);
  const Image columns = resize_columns(image, width);
  return image.height == height ? columns : resize_rows(columns, height);
}

}  // namespace hlwq
