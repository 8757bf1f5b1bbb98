// The trellis search of quant/trellis_search.h on the GPU, with its integers and so with its codes.
//
// A block belongs to as many lanes of a warp as there are states, at most 32; a warp takes several blocks
// when there are fewer. Lane l owns the states l, l + 32, ..., which all have the same oldest code g, so that
// it needs one group's costs, A_t[g][.], for all of them: one addition and one minimum a state and
// predecessor. With many levels neighbouring lanes read a part of the group each, for the states of all of
// them, and exchange their minima: a quarter (at 4 bits half) of the loads for as many sums, which measured
// alike at 4 and 5 bits. A stays where it was written until the way back has found the decisions in it: in
// shared memory if enough warps fit, else in the caller's.
#pragma once

#include <cstdint>

#include "quant/trellis_search.h"

namespace hlwq::cuda {

/// TrellisTables in device memory.
struct DeviceTrellis {
  const int32_t* fixed;  ///< [lags][levels]
  const float* values;   ///< [lags][levels]
  /// [states]
  const int32_t *slopes, *constants, *last_slopes, *last_constants, *first_constants;
};

struct TrellisFactors {
  float of[kTrellisTries];
};

template <int kBits, int kLags>
struct TrellisShape {
  static constexpr int kLevels = 1 << kBits;
  static constexpr int kGroups = kLags == 3 ? kLevels : 1;
  static constexpr int kStates = kLevels * kGroups;
  static constexpr int kLanes = kStates < 32 ? kStates : 32;  ///< of a block
  static constexpr int kBlocks = 32 / kLanes;                 ///< of a warp
  static constexpr int kOwn = kStates / kLanes;               ///< states of a lane
  static constexpr int kRow = kBlocks * kStates;              ///< costs of a warp before one value

  /// Bytes of A over all values of a block, for a warp.
  static constexpr uint64_t history_bytes(int block) { return sizeof(int32_t) * uint64_t{kRow} * block; }
  /// Of a warp; everything else than A.
  static constexpr uint64_t other_shared_bytes(int block) {
    return sizeof(float) * (kLags + 1) * kLevels + (2 * sizeof(float) + 2) * uint64_t{kBlocks} * block;
  }
  static constexpr uint64_t shared_bytes(int block, bool history) {
    return other_shared_bytes(block) + (history ? history_bytes(block) : 2 * sizeof(int32_t) * kRow);
  }
};

/// One warp's search over its blocks. Values, codes and costs of its blocks are interleaved in shared memory,
/// so that lanes of different blocks use different banks.
template <int kBits, int kLags, bool kHistoryInShared>
class TrellisWarp : TrellisShape<kBits, kLags> {
  using Shape = TrellisShape<kBits, kLags>;
  using Shape::kBlocks;
  using Shape::kGroups;
  using Shape::kLanes;
  using Shape::kLevels;
  using Shape::kOwn;
  using Shape::kRow;
  using Shape::kStates;
  static constexpr unsigned kAll = 0xffffffffu;
  static constexpr int kMost = 0x7fffffff;
  static constexpr int kShare = kLags == 3 || kLevels < 16 ? 1
                                : kLevels == 16            ? 2
                                                           : 4;  // lanes of a group's parts
  static constexpr int kPart = kLevels / kShare;
  static constexpr int kSums = kOwn * kShare;
  static constexpr int kChains = kSums >= 4 ? 1 : 4 / kSums;  // independent minima of a state
  static constexpr int kWidth = kLevels < 32 ? kLevels : 32;  // lanes that seek the oldest code
  static constexpr int kCandidates = kLevels / kWidth;        // of each of them
  static constexpr unsigned kWidthMask = kWidth == 32 ? kAll : (1u << (kWidth & 31)) - 1;

