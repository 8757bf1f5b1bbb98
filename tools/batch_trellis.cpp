#include "batch_trellis.h"

#include <algorithm>

namespace hlwq::training {
namespace {

constexpr float kFar = 1e30f;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

/// out[q] = min over r of (in[r] + matrix[r][q]), for each lane.
template <int L>
void min_plus(const float* in, const float* matrix, float* out) {
  constexpr int kTile = L < 8 ? L : 8;
  const auto row = [in](int r) { return *reinterpret_cast<const Lanes*>(in + r * kLanes); };
  for (int q0 = 0; q0 < L; q0 += kTile) {
    Lanes best[kTile];
    const Lanes first = row(0);
#pragma GCC unroll 8
    for (int q = 0; q < kTile; ++q) best[q] = first + matrix[q0 + q];
    for (int r = 1; r < L; ++r) {
      const Lanes x = row(r);
#pragma GCC unroll 8
      for (int q = 0; q < kTile; ++q) {
        const Lanes c = x + matrix[r * L + q0 + q];
        best[q] = c < best[q] ? c : best[q];
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < kTile; ++q) *reinterpret_cast<Lanes*>(out + (q0 + q) * kLanes) = best[q];
  }
}

}  // namespace

Tables Tables::odd(int bits, int lags, std::span<const double> positive) {
  Tables t{bits, lags, {}};
  const size_t half = static_cast<size_t>(t.half());
  for (int l = 0; l < lags; ++l)
    for (const int sign : {1, -1})
      for (size_t m = 0; m < half; ++m)
        t.values.push_back(static_cast<float>(sign * positive[static_cast<size_t>(l) * half + m]));
  return t;
}

BatchTrellis::BatchTrellis(int bits, int lags, int length)
    : bits_(bits),
      lags_(lags),
      length_(length),
      states_(1 << (bits * (lags - 1))),
      matrix_(size_t{1} << (2 * bits)),
      biased_(static_cast<size_t>(length) * states_ * kLanes),
      cost_(static_cast<size_t>(states_) * kLanes) {}

template <int L>
void BatchTrellis::search_levels(const Tables& tables, const float* u, uint8_t* q) {
  const float *t0 = tables.lag(0), *last = tables.lag(lags_ - 1);
  float twice[L];
  for (int c = 0; c < L; ++c) twice[c] = 2 * t0[c];
  for (int r = 0; r < L; ++r)
    for (int c = 0; c < L; ++c) matrix_[static_cast<size_t>(r * L + c)] = twice[c] * last[r];

  // cost_ is [older code r][newer code p] for two older codes, so that the step's result, [code q] for one p,
  // lands where the next step reads it with p as the older.
  const int groups = states_ / L;
  std::fill(cost_.begin(), cost_.end(), 0.0f);
  std::vector<float> column(static_cast<size_t>(L) * kLanes);
  for (int t = 0; t < length_; ++t) {
    const float* ut = u + static_cast<size_t>(t) * kLanes;
    float* biased = biased_.data() + static_cast<size_t>(t) * states_ * kLanes;
    for (int p = 0; p < groups; ++p) {
      float v[kLanes];
      const float newer = groups > 1 ? tables.lag(1)[p] : 0;
      for (int i = 0; i < kLanes; ++i) v[i] = ut[i] - newer;
      float* in = biased + static_cast<size_t>(p) * L * kLanes;
      for (int r = 0; r < L; ++r) {
        const float square = last[r] * last[r], slope = -2 * last[r];
        const float* c = cost_.data() + (static_cast<size_t>(r) * groups + p) * kLanes;
        for (int i = 0; i < kLanes; ++i) in[r * kLanes + i] = c[i] + (square + v[i] * slope);
      }
    }
    for (int p = 0; p < groups; ++p) {
      float v[kLanes];
      const float newer = groups > 1 ? tables.lag(1)[p] : 0;
      for (int i = 0; i < kLanes; ++i) v[i] = ut[i] - newer;
      // The code p, newest so far, becomes the older one.
      float* out = cost_.data() + static_cast<size_t>(p) * (groups > 1 ? L : 0) * kLanes;
      min_plus<L>(biased + static_cast<size_t>(p) * L * kLanes, matrix_.data(), out);
      for (int c = 0; c < L; ++c)
        for (int i = 0; i < kLanes; ++i) {
          const float d = v[i] - t0[c];
          out[c * kLanes + i] += d * d;
        }
    }
  }

  // The last state: newest code `now`, and `before` when there are two.
  int now[kLanes] = {}, before[kLanes] = {};
  {
    float least[kLanes];
    std::fill(least, least + kLanes, kFar);
    for (int s = 0; s < states_; ++s)
      for (int i = 0; i < kLanes; ++i) {
        const float c = cost_[static_cast<size_t>(s) * kLanes + i];
        if (c < least[i]) least[i] = c, now[i] = s % L, before[i] = s / L;
      }
  }
  for (int t = length_ - 1; t >= 0; --t) {
    const float* biased = biased_.data() + static_cast<size_t>(t) * states_ * kLanes;
    uint8_t* qt = q + static_cast<size_t>(t) * kLanes;
    float a[kLanes], least[kLanes];
    int from[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      qt[i] = static_cast<uint8_t>(now[i]);
      a[i] = twice[now[i]];
      least[i] = kFar;
      from[i] = 0;
    }
    if (groups == 1) {
      for (int r = 0; r < L; ++r) {
        const float x = last[r];
        for (int i = 0; i < kLanes; ++i) {
          const float c = biased[r * kLanes + i] + a[i] * x;
          const bool less = c < least[i];
          least[i] = less ? c : least[i];
          from[i] = less ? r : from[i];
        }
      }
      for (int i = 0; i < kLanes; ++i) now[i] = from[i];
    } else {
      for (int i = 0; i < kLanes; ++i) {
        const float* in = biased + static_cast<size_t>(before[i]) * L * kLanes + i;
        for (int r = 0; r < L; ++r) {
          const float c = in[r * kLanes] + a[i] * last[r];
          if (c < least[i]) least[i] = c, from[i] = r;
        }
      }
      for (int i = 0; i < kLanes; ++i) now[i] = before[i], before[i] = from[i];
    }
  }
}

void BatchTrellis::search(const Tables& tables, const float* u, uint8_t* q) {
  switch (bits_) {
    case 2:
      return search_levels<4>(tables, u, q);
    case 3:
      return search_levels<8>(tables, u, q);
    case 4:
      return search_levels<16>(tables, u, q);
    case 5:
      return search_levels<32>(tables, u, q);
    default:
      return search_levels<64>(tables, u, q);
  }
}

}  // namespace hlwq::training
