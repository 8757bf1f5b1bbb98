// One token: integer dot products on the codes, at the speed of memory. Warps stay for the whole call and
// take one group of rows after another; what they need next is on its way to shared memory while they
// compute. Where a matrix has few rows, several warps share a group and split its columns.
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/async_copy.cuh"
#include "cuda/chain.cuh"
#include "cuda/hlwq_words.cuh"
#include "cuda/linear_kernels.h"

namespace hlwq::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

// The integer products of a lane's 32 codes in each of kRows rows with one token.
template <int kBits, int kLags, int kRows>
struct LaneDots {
  int dot[kRows] = {}, low[kRows] = {};

  __device__ __forceinline__ void add(const LaneCodes<kBits> (&c)[kRows], const LinearCall& call,
                                      uint64_t x_granule, int l, int granule) {
#pragma unroll
    for (int lag = 0; lag < kLags; ++lag) {
      const auto* x = reinterpret_cast<const uint4*>(call.q[lag] + x_granule);
      const uint4 a = x[first_words<kBits>(l) / 4], b = x[second_words<kBits>(l, granule) / 4];
      const uint32_t xs[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        uint32_t w[8];
        if (lag == 0) decode_words<kBits, 0, (kLags > 1 || kBits < 6)>(c[r], call.tables, w);
        if (lag == 1) decode_words<kBits, 1, true>(c[r], call.tables, w);
        if (lag == 2) decode_words<kBits, 2, true>(c[r], call.tables, w);
#pragma unroll
        for (int i = 0; i < 8; ++i) dot[r] = __dp4a(static_cast<int>(w[i]), static_cast<int>(xs[i]), dot[r]);
        if constexpr (kBits == 6 && kLags == 1) {
          decode_words<6, 0, false, true>(c[r], call.tables, w);
#pragma unroll
          for (int i = 0; i < 8; ++i)
            low[r] = __dp4a(static_cast<int>(w[i]), static_cast<int>(xs[i]), low[r]);
        }
      }
    }
  }
  /// With the offset of every value, which only one lane of a block adds.
  __device__ __forceinline__ float value(int r, float offset) const {
    const float v = static_cast<float>(dot[r]) + offset;
    return kBits == 6 && kLags == 1 ? v + static_cast<float>(low[r]) * 0x1p-7f : v;
  }
};

template <int kRows>
__device__ __forceinline__ void sum_over_warp(float (&sum)[kRows]) {
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int i = 16; i > 0; i /= 2) sum[r] += __shfl_xor_sync(0xffffffff, sum[r], i);
}

