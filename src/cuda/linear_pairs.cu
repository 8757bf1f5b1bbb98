// One token with two lags and 4 to 6 bits, where a multiprocessor has shared memory to spare. A look-up in
// registers costs more than a data-centre GPU's memory gives time for. Here one load from a table in shared
// memory answers a pair of codes with four INT8 values: both codes' values of lag 0 and of lag 1. They meet
// activations in the same order, so that one integer dot product takes both codes and both lags.
//
// An entry's address is what the codes' planes hold, moved as little as possible: the byte of two low halves
// lies at bits 8 to 15, where PRMT puts it beside the lane's column. Up to 5 bits every lane has a column of
// its own, a bank, and no two ever meet. What limits the kernel then is the number of cache lines and banks
// that its loads touch; so signs come by one load and a shuffle, and activations from shared memory.
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/chain.cuh"
#include "cuda/hlwq_words.cuh"
#include "cuda/linear_kernels.h"
#include "cuda/runtime.h"

namespace hlwq::cuda {
namespace {

// Of a block, which has a multiprocessor for itself; rows of a warp's step. Measured: more warps hide the
// latency of longer look-ups, more rows save loads of activations.
template <int kBits>
constexpr int kWarps = kBits == 4   ? 16
                       : kBits == 5 ? 32
                                    : 24;
template <int kBits>
constexpr int kThreads = kWarps<kBits> * 32;
template <int kBits>
constexpr int kRows = kBits == 4 ? 4 : 2;
constexpr int kGranules = 8;        // of a step
constexpr uint32_t kStepsEach = 2;  // of a unit of work: short ones end together
constexpr int kPassRows = 1024;     // that a block works on at a time
constexpr int kPartSums = 4096;     // of a pass's rows, by share of the columns
constexpr int kInputBytes =
    320;  // of a granule's activations: 64 for each of 4 words a lane, and 64 that spread banks

/// A row of all parts together.
struct RowOf {
  const uint8_t* codes;
  const uint16_t* norms;
};

template <int kBits>
constexpr int kTableBytes = kBits == 5 ? 1 << 17 : 1 << 16;
constexpr int kPassBytes = kPassRows * int{sizeof(RowOf)} + kPartSums * int{sizeof(float)};

/// What a lane reads of a granule of 128 codes, as it lies in memory, and the block's norm.
template <int kBits>
struct RawCodes {
  uint4 low;       // 16 bytes of two codes' low 4 bits
  uint4 pairs;     // 6 bits: the high 2 bits of four codes a byte
  uint32_t signs;  // 5 bits: a quarter of the granule's
  uint16_t norm;