 public:
  /// history: this warp's part of the caller's memory, unless it is in shared memory.
  __device__ TrellisWarp(const DeviceTrellis& t, int block, void* shared, int32_t* history)
      : tables_(t), block_(block), lane_(static_cast<int>(threadIdx.x) & 31) {
    const int values = block * kBlocks;
    rows_ = static_cast<int32_t*>(shared);
    history_ = kHistoryInShared ? rows_ : history;
    input_ = reinterpret_cast<float*>(rows_ + (kHistoryInShared ? block : 2) * kRow);
    rounded_ = reinterpret_cast<int32_t*>(input_ + values);
    value_table_ = reinterpret_cast<float*>(rounded_ + values);
    newest_table_ = reinterpret_cast<int32_t*>(value_table_ + kLags * kLevels);
    codes_ = reinterpret_cast<uint8_t*>(newest_table_ + kLevels);
    segment_ = lane_ / kLanes;
    state_ = lane_ % kLanes;
    group_ = state_ % kGroups;
    for (int i = lane_; i < kLags * kLevels; i += 32) value_table_[i] = t.values[i];
    for (int i = lane_; i < kLevels; i += 32) newest_table_[i] = t.fixed[i];
    const int32_t* oldest = t.fixed + (kLags - 1) * kLevels;
    part_ = state_ % kShare;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int s = state_ + k * kLanes;
      done_[k] = low(t.slopes[s]);
      rest_[k] = high(t.slopes[s]);
      constant_[k] = t.constants[s];
#pragma unroll
      for (int r = 0; r < kShare; ++r) {
        const int twice = 2 * t.fixed[(s - part_ + r) / kGroups];
#pragma unroll
        for (int p = 0; p < kPart; ++p) cross_[k * kShare + r][p] = twice * oldest[part_ * kPart + p];
      }
    }
#pragma unroll
    for (int j = 0; j < kCandidates; ++j) oldest_[j] = oldest[state_ % kWidth + j * kWidth];
  }

  /// Codes q [kBlocks, block] of u [kBlocks, block], of which `count` blocks are there.
  __device__ void encode(const float* u, int count, const TrellisFactors& factors, uint8_t* q) {
    const int values = block_ * kBlocks, cut = block_ / 2, window = trellis_window(kLags, block_);
    __syncwarp();
    for (int b = 0; b < kBlocks; ++b)
      for (int i = lane_; i < block_; i += 32)
        input_[i * kBlocks + b] = b < count ? u[static_cast<int64_t>(b) * block_ + i] : 0;
    float least = 0;
    int best = 0;  // which half of codes_ holds the best ones of this lane's block
    for (int k = 0; k < kTrellisTries; ++k) {
      const float factor = factors.of[k];
      __syncwarp();
      for (int i = lane_; i < values; i += 32) {
        constexpr float kLimit = TrellisTables::kMaxInput;
        const float x = __fmul_rn(__fmul_rn(input_[i], factor), TrellisTables::kOne);
        rounded_[i] = __float2int_rn(fminf(fmaxf(x, -kLimit), kLimit));
      }
      const int anchor = find_anchor(cut - window / 2, window, window / 2 - 1);
      forward<true>(cut, block_, anchor);
      const int to = k == 0 ? 0 : 1 - best;
      const float error = way_back(cut, anchor, factor, codes_ + to * values);
      if (k == 0 || error < least) least = error, best = to;
    }
    __syncwarp();
    for (int b = 0; b < count; ++b) {
      const uint8_t* from = codes_ + __shfl_sync(kAll, best, b * kLanes) * values;
      for (int i = lane_; i < block_; i += 32)
        q[static_cast<int64_t>(b) * block_ + i] = from[i * kBlocks + b];
    }
  }

 private:
  static __device__ int low(int32_t pair) { return static_cast<int16_t>(pair & 0xffff); }
  static __device__ int high(int32_t pair) { return pair >> 16; }

  /// Where the costs before value i of a search are written and read.
  __device__ int32_t* row(int i) const {
    return rows_ + (kHistoryInShared ? i : i & 1) * kRow + segment_ * kStates;
  }
  __device__ int32_t* kept_row(int i) const {
    return history_ + static_cast<int64_t>(i) * kRow + segment_ * kStates;
  }
  __device__ void store(int i, int k, int32_t cost) {
    row(i)[state_ + k * kLanes] = cost;
    if constexpr (!kHistoryInShared) kept_row(i)[state_ + k * kLanes] = cost;
  }
  __device__ int next(int at) const { return at + 1 == block_ ? 0 : at + 1; }

  /// x: sums over this lane's part of the predecessors, for each lane that shares them; this lane's over all.
  __device__ int exchange(int (&x)[kShare]) const {
#pragma unroll
    for (int half = kShare / 2; half > 0; half /= 2) {
      const bool upper = (part_ & half) != 0;
#pragma unroll
      for (int r = 0; r < half; ++r) {
        const int sent = upper ? x[r] : x[r + half];
        x[r] = min(upper ? x[r + half] : x[r], __shfl_xor_sync(kAll, sent, half));
      }
    }
    return x[0];
  }