// Granules of 128 codes. kSplit warps share a group of rows; of its steps of 8 granules each takes every
// kSplit-th.
template <int kBits, int kLags, int kSplit>
__global__ void __launch_bounds__(kThreads, 4)
    vector_kernel(const __grid_constant__ LinearCall call, uint32_t groups) {
  constexpr int kRows = 4, kStages = 3, kGranules = 8;
  constexpr int kPieces = kGranules * kBits;  // of 16 bytes in a row's step
  constexpr int kGranuleBytes = 16 * kBits, kRowBytes = kGranules * kGranuleBytes;
  __shared__ __align__(16) uint8_t memory[kWarps][kStages][kRows * kRowBytes];
  __shared__ float parts[kWarps][kRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, l = lane % 4, share = warp % kSplit;
  const uint32_t granules = call.granules, blocks = granules >> call.granules_shift;
  const uint32_t steps = ((granules + kGranules - 1) / kGranules + kSplit - 1) / kSplit;
  const uint32_t first_group = blockIdx.x * (kWarps / kSplit) + warp / kSplit,
                 stride = gridDim.x * (kWarps / kSplit);
  // As many rounds for every warp of a block, since they meet at the end of each.
  const uint32_t rounds = (groups - blockIdx.x * (kWarps / kSplit) + stride - 1) / stride;
  const uint64_t code_row = static_cast<uint64_t>(granules) * kGranuleBytes;

  // Where the next copies come from: round, step within it, and the matrix of that round.
  uint32_t copy_group = first_group, copy_step = 0;
  const auto copy = [&](int stage) {
    const uint32_t g = (copy_step * kSplit + share) * kGranules;
    if (copy_group < groups && g < granules) {
      const LinearPart& part = call.part_of(copy_group);
      const uint32_t row = (copy_group - part.first_group) * kRows;
      const int pieces = static_cast<int>(min(granules - g, static_cast<uint32_t>(kGranules))) * kBits;
#pragma unroll
      for (int i = 0; i < kRows * kPieces / 32; ++i) {
        const int piece = lane + 32 * i, r = piece / kPieces, at = piece % kPieces;
        if (at < pieces)
          copy_16(&memory[warp][stage][r * kRowBytes + at * 16],
                  part.codes + min(row + r, part.rows - 1) * code_row +
                      static_cast<uint64_t>(g) * kGranuleBytes + at * 16);
      }
    }
    copies_end();
    if (++copy_step == steps) copy_step = 0, copy_group += stride;
  };
  start_next_kernel();
  for (int stage = 0; stage < kStages - 1; ++stage) copy(stage);
  wait_for_previous_kernel();

  int stage = 0;
  for (uint32_t round = 0; round < rounds; ++round) {
    const uint32_t group = first_group + round * stride;
    const bool valid = group < groups;
    const LinearPart& part = call.part_of(group);
    const uint32_t row = (group - part.first_group) * kRows;
    float sum[kRows] = {};
    for (uint32_t step = 0; step < steps; ++step) {
      const uint32_t g = (step * kSplit + share) * kGranules + lane / 4;
      const bool has = valid && g < granules;
      const uint32_t block = has ? g >> call.granules_shift : 0;
      float norm[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        norm[r] = __half2float(__ushort_as_half(
            __ldg(part.norms + static_cast<uint64_t>(min(row + r, part.rows - 1)) * blocks + block)));
      const float2 scale_sum = call.scale_sum[block];
      copies_wait<kStages - 2>();
      __syncwarp();
      if (has) {
        LaneCodes<kBits> c[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          c[r] =
              load_codes<kBits, true>(&memory[warp][stage][r * kRowBytes + lane / 4 * kGranuleBytes], l, 128);
        LaneDots<kBits, kLags, kRows> dots;
        dots.add(c, call, static_cast<uint64_t>(g) * 128, l, 128);
        const bool first = l == 0 && (g & ((1u << call.granules_shift) - 1)) == 0;
        const float offset = first ? call.tables.offset * kLags * scale_sum.y : 0.0f;
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum[r] += norm[r] * scale_sum.x * dots.value(r, offset);
      }
      __syncwarp();
      copy(stage == 0 ? kStages - 1 : stage - 1);  // the stage that the last step has left
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    sum_over_warp(sum);
    if constexpr (kSplit > 1) {
      if (lane == 0)
        for (int r = 0; r < kRows; ++r) parts[warp][r] = sum[r];
      __syncthreads();
      if (share == 0)
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          for (int other = 1; other < kSplit; ++other) sum[r] += parts[warp + other][r];
      __syncthreads();
    }
    if (lane == 0 && share == 0 && valid)
      for (int r = 0; r < kRows; ++r)
        if (row + r < part.rows) part.y[row + r] = sum[r] * call.tables.step;
  }
}

// Straight from memory, for granules of 32 and 64 codes, and for formats whose arithmetic, not memory, is the
// limit: there registers are better spent on it. kSplit warps share a group of rows.
template <int kBits, int kLags, bool kWide, int kRows, int kSplit>
__global__ void __launch_bounds__(kThreads) direct_kernel(const __grid_constant__ LinearCall call) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, size = kWide ? 128 : call.granule;
  const int lanes = size / 32, l = lane % lanes;
  const uint32_t group = blockIdx.x * (kWarps / kSplit) + warp / kSplit, per_step = 32 / lanes,
                 token = blockIdx.y;
  const LinearPart& part = call.part_of(group);
  const uint32_t row = (group - part.first_group) * kRows, granules = call.granules;
  const uint32_t blocks = granules >> call.granules_shift;
  const int granule_bytes = kWide ? 16 * kBits : static_cast<int>(call.granule_bytes);
  float sum[kRows] = {};
  start_next_kernel();
  wait_for_previous_kernel();
  for (uint32_t g = warp % kSplit * per_step + lane / lanes; g < granules; g += kSplit * per_step) {
    LaneCodes<kBits> c[kRows];
    float norm[kRows];
    const uint32_t block = g >> call.granules_shift;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const uint64_t at = min(row + r, part.rows - 1);
      c[r] = load_codes<kBits, kWide>(part.codes + (at * granules + g) * granule_bytes, l, size);
      norm[r] = __half2float(__ushort_as_half(__ldg(part.norms + at * blocks + block)));
    }
    const float2 scale_sum = call.scale_sum[static_cast<uint64_t>(token) * blocks + block];
    LaneDots<kBits, kLags, kRows> dots;
    dots.add(c, call, (static_cast<uint64_t>(token) * granules + g) * size, l, size);
    const bool first = l == 0 && (g & ((1u << call.granules_shift) - 1)) == 0;
    const float offset = first ? call.tables.offset * kLags * scale_sum.y : 0.0f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum[r] += norm[r] * scale_sum.x * dots.value(r, offset);
  }
  sum_over_warp(sum);
  if constexpr (kSplit > 1) {
    __shared__ float parts[kWarps][kRows];
    if (lane == 0)
      for (int r = 0; r < kRows; ++r) parts[warp][r] = sum[r];
    __syncthreads();
    if (warp % kSplit != 0) return;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      for (int other = 1; other < kSplit; ++other) sum[r] += parts[warp + other][r];
  }
  if (lane == 0)
    for (int r = 0; r < kRows; ++r)
      if (row + r < part.rows) part.y[token * part.y_stride + row + r] = sum[r] * call.tables.step;
}

template <int kBits, int kLags, bool kWide, int kRows, int kSplit>
void launch_direct(LinearCall& call, uint64_t tokens, cudaStream_t stream) {
  const uint32_t groups = call.set_groups(kRows);
  launch_chained(direct_kernel<kBits, kLags, kWide, kRows, kSplit>,
                 dim3((groups + kWarps / kSplit - 1) / (kWarps / kSplit), static_cast<unsigned>(tokens)),
                 kThreads, 0, stream, call);
}

// How much of the GPU's warps works when groups of rows are split over `split` warps: rounds and steps come
// in whole numbers.
double busy(uint64_t groups, uint64_t steps, uint64_t warps, uint64_t split) {
  const uint64_t at_once = warps / split, rounds = (groups + at_once - 1) / at_once,
                 each = (steps + split - 1) / split;
  return static_cast<double>(groups * steps) / static_cast<double>(rounds * each * warps);
}

template <int kBits, int kLags>
void launch_wide(LinearCall& call, int multiprocessors, cudaStream_t stream) {
  const uint32_t groups = call.set_groups(4);
  int split = 1;
  const uint64_t warps = static_cast<uint64_t>(multiprocessors) * 4 * kWarps, steps = (call.granules + 7) / 8;
  for (int s : {2, 4})
    if (busy(groups, steps, warps, static_cast<uint64_t>(s)) >
        busy(groups, steps, warps, static_cast<uint64_t>(split)) * 1.02)
      split = s;
  const auto run = [&]<int kSplit>() {
    const unsigned needed = (groups + kWarps / kSplit - 1) / (kWarps / kSplit);
    const unsigned grid = std::min(needed, static_cast<unsigned>(multiprocessors) * 4);
    launch_chained(vector_kernel<kBits, kLags, kSplit>, grid, kThreads, 0, stream, call, groups);
  };
  if (split == 1) run.template operator()<1>();
  if (split == 2) run.template operator()<2>();
  if (split == 4) run.template operator()<4>();
}

}  // namespace

void launch_vector(LinearCall& call, int bits, int lags, uint64_t tokens, int multiprocessors,
                   cudaStream_t stream) {
  dispatch_format(bits, lags, [&]<int kBits, int kLags>() {
    if (call.granule < 128)
      launch_direct<kBits, kLags, false, 2, 1>(call, tokens, stream);
    else if constexpr (kBits < 5 || kLags == 1)
      launch_wide<kBits, kLags>(call, multiprocessors, stream);
    else if (call.granules >= 96)
      launch_direct<kBits, kLags, true, 4, 4>(call, 1, stream);
    else if (call.set_groups(4) >= static_cast<uint32_t>(multiprocessors) * 16)
      launch_direct<kBits, kLags, true, 4, 1>(call, 1, stream);
    else
      launch_direct<kBits, kLags, true, 2, 1>(call, 1, stream);
  });
  check_launch("the linear of one token");
}

}  // namespace hlwq::cuda
