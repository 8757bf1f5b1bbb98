// One to eight tokens with coupled codebooks of two lags and 3 to 5 bits. A byte of the widest plane holds
// two codes; a table in shared memory gives for it four INT8 values at once: both codes' values of lag 0 and
// of lag 1. They meet activations that lie in the same order (DeviceActivations::coupled) on the INT8 tensor
// cores, weights as the operand of 8 columns. The table has a column a lane, so that no two lanes ever meet
// in a bank.
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/async_copy.cuh"
#include "cuda/hlwq_words.cuh"
#include "cuda/linear_kernels.h"
#include "cuda/tensor_core.cuh"

namespace hlwq::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32, kRows = 8, kGranules = 2, kStages = 3;

template <int kBits>
constexpr int kEntries = kBits == 3 ? 0x34 : 256;

template <int kBits>
struct Shared {
  uint32_t table[kEntries<kBits>][32];
  __align__(16) uint8_t codes[kWarps][kStages][kRows * kGranules * 16 * kBits];
  float parts[kWarps][8][8];  // [token][row]
};

// The four values of a byte: two codes, or their magnitudes where signs lie elsewhere.
template <int kBits>
__device__ uint32_t table_entry(const PrmtTables& tables, int byte) {
  uint32_t entry = 0;
  for (int i = 0; i < 4; ++i) {
    const int code = i % 2 ? byte >> 4 : byte & 15, magnitude = kBits == 4 ? code & 7 : code;
    int value = reinterpret_cast<const int8_t*>(tables.lag[i / 2])[magnitude];
    if (kBits == 4 && code & 8) value = ~value;
    entry |= static_cast<uint32_t>(value & 255) << (8 * i);
  }
  return entry;
}

