#include "quant/int4.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/half.h"

namespace hlwq {
namespace {

/// Four floats: a vector instruction on every processor, and the same sums on each.
typedef float Four __attribute__((vector_size(16), may_alias));

constexpr float kLowest = -8, kHighest = 7;

/// Adding this and taking it away again rounds |x| < 2^22 to the nearest even integer.
constexpr float kRounder = 12582912.0f;

// Where the search looks: Gaussian groups of 32 want about 7.5, of 128 about 8.5, heavy tails more.
constexpr std::array<float, 15> kDivisors = {7, 7.25f, 7.5f, 7.75f, 8,  8.25f, 8.5f, 8.75f,
                                             9, 9.25f, 9.5f, 9.75f, 10, 10.5f, 11};

template <typename T>
T code_of(T x) {
  const T n = (x + kRounder) - kRounder;
  const T low = n < kLowest ? T{} + kLowest : n;
  return low > kHighest ? T{} + kHighest : low;
}

struct Sums {
  float wq = 0, qq = 0;  ///< weights times codes, codes squared
};

Sums sums_at(const Four* w, int n, float inverse) {
  Four wq[2] = {}, qq[2] = {};
  for (int i = 0; i < n / 4; i += 2)
    for (int j = 0; j < 2; ++j) {
      const Four q = code_of(w[i + j] * inverse);
      wq[j] += w[i + j] * q;
      qq[j] += q * q;
    }
  const Four a = wq[0] + wq[1], b = qq[0] + qq[1];
  return {(a[0] + a[1]) + (a[2] + a[3]), (b[0] + b[1]) + (b[2] + b[3])};
}

float to_bf16(float x) { return bf16_to_float(float_to_bf16(x)); }

/// The scale for weights of magnitude up to 1, the largest being `most`.
float best_scale(const Four* w, int n, float most) {
  float best = to_bf16(most / kDivisors[0]);
  // Squared error less the weights' own square, which does not depend on the choice.
  float least = INFINITY;
  const auto consider = [&](float scale, const Sums& s) {
    const float error = scale * (scale * s.qq - 2 * s.wq);
    if (error < least) {
      least = error;
      best = scale;
    }
  };
  for (const float d : kDivisors) {
    const float scale = to_bf16(most / d);
    const Sums s = sums_at(w, n, 1 / scale);
    consider(scale, s);
    // The best scale for these codes; weights are rounded anew at it, which errs less or as much.
    if (s.wq > 0 && s.qq > 0) consider(to_bf16(s.wq / s.qq), s);
  }
  return best;
}

}  // namespace

CodecStats round_int4_row(std::span<const float> row, int group, uint32_t* packed, uint16_t* scales) {
  CodecStats stats;
  alignas(Four) std::array<float, 128> unit;
  for (size_t g = 0; g * group < row.size(); ++g) {
    const float* w = row.data() + g * group;
    float most = 0;
    for (int i = 0; i < group; ++i) most = std::max(most, std::abs(w[i]));
    int exponent = 0;
    std::frexp(most, &exponent);
    const bool zero = most == 0 || exponent < -99;
    float scale = 1;
    if (zero) {
      unit.fill(0);
    } else {
      // Brought to magnitudes of about 1 by a power of two, exactly, no square over- or underflows.
      exponent = std::min(exponent, 126);
      const float shrink = std::ldexp(1.0f, -exponent);
      for (int i = 0; i < group; ++i) unit[i] = w[i] * shrink;
      scale = best_scale(reinterpret_cast<const Four*>(unit.data()), group, most * shrink);
    }
    const float inverse = 1 / scale, stored = zero ? 1 : std::ldexp(scale, exponent);
    scales[g] = float_to_bf16(stored);
    uint32_t* words = packed + g * group / 8;
    for (int i = 0; i < group; i += 8) {
      uint32_t word = 0;
      for (int j = 0; j < 8; ++j) {
        const float q = code_of(unit[i + j] * inverse);
        word |= static_cast<uint32_t>(static_cast<int>(q) + 8) << (4 * j);
        const double x = w[i + j], d = static_cast<double>(stored) * q;
        stats += {x * x, (x - d) * (x - d), x * d, d * d};
      }
      words[i / 8] = word;
    }
  }
  return stats;
}

void decode_int4_row(const uint32_t* packed, const uint16_t* scales, int group, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    const int code = static_cast<int>(packed[i / 8] >> (4 * (i % 8)) & 15) - 8;
    out[i] = static_cast<float>(code) * bf16_to_float(scales[i / group]);
  }
}

}  // namespace hlwq
