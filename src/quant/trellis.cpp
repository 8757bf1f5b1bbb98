#include "quant/trellis.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <string>

#include "hlwq/error.h"

namespace hlwq {
namespace {

constexpr int kMaxBlock = 512;
/// Values of the first search: longer ones lower the error by less than 0.1 % (0.2 % at 4 bits with three
/// lags).
constexpr int window_size(int lags) { return lags == 2 ? 48 : 96; }

/// The search written plainly, one sequence at a time.
void scalar_search(const TrellisTables& t, int n, const int* anchors, TrellisScratch& scratch,
                   TrellisScratch::Sums* fit) {
  const int levels = t.levels, groups = t.groups();
  const float* oldest = t.oldest();
  float *cost = scratch.costs(), *next = cost + t.states;
  std::fill_n(cost, t.states, anchors ? std::numeric_limits<float>::infinity() : 0);
  if (anchors) cost[anchors[0]] = 0;
  for (int i = 0; i < n; ++i) {
    for (int g = 0; g < groups; ++g) {
      float* a = scratch.sums() + static_cast<ptrdiff_t>(i) * t.states + g * levels;
      const float v = groups == 1 ? scratch.input()[i] : scratch.input()[i] - t.table[1][g];
      for (int p = 0; p < levels; ++p) {
        const float w = v - oldest[p];
        a[p] = std::fma(w, w, cost[p * groups + g]);
      }
      for (int q = 0; q < levels; ++q) {
        float best = a[0] + t.cross[q];
        for (int p = 1; p < levels; ++p) best = std::min(best, a[p] + t.cross[p * levels + q]);
        next[g * levels + q] = best + std::fma(t.minus_twice[q], v, t.square[q]);
      }
    }
    std::swap(cost, next);
  }

  int state = anchors ? anchors[0] : static_cast<int>(std::min_element(cost, cost + t.states) - cost);
  TrellisScratch::Sums sums{0, 0, 0};
  for (int i = n - 1; i >= 0; --i) {
    const int q = state & (levels - 1), g = state >> t.bits;
    const float* a = scratch.sums() + static_cast<ptrdiff_t>(i) * t.states + g * levels;
    int p = 0;
    for (int k = 1; k < levels; ++k)
      if (a[k] + t.cross[k * levels + q] < a[p] + t.cross[p * levels + q]) p = k;
    scratch.codes()[i] = static_cast<uint8_t>(q);
    const float c = (groups == 1 ? t.table[0][q] : t.table[0][q] + t.table[1][g]) + oldest[p];
    const float d = scratch.input()[i] - c;
    sums = {std::fma(d, d, sums.error), std::fma(d, c, sums.residual), std::fma(c, c, sums.square)};
    state = p * groups + g;
  }
  if (fit) fit[0] = sums;
}

template <class T, class Buffer>
void grow(Buffer& buffer, size_t& size, size_t wanted) {
  if (wanted <= size) return;
  constexpr std::align_val_t kLine{64};
  buffer.reset(static_cast<T*>(::operator new(wanted * sizeof(T), kLine)));
  size = wanted;
}

/// to[i, lane] = u[lane, (cut + i) mod block] * factor[lane]; lanes past `lanes` are zero.
void turn(const float* u, int block, int lanes, int cut, int n, const float* factor, int width, float* to) {
  for (int lane = 0; lane < width; ++lane) {
    const float* from = u + static_cast<ptrdiff_t>(lane) * block;
    for (int i = 0, at = cut; i < n; ++i, at = at + 1 == block ? 0 : at + 1)
      to[i * width + lane] = lane < lanes ? from[at] * factor[lane] : 0;
  }
}

}  // namespace

TrellisTables::TrellisTables(const Codebook& codebook)
    : bits(codebook.bits), lags(codebook.lags), levels(1 << bits), states(1 << (bits * (lags - 1))) {
  for (int lag = 0; lag < lags; ++lag) std::copy_n(codebook.values.data() + lag * levels, levels, table[lag]);
  for (int q = 0; q < levels; ++q) {
    minus_twice[q] = -2 * table[0][q];
    square[q] = table[0][q] * table[0][q];
    for (int p = 0; p < levels; ++p) cross[p * levels + q] = 2 * table[0][q] * oldest()[p];
  }
}

void TrellisScratch::Free::operator()(void* p) const { ::operator delete (p, std::align_val_t{64}); }

void TrellisScratch::reserve(const TrellisTables& tables, int n, int width) {
  const size_t values = static_cast<size_t>(n) * static_cast<size_t>(width);
  grow<float>(input_, input_size_, values);
  grow<uint8_t>(codes_, codes_size_, values);
  grow<float>(costs_, costs_size_, 2 * static_cast<size_t>(tables.states) * static_cast<size_t>(width));
  grow<float>(sums_, sums_size_, values * static_cast<size_t>(tables.states));
}

const TrellisSearch kScalarTrellis = {"scalar", 1, scalar_search};

const TrellisSearch& select_trellis([[maybe_unused]] const CpuFeatures& cpu) {
#if defined(__x86_64__)
  if (cpu.avx512) return kAvx512Trellis;
  if (cpu.avx2) return kAvx2Trellis;
#endif
  return kScalarTrellis;
}

namespace {
const Codebook& checked(const Codebook& c) {
  if (c.lags < 2 || c.lags > 3 || c.bits < 2 || c.bits > 6 ||
      c.values.size() != static_cast<size_t>(c.lags) << c.bits)
    throw Error(ErrorCode::kInvalidArgument, "no trellis for a codebook of " + std::to_string(c.bits) +
                                                 " bits and " + std::to_string(c.lags) +
                                                 " lags: it needs 2 to 6 bits and 2 or 3 lags");
  return c;
}
}  // namespace

TrellisEncoder::TrellisEncoder(const Codebook& codebook, const CpuFeatures& cpu)
    : tables_(checked(codebook)), search_(select_trellis(cpu)) {}

void TrellisEncoder::encode(const float* u, int block, size_t blocks, int rounds, TrellisScratch& scratch,
                            uint8_t* q) const {
  const auto width = static_cast<size_t>(search_.width), values = static_cast<size_t>(block);
  scratch.reserve(tables_, block, search_.width);
  for (size_t b = 0; b < blocks; b += width)
    encode_tile(u + b * values, block, static_cast<int>(std::min(width, blocks - b)), rounds, scratch,
                q + b * values);
}

void TrellisEncoder::encode_tile(const float* u, int block, int lanes, int rounds, TrellisScratch& scratch,
                                 uint8_t* q) const {
  constexpr int kMax = TrellisSearch::kMaxWidth;
  const int width = search_.width, older = tables_.lags - 1;
  const int window = std::min(block, window_size(tables_.lags));
  float factor[kMax], best[kMax];
  int anchors[kMax] = {};
  TrellisScratch::Sums fit[kMax];
  std::fill_n(factor, kMax, 1.0f);
  std::fill_n(best, kMax, std::numeric_limits<float>::infinity());

  int cut = block / 2;
  turn(u, block, lanes, cut - window / 2, window, factor, width, scratch.input());
  search_.search(tables_, window, nullptr, scratch, nullptr);
  for (int lane = 0; lane < lanes; ++lane)
    for (int lag = older; lag >= 1; --lag)
      anchors[lane] = anchors[lane] << tables_.bits | scratch.codes()[(window / 2 - lag) * width + lane];

  for (int round = 0; round < rounds; ++round, cut = (cut + block / 2) % block) {
    if (round > 0)
      for (int lane = 0; lane < lanes; ++lane) {
        anchors[lane] = 0;
        for (int lag = older; lag >= 1; --lag)
          anchors[lane] = anchors[lane] << tables_.bits | q[lane * block + (cut - lag + block) % block];
      }
    turn(u, block, lanes, cut, block, factor, width, scratch.input());
    search_.search(tables_, block, anchors, scratch, fit);
    for (int lane = 0; lane < lanes; ++lane) {
      // u' = factor u; the least-squares scale of c for u' is 1 + residual / square.
      const float scale = fit[lane].square > 0 ? fit[lane].residual / fit[lane].square : 0;
      const float error = (fit[lane].error - fit[lane].residual * scale) / (factor[lane] * factor[lane]);
      if (round > 0 && !(error < best[lane])) continue;
      best[lane] = error;
      if (scale > -0.5f) factor[lane] /= 1 + scale;
      for (int i = 0; i < block; ++i) q[lane * block + (cut + i) % block] = scratch.codes()[i * width + lane];
    }
  }
}

void trellis_reference(const Codebook& codebook, const float* u, int block, uint8_t* q) {
  TrellisScratch scratch;
  TrellisEncoder(codebook, CpuFeatures{}).encode(u, block, 1, 1, scratch, q);
}

}  // namespace hlwq