  __device__ __forceinline__ void load(const uint8_t* g, int l) {
    low = __ldg(reinterpret_cast<const uint4*>(g) + l);
    if constexpr (kBits == 5) signs = __ldg(reinterpret_cast<const uint32_t*>(g + 64) + l);
    if constexpr (kBits == 6) pairs = __ldg(reinterpret_cast<const uint4*>(g + 64) + (l & 1));
  }
};

/// Activations of both lags as the table's values lie: 16 words for each of a granule's 4 lanes.
__device__ void fill_input(unsigned char* input, const LinearCall& call) {
  for (uint32_t i = threadIdx.x; i < call.granules * 16; i += blockDim.x) {
    const uint32_t g = i / 16, piece = i / 4 % 4, l = i % 4;
    const uint64_t at = static_cast<uint64_t>(g) * 128 + l * 32 + piece * 8;
    const uint2 a = *reinterpret_cast<const uint2*>(call.q[0] + at),
                b = *reinterpret_cast<const uint2*>(call.q[1] + at);
    *reinterpret_cast<uint4*>(input + g * kInputBytes + piece * 64 + l * 16) = make_uint4(
        prmt(a.x, b.x, 0x5410), prmt(a.x, b.x, 0x7632), prmt(a.y, b.y, 0x5410), prmt(a.y, b.y, 0x7632));
  }
}

/// The two lags' values of two codes, as the table has them. `code`: low 4 bits, then what other planes add.
__device__ __forceinline__ uint32_t pair_values(const PrmtTables& tables, int bits, int first, int second) {
  const int magnitudes = (1 << (bits - 1)) - 1;
  uint32_t entry = 0;
  for (int i = 0; i < 4; ++i) {
    const int code = i % 2 ? second : first;
    const uint32_t byte = tables.lag[i / 2][(code & magnitudes) / 4] >> (8 * (code & 3));
    entry |= ((code > magnitudes ? ~byte : byte) & 255) << (8 * i);
  }
  return entry;
}

template <int kBits>
__device__ void fill_table(unsigned char* table, const PrmtTables& tables) {
  const int lane = threadIdx.x % 32;
  const auto put = [](unsigned char* to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    *reinterpret_cast<uint4*>(to) = make_uint4(a, b, c, d);
  };
  if constexpr (kBits == 6) {
    // Bits 2 and 3: the first code's high bits; 4 and 5: a column; 6 and 7: the second code's high bits.
    for (int i = threadIdx.x; i < 1024; i += kThreads<kBits>) {
      const int low = i / 4, second = low >> 4 | (i & 3) << 4;
      uint32_t e[4];
#pragma unroll
      for (int high = 0; high < 4; ++high) e[high] = pair_values(tables, 6, (low & 15) | high << 4, second);
#pragma unroll
      for (int column = 0; column < 4; ++column)
        put(table + low * 256 + (i & 3) * 64 + ((column + lane / 2) & 3) * 16, e[0], e[1], e[2], e[3]);
    }
  } else {
    // Bits 2 to 6: a column; 5 bits have the first code's sign at bit 7 and the second's at bit 16.
    for (int i = threadIdx.x; i < (kBits == 5 ? 1024 : 256); i += kThreads<kBits>) {
      const int low = i % 256, high = i / 256;
      const uint32_t e = pair_values(tables, kBits, (low & 15) | (high & 1) << 4, low >> 4 | (high & 2) << 3);
      unsigned char* to = table + low * 256 + (high & 1) * 128 + (high >> 1) * 65536;
      for (int piece = 0; piece < 8; ++piece) put(to + ((piece + lane) & 7) * 16, e, e, e, e);
    }
  }
}

/// 5 bits: where bits p and p + 9 of word h are the signs of pair 8 h + p. Every lane of the warp calls this.
__device__ __forceinline__ void sign_words(uint32_t quarter, uint32_t (&signs)[2]) {
  const int lane = threadIdx.x % 32, l = lane % 4, from = (lane & ~3) | l >> 1;
  const uint32_t first = __shfl_sync(0xffffffff, quarter, from),
                 second = __shfl_sync(0xffffffff, quarter, from | 2);
  const uint32_t both = prmt(first, second, l & 1 ? 0x7632 : 0x5410);  // 16 of first codes, 16 of second ones
  signs[0] = (both & 0xff) | (both >> 7 & 0x1fe00);
  signs[1] = (both >> 8 & 0xff) | (both >> 15 & 0x1fe00);
}

/// The dot product of a lane's 16 pairs with x, by pair.
template <int kBits>
__device__ __forceinline__ int pair_dots(const RawCodes<kBits>& c, const uint32_t (&signs)[2],
                                         const uint32_t (&x)[16], const unsigned char* table, uint32_t column,
                                         int l) {
  const uint32_t low[4] = {c.low.x, c.low.y, c.low.z, c.low.w},
                 high[4] = {c.pairs.x, c.pairs.y, c.pairs.z, c.pairs.w};
  int dot = 0;
#pragma unroll
  for (int p = 0; p < 16; ++p) {
    const int j = p / 4, i = p % 4;
    uint32_t at = prmt(low[j], column, 0x5504 | i << 4);
    if constexpr (kBits == 5) at |= (signs[p / 8] << (7 - p % 8)) & 0x10080;
    if constexpr (kBits == 6) {
      // Two codes half a granule apart: bits 0, 1 and 4, 5 of a byte, or the two bits above each.
      const uint32_t h = high[j] >> (l & 2);
      at |= (i == 0 ? h << 2 : h >> (8 * i - 2)) & 0xcc;
    }
    dot =
        __dp4a(static_cast<int>(*reinterpret_cast<const uint32_t*>(table + at)), static_cast<int>(x[p]), dot);
  }
  return dot;
}

/// Sums of kCount (2 or 4) rows over a warp: the first lane of each 32 / kCount holds a row's.
template <int kCount>
__device__ __forceinline__ float sum_of_row(const float (&sum)[kCount]) {
  const auto exchange = [&](float low, float high, int lanes) {
    const bool upper = threadIdx.x & lanes;
    return (upper ? high : low) + __shfl_xor_sync(0xffffffff, upper ? low : high, lanes);
  };
  float v;
  if constexpr (kCount == 4)
    v = exchange(exchange(sum[0], sum[2], 16), exchange(sum[1], sum[3], 16), 8);
  else
    v = exchange(sum[0], sum[1], 16);
#pragma unroll
  for (int i = 16 / kCount; i > 0; i /= 2) v += __shfl_xor_sync(0xffffffff, v, i);
  return v;
}

__device__ __forceinline__ const LinearPart& part_of_row(const LinearCall& call, uint32_t row) {
  int i = 0;
  while (i + 1 < call.n_parts && row >= call.parts[i + 1].first_group) ++i;
  return call.parts[i];
}

// A block takes rows of its own, up to kPassRows at a time; a warp a few of them over a share of the columns,
// a step of 8 granules after another. The next step's codes are on their way meanwhile.
// call.parts[].first_group counts rows.
template <int kBits>
__global__ void __launch_bounds__(kThreads<kBits>, 1)
    pairs_kernel(const __grid_constant__ LinearCall call, uint32_t all_rows, uint32_t shares, uint32_t each) {
  extern __shared__ __align__(1024) unsigned char table[];
  auto* row_of = reinterpret_cast<RowOf*>(table + kTableBytes<kBits>);
  auto* parts = reinterpret_cast<float*>(row_of + kPassRows);
  auto* input = reinterpret_cast<unsigned char*>(parts + kPartSums);
  constexpr int kGranuleBytes = 16 * kBits, kEach = kRows<kBits>, kLanes = 32 / kEach;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, l = lane % 4;
  const uint32_t granules = call.granules, blocks = granules >> call.granules_shift,
                 steps = (granules + kGranules - 1) / kGranules;
  const auto from = [&](uint32_t block) {
    return static_cast<uint32_t>(static_cast<uint64_t>(all_rows) * block / gridDim.x);
  };
  const uint32_t column = kBits == 6 ? l << 4 : lane << 2;
  start_next_kernel();

  for (uint32_t first = from(blockIdx.x), end = from(blockIdx.x + 1); first < end; first += kPassRows) {
    const uint32_t rows = min(end - first, static_cast<uint32_t>(kPassRows));
    const uint32_t units = (rows + kEach - 1) / kEach * shares;
    for (uint32_t r = threadIdx.x; r < rows; r += kThreads<kBits>) {
      const LinearPart& part = part_of_row(call, first + r);
      const uint64_t own = first + r - part.first_group;
      row_of[r] = {part.codes + own * (static_cast<uint64_t>(granules) * kGranuleBytes),
                   part.norms + own * blocks};
    }
    __syncthreads();

    // Where the next loads come from.
    uint32_t unit = warp, step = 0, last_step = 0;
    RowOf row[kEach];
    const auto enter_unit = [&] {
      if (unit >= units) return;
      step = unit % shares * each, last_step = min(step + each, steps) - 1;
#pragma unroll
      for (int r = 0; r < kEach; ++r) row[r] = row_of[min(unit / shares * kEach + r, rows - 1)];
    };
    const auto load = [&](RawCodes<kBits>(&c)[kEach]) {
      const uint32_t g = step * kGranules + lane / 4;
      if (unit < units && g < granules)
#pragma unroll
        for (int r = 0; r < kEach; ++r) {
          c[r].load(row[r].codes + g * kGranuleBytes, l);
          c[r].norm = __ldg(row[r].norms + (g >> call.granules_shift));
        }
    };
    float sum[kEach] = {};
    // One step on `c`, while `next` is loaded; false at the end.
    const auto compute = [&](const RawCodes<kBits>(&c)[kEach], RawCodes<kBits>(&next)[kEach]) {
      if (unit >= units) return false;
      const uint32_t g = step * kGranules + lane / 4, at_unit = unit;
      const bool last = step++ == last_step;
      if (last) unit += kWarps<kBits>, enter_unit();
      load(next);
      uint32_t signs[kEach][2];
      if constexpr (kBits == 5)
#pragma unroll
        for (int r = 0; r < kEach; ++r) sign_words(c[r].signs, signs[r]);
      if (g < granules) {
        uint32_t x[16];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint4 v = *reinterpret_cast<const uint4*>(input + g * kInputBytes + i * 64 + l * 16);
          x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
        }
        const float2 scale_sum = call.scale_sum[g >> call.granules_shift];
        const bool first_lane = l == 0 && (g & ((1u << call.granules_shift) - 1)) == 0;
        const float offset = first_lane ? call.tables.offset * 2 * scale_sum.y : 0.0f;
#pragma unroll
        for (int r = 0; r < kEach; ++r) {
          const float norm = __half2float(__ushort_as_half(c[r].norm));
          const int dot = pair_dots<kBits>(c[r], signs[r], x, table, column, l);
          sum[r] += norm * scale_sum.x * (static_cast<float>(dot) + offset);
        }
      }
      if (last) {
        const float v = sum_of_row(sum);
        const uint32_t r = at_unit / shares * kEach + lane / kLanes;
        if (lane % kLanes == 0 && r < rows) parts[r * shares + at_unit % shares] = v;
#pragma unroll
        for (int i = 0; i < kEach; ++i) sum[i] = 0;
      }
      return true;
    };
    RawCodes<kBits> even[kEach], odd[kEach];
    enter_unit();
    load(even);
    if (first == from(blockIdx.x)) {
      fill_table<kBits>(table, call.tables);
      wait_for_previous_kernel();
      fill_input(input, call);
      __syncthreads();
    }
    while (compute(even, odd) && compute(odd, even)) {
    }
    __syncthreads();
    for (uint32_t r = threadIdx.x; r < rows; r += kThreads<kBits>) {
      float v = 0;
      for (uint32_t i = 0; i < shares; ++i) v += parts[r * shares + i];
      const LinearPart& part = part_of_row(call, first + r);
      part.y[first + r - part.first_group] = v * call.tables.step;
    }
    __syncthreads();
  }
}

template <int kBits>
bool launch(LinearCall& call, int multiprocessors, int shared_memory, cudaStream_t stream) {
  const uint64_t bytes = uint64_t{kTableBytes<kBits>} + kPassBytes + uint64_t{call.granules} * kInputBytes;
  if (bytes > static_cast<uint64_t>(shared_memory)) return false;
  const uint32_t rows = call.set_groups(1), steps = (call.granules + kGranules - 1) / kGranules;
  const uint32_t grid =
      std::min(static_cast<uint32_t>(multiprocessors), (rows + kRows<kBits> - 1) / kRows<kBits>);
  // Columns are shared by warps as finely as the partial sums have room.
  const uint32_t pass = std::min<uint32_t>((rows + grid - 1) / grid, kPassRows);
  const uint32_t most = std::max<uint32_t>(kPartSums / pass, 1);
  const uint32_t each = std::max(kStepsEach, (steps + most - 1) / most);
  check(cudaFuncSetAttribute(pairs_kernel<kBits>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "asking for shared memory");
  launch_chained(pairs_kernel<kBits>, grid, kThreads<kBits>, bytes, stream, call, rows,
                 (steps + each - 1) / each, each);
  check_launch("the linear of one token");
  return true;
}

}  // namespace

bool launch_pairs(LinearCall& call, int bits, int lags, int multiprocessors, int shared_memory,
                  cudaStream_t stream) {
  // The memory of GPUs with less leaves time enough for looking up in registers.
  if (lags != 2 || call.granule != 128 || shared_memory < kTableBytes<5> + kPassBytes) return false;
  switch (bits) {
    case 4:
      return launch<4>(call, multiprocessors, shared_memory, stream);
    case 5:
      return launch<5>(call, multiprocessors, shared_memory, stream);
    case 6:
      return launch<6>(call, multiprocessors, shared_memory, stream);
    default:
      return false;
  }
}

}  // namespace hlwq::cuda