template <int kBits, int kSplit>
__global__ void __launch_bounds__(kThreads, 3)
    pairs_kernel(const __grid_constant__ LinearCall call, uint32_t groups, uint32_t tokens) {
  constexpr int kGranuleBytes = 16 * kBits, kRowBytes = kGranules * kGranuleBytes,
                kPieces = kGranules * kBits;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<kBits>*>(memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, l = lane % 4, own = lane / 4,
            share = warp % kSplit;
  const uint32_t granules = call.granules;
  const uint32_t steps = ((granules + kGranules - 1) / kGranules + kSplit - 1) / kSplit;
  const uint32_t first_group = blockIdx.x * (kWarps / kSplit) + warp / kSplit,
                 stride = gridDim.x * (kWarps / kSplit);
  const uint32_t rounds = (groups - blockIdx.x * (kWarps / kSplit) + stride - 1) / stride;
  const uint64_t code_row = static_cast<uint64_t>(granules) * kGranuleBytes;

  uint32_t copy_group = first_group, copy_step = 0;
  const auto copy = [&](int stage) {
    const uint32_t g = (copy_step * kSplit + share) * kGranules;
    if (copy_group < groups && g < granules) {
      const LinearPart& part = call.part_of(copy_group);
      const uint32_t row = (copy_group - part.first_group) * kRows;
      const int pieces = static_cast<int>(min(granules - g, static_cast<uint32_t>(kGranules))) * kBits;
#pragma unroll
      for (int i = 0; i < (kRows * kPieces + 31) / 32; ++i) {
        const int piece = lane + 32 * i, r = piece / kPieces, at = piece % kPieces;
        if (r < kRows && at < pieces)
          copy_16(&shared.codes[warp][stage][r * kRowBytes + at * 16],
                  part.codes + min(row + r, part.rows - 1) * code_row +
                      static_cast<uint64_t>(g) * kGranuleBytes + at * 16);
      }
    }
    copies_end();
    if (++copy_step == steps) copy_step = 0, copy_group += stride;
  };
  for (int stage = 0; stage < kStages - 1; ++stage) copy(stage);
  for (int i = warp; i < kEntries<kBits>; i += kWarps)
    shared.table[i][lane] = table_entry<kBits>(call.tables, i);
  __syncthreads();
  const char* column = reinterpret_cast<const char*>(&shared.table[0][lane]);
  const bool has_token = own < static_cast<int>(tokens);

  int stage = 0;
  for (uint32_t round = 0; round < rounds; ++round) {
    const uint32_t group = first_group + round * stride;
    const bool valid = group < groups;
    const LinearPart& part = call.part_of(group);
    const uint32_t row = (group - part.first_group) * kRows;
    const uint16_t* norms[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      norms[i] = part.norms + static_cast<uint64_t>(min(row + 2 * l + i, part.rows - 1)) * granules;
    float sum[2] = {};
    for (uint32_t step = 0; step < steps; ++step) {
      const uint32_t first = (step * kSplit + share) * kGranules;
      uint4 x[kGranules][4];
      float2 scale_sum[kGranules];
      float norm[kGranules][2];
#pragma unroll
      for (int j = 0; j < kGranules; ++j) {
        const uint32_t g = min(first + j, granules - 1);
        const uint64_t block = static_cast<uint64_t>(own) * granules + g;
        const auto* from = reinterpret_cast<const uint4*>(call.coupled + block * 256);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          // Pairs 16 l .. of 4 words a piece; for 3 bits, pairs 8 l .. and half a granule's pairs on.
          const int at = kBits >= 4 ? 4 * l + i : (i / 2) * 8 + 2 * l + i % 2;
          x[j][i] = has_token ? __ldg(from + at) : uint4{};
        }
        scale_sum[j] = has_token ? __ldg(call.scale_sum + block) : float2{};
#pragma unroll
        for (int i = 0; i < 2; ++i) norm[j][i] = __half2float(__ushort_as_half(__ldg(norms[i] + g)));
      }
      copies_wait<kStages - 2>();
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kGranules; ++j) {
        if (!valid || first + j >= granules) break;  // the same for the whole warp
        const LaneCodes<kBits> c =
            load_codes<kBits, true>(&shared.codes[warp][stage][own * kRowBytes + j * kGranuleBytes], l, 128);
        int dot[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          // Word i of the plane: four pairs. For 3 bits, words 0 and 1 of its low and of its high two bits.
          const uint32_t bytes = kBits >= 4 ? c.nibbles[i % (kBits >= 4 ? 4 : 2)]
                                            : c.nibbles[i % 2] >> (2 * (i / 2)) & 0x33333333;
          uint32_t w[4];
          const auto value = [&](uint32_t offset) {
            return *reinterpret_cast<const uint32_t*>(column + (offset & 0x7f80));
          };
          w[0] = value(bytes << 7), w[1] = value(bytes >> 1), w[2] = value(bytes >> 9),
          w[3] = value(bytes >> 17);
          if constexpr (kBits != 4) {
            const uint32_t s = c.signs[i / 2] << (7 - 4 * (i % 2)), t = c.signs[i / 2] << (5 - 4 * (i % 2));
            w[0] ^= prmt(s, s, 0x9898), w[1] ^= prmt(s, s, 0xbaba);
            w[2] ^= prmt(t, t, 0x9898), w[3] ^= prmt(t, t, 0xbaba);
          }
          mma_s8(dot, x[j][i].x, 0, x[j][i].y, 0, w[0], w[1]);
          mma_s8(dot, x[j][i].z, 0, x[j][i].w, 0, w[2], w[3]);
        }
        const float offset = 2 * call.tables.offset * scale_sum[j].y;
#pragma unroll
        for (int i = 0; i < 2; ++i)
          sum[i] += norm[j][i] * scale_sum[j].x * (static_cast<float>(dot[i]) + offset);
      }
      __syncwarp();
      copy(stage == 0 ? kStages - 1 : stage - 1);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    if constexpr (kSplit > 1) {
#pragma unroll
      for (int i = 0; i < 2; ++i) shared.parts[warp][own][2 * l + i] = sum[i];
      __syncthreads();
      if (share == 0)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          for (int other = 1; other < kSplit; ++other) sum[i] += shared.parts[warp + other][own][2 * l + i];
      __syncthreads();
    }
    if (share == 0 && valid && has_token)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (row + 2 * l + i < part.rows)
          part.y[own * part.y_stride + row + 2 * l + i] = sum[i] * call.tables.step;
  }
}

// How much of the GPU's warps works when groups are split over `split` of them: rounds and steps come in
// whole numbers.
double busy(uint64_t groups, uint64_t steps, uint64_t warps, uint64_t split) {
  const uint64_t at_once = warps / split, rounds = (groups + at_once - 1) / at_once,
                 each = (steps + split - 1) / split;
  return static_cast<double>(groups * steps) / static_cast<double>(rounds * each * warps);
}

template <int kBits>
void launch(LinearCall& call, uint32_t tokens, const LinearLimits& limits, cudaStream_t stream) {
  const uint32_t groups = call.set_groups(kRows);
  const int blocks =
      std::clamp(limits.shared_memory_all / static_cast<int>(sizeof(Shared<kBits>) + 1024), 1, 3);
  const uint64_t warps = static_cast<uint64_t>(limits.multiprocessors) * blocks * kWarps,
                 steps = (call.granules + 1) / 2;
  uint64_t split = 1;
  for (uint64_t s : {2, 4, 8})
    if (busy(groups, steps, warps, s) > busy(groups, steps, warps, split) * 1.02) split = s;
  const auto run = [&]<int kSplit>() {
    check(cudaFuncSetAttribute(pairs_kernel<kBits, kSplit>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               sizeof(Shared<kBits>)),
          "asking for shared memory");
    const unsigned needed = (groups + kWarps / kSplit - 1) / (kWarps / kSplit);
    const unsigned grid = std::min(needed, static_cast<unsigned>(limits.multiprocessors * blocks));
    pairs_kernel<kBits, kSplit><<<grid, kThreads, sizeof(Shared<kBits>), stream>>>(call, groups, tokens);
  };
  if (split == 1) run.template operator()<1>();
  if (split == 2) run.template operator()<2>();
  if (split == 4) run.template operator()<4>();
  if (split == 8) run.template operator()<8>();
}

}  // namespace

bool launch_pairs(LinearCall& call, const HlwqFormat& f, uint64_t tokens, const LinearLimits& limits,
                  cudaStream_t stream) {
  if (f.lags != 2 || f.bits < 3 || f.bits > 5 || f.block != 128 || tokens > 8) return false;
  if (limits.shared_memory < static_cast<int>(sizeof(Shared<5>))) return false;
  const auto n = static_cast<uint32_t>(tokens);
  if (f.bits == 3) launch<3>(call, n, limits, stream);
  if (f.bits == 4) launch<4>(call, n, limits, stream);
  if (f.bits == 5) launch<5>(call, n, limits, stream);
  check_launch("the linear of a few tokens with two lags");
  return true;
}

}  // namespace hlwq::cuda