  /// best: the least sums into this lane's states; offset: what is taken off them, the same for all states.
  __device__ void minima(const int32_t* costs, int (&best)[kOwn], int& offset) const {
    const int4* part = reinterpret_cast<const int4*>(costs + group_ * kLevels + part_ * kPart);
    // With two lags the costs differ by less than a quarter of what an int holds, whichever is taken off.
    if constexpr (kLags == 2) offset = costs[0];
    int chain[kSums][kChains];
#pragma unroll
    for (int p = 0; p < kPart; p += 4) {
      const int4 four = part[p / 4];
      const int a[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = 0; k < kSums; ++k) {
          int& c = chain[k][j % kChains];
          c = p + j < kChains ? a[j] + cross_[k][p + j] : __viaddmin_s32(a[j], cross_[k][p + j], c);
        }
    }
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      int sums[kShare];
#pragma unroll
      for (int r = 0; r < kShare; ++r) {
        sums[r] = chain[k * kShare + r][0];
#pragma unroll
        for (int j = 1; j < kChains; ++j) sums[r] = min(sums[r], chain[k * kShare + r][j]);
      }
      best[k] = exchange(sums);
    }
    // With three, a cost of the first two steps may still be that of a forbidden start: this one is not.
    if constexpr (kLags == 3) offset = __shfl_sync(kAll, best[0], 0, kLanes);
  }

  /// Fills the rows 0 .. n - 1 of a search of n values from `cut`. Anchored: `anchor` is the state before the
  /// first value.
  template <bool kAnchored>
  __device__ void forward(int cut, int n, int anchor) {
    __syncwarp();  // rounded_ is complete, and nobody reads the last search's rows any more
    int now = rounded_[cut * kBlocks + segment_];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int s = state_ + k * kLanes;
      const int start = kAnchored && s != anchor ? TrellisTables::kForbidden : 0;
      store(0, k, start + rest_[k] * now + tables_.first_constants[s]);
    }
    for (int i = 0, at = cut; i + 1 < n; ++i) {
      at = next(at);
      const int then = rounded_[at * kBlocks + segment_];
      __syncwarp();
      int best[kOwn], offset;
      minima(row(i), best, offset);
#pragma unroll
      for (int k = 0; k < kOwn; ++k)
        store(i + 1, k, best[k] + (constant_[k] + done_[k] * now + rest_[k] * then - offset));
      now = then;
    }
    __syncwarp();
  }

  /// The least of all lanes of an aligned group of kSize.
  template <int kSize>
  static __device__ int group_min(int x) {
#if __CUDA_ARCH__ >= 800
    if constexpr (kSize == 32) {
      return __reduce_min_sync(kAll, x);
    } else if constexpr (kSize == 16) {
      const bool upper = (static_cast<int>(threadIdx.x) & 16) != 0;
      const int low_half = __reduce_min_sync(kAll, upper ? kMost : x);
      const int high_half = __reduce_min_sync(kAll, upper ? x : kMost);
      return upper ? high_half : low_half;
    } else
#endif
    {
#pragma unroll
      for (int step = 1; step < kSize; step *= 2) x = min(x, __shfl_xor_sync(kAll, x, step));
      return x;
    }
  }

  /// The least oldest code p of the state (q, g) after a value with the costs `a` [kCandidates] before it.
  __device__ int oldest_code(const int (&a)[kCandidates], int q) const {
    const int twice = 2 * newest_table_[q];
    int sum[kCandidates], least;
#pragma unroll
    for (int j = 0; j < kCandidates; ++j) {
      sum[j] = a[j] + twice * oldest_[j];
      least = j == 0 ? sum[0] : min(least, sum[j]);
    }
    least = group_min<kWidth>(least);
    int p = 0;
    bool found = false;
#pragma unroll
    for (int j = 0; j < kCandidates; ++j) {
      const unsigned who = __ballot_sync(kAll, sum[j] == least) >> (segment_ * kLanes) & kWidthMask;
      if (!found && who != 0) p = j * kWidth + __ffs(static_cast<int>(who)) - 1, found = true;
    }
    return p;
  }

  __device__ void load_costs(int i, int g, int (&a)[kCandidates]) const {
#pragma unroll
    for (int j = 0; j < kCandidates; ++j) a[j] = kept_row(i)[g * kLevels + state_ % kWidth + j * kWidth];
  }

  /// The state after value `wanted` on the best way, free at both ends, through n values from `cut`.
  __device__ int find_anchor(int cut, int n, int wanted) {
    forward<false>(cut, n, 0);
    // The last value's own terms only: nothing comes after it.
    int best[kOwn], offset, least;
    minima(row(n - 1), best, offset);
    const int last = rounded_[(cut + n - 1) * kBlocks + segment_];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int s = state_ + k * kLanes;
      best[k] += tables_.last_constants[s] + low(tables_.last_slopes[s]) * last - offset;
      least = k == 0 ? best[0] : min(least, best[k]);
    }
    least = group_min<kLanes>(least);
    int state = 0;
    bool found = false;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      constexpr unsigned kMask = kLanes == 32 ? kAll : (1u << (kLanes & 31)) - 1;
      const unsigned who = __ballot_sync(kAll, best[k] == least) >> (segment_ * kLanes) & kMask;
      if (!found && who != 0) state = k * kLanes + __ffs(static_cast<int>(who)) - 1, found = true;
    }
    int q = state / kGroups, g = state % kGroups, a[kCandidates];
    for (int i = n - 1; i > wanted; --i) {
      load_costs(i, g, a);
      const int p = oldest_code(a, q);
      q = kLags == 3 ? g : p;
      g = kLags == 3 ? p : 0;
    }
    return q * kGroups + g;
  }

  /// Codes of the whole ring from `cut` on, by their place in the block, and their error with the best scale.
  __device__ float way_back(int cut, int anchor, float factor, uint8_t* codes) {
    float error = 0, residual = 0, square = 0;
    int q = anchor / kGroups, g = anchor % kGroups, a[kCandidates];
    load_costs(block_ - 1, g, a);
    for (int i = block_ - 1, at = cut; i >= 0; --i) {
      at = at == 0 ? block_ - 1 : at - 1;
      int ahead[kCandidates];
      if (kLags == 2 && i > 0) load_costs(i - 1, 0, ahead);
      if (state_ == 0) codes[at * kBlocks + segment_] = static_cast<uint8_t>(q);
      const int p = oldest_code(a, q);
      float c = value_table_[q];
      if (kLags == 3) c = __fadd_rn(c, value_table_[kLevels + g]);
      c = __fadd_rn(c, value_table_[(kLags - 1) * kLevels + p]);
      const float d = __fmaf_rn(input_[at * kBlocks + segment_], -factor, c);
      error = __fmaf_rn(d, d, error);
      residual = __fmaf_rn(d, c, residual);
      square = __fmaf_rn(c, c, square);
      if constexpr (kLags == 2) {
        q = p;
#pragma unroll
        for (int j = 0; j < kCandidates; ++j) a[j] = ahead[j];
      } else {
        q = g;
        g = p;
        if (i > 0) load_costs(i - 1, g, a);
      }
    }
    const float gain = square > 0 ? __fdiv_rn(__fmul_rn(residual, residual), square) : 0;
    return __fdiv_rn(__fsub_rn(error, gain), __fmul_rn(factor, factor));
  }

  const DeviceTrellis& tables_;
  int block_, lane_, segment_, state_, group_, part_;
  int32_t *rows_, *history_, *rounded_, *newest_table_;
  float *input_, *value_table_;
  uint8_t* codes_;
  int32_t cross_[kSums][kPart], done_[kOwn], rest_[kOwn], constant_[kOwn], oldest_[kCandidates];
};

/// Codes q [blocks, block] of u [blocks, block]. Thread blocks of one warp; history: room for every warp of
/// the grid, or null when it is in shared memory.
template <int kBits, int kLags, bool kHistoryInShared>
__global__ void __launch_bounds__(32)
    trellis_kernel(const DeviceTrellis tables, const float* u, int block, uint64_t blocks,
                   const TrellisFactors factors, int32_t* history, uint8_t* q) {
  extern __shared__ int4 dynamic_shared[];
  using Shape = TrellisShape<kBits, kLags>;
  int32_t* kept =
      kHistoryInShared ? nullptr : history + static_cast<uint64_t>(blockIdx.x) * Shape::kRow * block;
  TrellisWarp<kBits, kLags, kHistoryInShared> warp(tables, block, dynamic_shared, kept);
  for (uint64_t b = static_cast<uint64_t>(blockIdx.x) * Shape::kBlocks; b < blocks;
       b += static_cast<uint64_t>(gridDim.x) * Shape::kBlocks) {
    const uint64_t left = blocks - b;
    const int count = left < Shape::kBlocks ? static_cast<int>(left) : Shape::kBlocks;
    warp.encode(u + b * block, count, factors, q + b * block);
  }
}

}  // namespace hlwq::cuda
