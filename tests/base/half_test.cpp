// Half-precision conversions, over all bit patterns, against arithmetic in double precision.
#include "base/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace hlwq {
namespace {

// The value of a small binary float from its fields; infinities and NaN for the top exponent.
double reference(uint16_t h, int exponent_bits, int mantissa_bits) {
  const int sign = h >> 15, top = (1 << exponent_bits) - 1, bias = top / 2;
  const int exponent = (h >> mantissa_bits) & top, mantissa = h & ((1 << mantissa_bits) - 1);
  double v;
  if (exponent == top)
    v = mantissa ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  else if (exponent == 0)
    v = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  else
    v = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return sign ? -v : v;
}

bool same(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

struct Format {
  int exponent_bits, mantissa_bits;
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);
  double value(uint32_t h) const { return reference(static_cast<uint16_t>(h), exponent_bits, mantissa_bits); }
};

class HalfTest : public testing::TestWithParam<Format> {};

TEST_P(HalfTest, WideningIsExact) {
  for (uint32_t h = 0; h < 65536; ++h)
    ASSERT_TRUE(same(GetParam().widen(static_cast<uint16_t>(h)), GetParam().value(h))) << h;
}

TEST_P(HalfTest, NarrowingInvertsWidening) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const uint16_t back = GetParam().narrow(GetParam().widen(static_cast<uint16_t>(h)));
    if (std::isnan(GetParam().value(h)))
      ASSERT_TRUE(std::isnan(GetParam().value(back))) << h;
    else
      ASSERT_EQ(back, h);
  }
}

// Between neighbours a < b the midpoint goes to the even one, and the floats beside it to their own side.
TEST_P(HalfTest, RoundsToNearestEven) {
  const Format& f = GetParam();
  const uint32_t infinity = ((1u << f.exponent_bits) - 1) << f.mantissa_bits;
  for (uint32_t sign : {0u, 0x8000u})
    for (uint32_t a = 0; a < infinity; ++a) {
      const double low = f.value(a);
      // Past the largest finite value the neighbour is where the next one would be: overflow begins at half a
      // step.
      const double high = a + 1 < infinity ? f.value(a + 1) : 2 * f.value(a) - f.value(a - 1);
      const double middle = (low + high) / 2;
      const auto exact = static_cast<float>(middle);
      if (exact != middle) continue;  // BF16 subnormal midpoints at the edge of float32
      const auto signed_float = [&](float v) { return sign ? -v : v; };
      ASSERT_EQ(f.narrow(signed_float(exact)), sign | (a % 2 == 0 ? a : a + 1)) << a;
      ASSERT_EQ(f.narrow(signed_float(std::nextafter(exact, 0.0f))), sign | a) << a;
      ASSERT_EQ(f.narrow(signed_float(std::nextafter(exact, std::numeric_limits<float>::infinity()))),
                sign | (a + 1))
          << a;
    }
}

TEST_P(HalfTest, NaNStaysNaN) {
  const Format& f = GetParam();
  for (uint32_t u : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu})
    EXPECT_TRUE(std::isnan(f.value(f.narrow(std::bit_cast<float>(u))))) << u;
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(f.value(f.narrow(infinity)), infinity);
  EXPECT_EQ(f.value(f.narrow(-infinity)), -infinity);
  EXPECT_EQ(f.value(f.narrow(std::numeric_limits<float>::max())), infinity);
}

TEST_P(HalfTest, RandomFloatsGoToTheNearest) {
  const Format& f = GetParam();
  std::mt19937 random(7);
  for (int i = 0; i < 200000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(random()));
    const uint16_t h = f.narrow(x);
    const double v = f.value(h);
    if (std::isnan(x) || std::isinf(v)) continue;
    const double error = std::abs(v - x);
    for (const int step : {-1, 1}) {
      const double other = f.value((h + step) & 0xffff);
      ASSERT_TRUE(!std::isfinite(other) || error <= std::abs(other - x)) << x;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, HalfTest,
                         testing::Values(Format{5, 10, fp16_to_float, float_to_fp16},
                                         Format{8, 7, bf16_to_float, float_to_bf16}),
                         [](const auto& test) { return test.param.exponent_bits == 5 ? "FP16" : "BF16"; });

}  // namespace
}  // namespace hlwq
