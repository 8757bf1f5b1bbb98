#include "quant/trellis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <new>
#include <string>

#include "hlwq/error.h"

namespace hlwq {
namespace {

/// The search by its definition, one sequence at a time: the least sum of squared distances in units of
/// 2^-20.
void scalar_search(const TrellisTables& t, const TrellisRange& r, const int* anchors, TrellisScratch& scratch,
                   TrellisScratch::Fit* fit) {
  const int levels = t.levels, groups = t.groups();
  constexpr int64_t kNever = int64_t{1} << 60;
  // Costs of states [newest][oldest], and for each value the oldest code of the best way into each state.
  std::vector<int64_t> cost(static_cast<size_t>(t.states), anchors ? kNever : 0), next(cost.size());
  if (anchors) cost[static_cast<size_t>(anchors[0])] = 0;
  std::vector<uint8_t> from(static_cast<size_t>(r.n) * cost.size());
  for (int i = 0, at = r.cut; i < r.n; ++i, at = r.next(at)) {
    constexpr float kLimit = TrellisTables::kMaxInput;
    const float x = scratch.input()[at] * r.factor * TrellisTables::kOne;
    const int u = static_cast<int>(std::lrint(std::clamp(x, -kLimit, kLimit)));
    for (int g = 0; g < groups; ++g)
      for (int q = 0; q < levels; ++q) {
        const int v = u - t.fixed[0][q] - (t.lags == 3 ? t.fixed[1][g] : 0);
        int64_t best = std::numeric_limits<int64_t>::max();
        int oldest = 0;
        for (int p = 0; p < levels; ++p) {
          const int64_t d = v - t.fixed[t.lags - 1][p];
          const int64_t sum = cost[static_cast<size_t>(t.lags == 3 ? g * levels + p : p)] + d * d;
          if (sum < best) best = sum, oldest = p;
        }
        const auto to = static_cast<size_t>(q * groups + g);
        next[to] = best;
        from[static_cast<size_t>(i) * cost.size() + to] = static_cast<uint8_t>(oldest);
      }
    cost.swap(next);
  }

  size_t state = anchors ? static_cast<size_t>(anchors[0])
                         : static_cast<size_t>(std::min_element(cost.begin(), cost.end()) - cost.begin());
  TrellisScratch::Fit sums{0, 0, 0};
  for (int i = r.n - 1; i >= 0; --i) {
    const size_t q = state / static_cast<size_t>(groups), g = state % static_cast<size_t>(groups);
    const size_t p = from[static_cast<size_t>(i) * cost.size() + state];
    scratch.codes()[i] = static_cast<uint8_t>(q);
    float c = t.values[0][q];
    if (t.lags == 3) c += t.values[1][g];
    c += t.values[t.lags - 1][p];
    const float d = std::fma(scratch.input()[(r.cut + i) % r.block], -r.factor, c);
    sums = {std::fma(d, d, sums.error), std::fma(d, c, sums.residual), std::fma(c, c, sums.square)};
    state = t.lags == 3 ? g * static_cast<size_t>(levels) + p : p;
  }
  if (fit) fit[0] = sums;
}

const Codebook& checked(const Codebook& c) {
  const std::string what = "no trellis for a codebook of " + std::to_string(c.bits) + " bits and " +
                           std::to_string(c.lags) + " lags: ";
  if (c.lags < 2 || c.lags > 3 || c.bits < 2 || c.bits > 6 ||
      c.values.size() != static_cast<size_t>(c.lags) << c.bits)
    throw Error(ErrorCode::kInvalidArgument, what + "it needs 2 to 6 bits and 2 or 3 lags");
  double reach = 0;
  for (int lag = 0; lag < c.lags; ++lag) {
    double largest = 0;
    for (int q = 0; q < 1 << c.bits; ++q) {
      const double value = c.values[static_cast<size_t>(lag << c.bits | q)];
      largest = std::isfinite(value) ? std::max(largest, std::abs(value)) : INFINITY;
      if (std::isinf(largest)) break;
    }
    reach += largest;
  }
  if (!(reach * TrellisTables::kOne <= TrellisTables::kMaxReach))
    throw Error(ErrorCode::kInvalidArgument, what + "its values reach " + std::to_string(reach) +
                                                 " standard deviations, and 6 is the limit");
  return c;
}

constexpr std::align_val_t kLine{64};

}  // namespace

TrellisTables::TrellisTables(const Codebook& codebook)
    : bits(checked(codebook).bits), lags(codebook.lags), levels(1 << bits), states(1 << (bits * (lags - 1))) {
  for (int lag = 0; lag < lags; ++lag)
    for (int q = 0; q < levels; ++q) {
      values[lag][q] = codebook.values[static_cast<size_t>(lag * levels + q)];
      fixed[lag][q] = static_cast<int32_t>(std::lrint(values[lag][q] * kOne));
    }
  for (int p = 0; p < levels; ++p)
    for (int q = 0; q < levels; ++q) cross[p * levels + q] = 2 * fixed[0][q] * fixed[lags - 1][p];
  const auto pair = [](int low, int high) {
    return static_cast<int32_t>((static_cast<uint32_t>(low) & 0xffff) | static_cast<uint32_t>(high) << 16);
  };
  for (int s = 0; s < states; ++s) {
    const int newest = s / groups(), oldest = s % groups();
    const int t0 = fixed[0][newest], t1 = lags == 3 ? fixed[1][oldest] : 0;  // of the value that is done
    const int rest = fixed[1][newest] + (lags == 3 ? fixed[2][oldest] : 0);  // in the next one
    const int done = t0 * t0 + 2 * t0 * t1;
    slopes.push_back(pair(-2 * t0, -2 * rest));
    last_slopes.push_back(pair(-2 * t0, 0));
    first_constants.push_back(rest * rest);
    constants.push_back(done + rest * rest);
    last_constants.push_back(done);
  }
}

void TrellisScratch::Free::operator()(void* p) const { ::operator delete(p, kLine); }

void TrellisScratch::reserve(const TrellisTables& tables, int block, int width) {
  const size_t values = static_cast<size_t>(block + 1) * static_cast<size_t>(width);
  const auto states = static_cast<size_t>(tables.states);
  const auto grown = []<class T>(Buffer<T>& buffer, size_t count) {
    buffer.reset(static_cast<T*>(::operator new(count * sizeof(T), kLine)));
  };
  if (values * states > states_) grown(costs_, states_ = values * states);
  if (values <= values_) return;
  values_ = values;
  grown(input_, values);
  grown(pairs_, values);
  grown(codes_, values);
}

const TrellisSearch kScalarTrellis = {"scalar", 1, scalar_search};

const TrellisSearch& select_trellis([[maybe_unused]] const CpuFeatures& cpu) {
#if defined(__x86_64__)
  if (cpu.avx512) return kAvx512Trellis;
  if (cpu.avx2) return kAvx2Trellis;
#endif
  return kScalarTrellis;
}

TrellisEncoder::TrellisEncoder(const Codebook& codebook, const CpuFeatures& cpu)
    : tables_(codebook), search_(select_trellis(cpu)) {}

void TrellisEncoder::encode(const float* u, int block, size_t blocks, int tries, TrellisScratch& scratch,
                            uint8_t* q) const {
  const auto width = static_cast<size_t>(search_.width), values = static_cast<size_t>(block);
  scratch.reserve(tables_, block, search_.width);
  for (size_t b = 0; b < blocks; b += width)
    encode_tile(u + b * values, block, static_cast<int>(std::min(width, blocks - b)), tries, scratch,
                q + b * values);
}

void TrellisEncoder::encode_tile(const float* u, int block, int lanes, int tries, TrellisScratch& scratch,
                                 uint8_t* q) const {
  constexpr int kMax = TrellisSearch::kMaxWidth;
  const int width = search_.width, window = trellis_window(tables_.lags, block), cut = block / 2;
  int anchors[kMax] = {};
  std::array<float, kMax> best;
  TrellisScratch::Fit fit[kMax];
  for (int i = 0; i < block; ++i)
    for (int lane = 0; lane < width; ++lane)
      scratch.input()[i * width + lane] = lane < lanes ? u[static_cast<ptrdiff_t>(lane) * block + i] : 0;
  for (int k = 0; k < tries; ++k) {
    const float factor = trellis_factor(k);
    search_.search(tables_, {block, cut - window / 2, window, factor}, nullptr, scratch, nullptr);
    const uint8_t* newest = scratch.codes() + (window / 2 - 1) * width;
    for (int lane = 0; lane < width; ++lane)
      anchors[lane] = tables_.lags == 2 ? newest[lane] : newest[lane] * tables_.levels + newest[lane - width];
    search_.search(tables_, {block, cut, block, factor}, anchors, scratch, fit);
    for (int lane = 0; lane < lanes; ++lane) {
      // With u' = factor * u, the least |u' - s c|^2 over s, in units of u.
      const TrellisScratch::Fit& f = fit[lane];
      const float gain = f.square > 0 ? f.residual * f.residual / f.square : 0;
      const float error = (f.error - gain) / (factor * factor);
      if (k > 0 && !(error < best[static_cast<size_t>(lane)])) continue;
      best[static_cast<size_t>(lane)] = error;
      uint8_t* codes = q + static_cast<ptrdiff_t>(lane) * block;
      for (int i = 0, at = cut; i < block; ++i, at = at + 1 == block ? 0 : at + 1)
        codes[at] = scratch.codes()[i * width + lane];
    }
  }
}

void trellis_reference(const Codebook& codebook, const float* u, int block, uint8_t* q) {
  TrellisScratch scratch;
  TrellisEncoder(codebook, CpuFeatures{}).encode(u, block, 1, 1, scratch, q);
}

}  // namespace hlwq
