// The kernel for a few tokens of one matrix, or of each of many matrices: as one token's kernel, but the
// products go through the INT8 tensor cores, which take 8 tokens for the price of one.
#pragma once

#include <cuda_fp16.h>

#include "cuda/hlwq_words.cuh"
#include "cuda/linear_kernels.h"
#include "cuda/tensor_core.cuh"

namespace hlwq::cuda {

/// Of batch_kernel: a block takes kBatchRows rows, its warps split the columns.
constexpr int kBatchWarps = 8, kBatchThreads = kBatchWarps * 32, kBatchRows = 16;

/// kTiles: tiles of 8 tokens. kGrouped: a tile of `groups` a column of blocks, else `tokens` tokens of one
/// matrix.
template <int kBits, int kLags, int kTiles, bool kGrouped>
__global__ void __launch_bounds__(kBatchThreads)
    batch_kernel(const __grid_constant__ LinearCall call, uint32_t tokens, const LinearGroups groups) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, l = lane % 4, row_of_lane = lane / 4;
  const LinearPart& part = call.part_of(blockIdx.x);
  const uint32_t row = (blockIdx.x - part.first_group) * kBatchRows;
  const uint32_t granules = call.granules, blocks = granules >> call.granules_shift;
  const uint64_t code_row = static_cast<uint64_t>(granules) * call.granule_bytes;
  LinearGroups::Tile group{0, 0, tokens};
  if constexpr (kGrouped) {
    if (blockIdx.y >= *groups.n_tiles) return;
    group = groups.tiles[blockIdx.y];
  }
  // Which rows of the activations a lane reads: those of its column of each tile, and those of its two sums.
  uint32_t x_row[kTiles], s_row[kTiles][2];
  if constexpr (kGrouped) {
    const auto input_of = [&](uint32_t i) {
      i = group.first + min(i, group.count - 1);
      return groups.inputs ? groups.inputs[i] / groups.inputs_each : i;
    };
    tokens = group.count;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      x_row[tile] = input_of(tile * 8 + row_of_lane);
      for (int i = 0; i < 2; ++i) s_row[tile][i] = input_of(tile * 8 + 2 * l + i);
    }
  }
  const uint8_t* codes[2];
  const uint16_t* norms[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint64_t at =
        static_cast<uint64_t>(group.matrix) * part.rows + min(row + row_of_lane + 8 * h, part.rows - 1);
    codes[h] = part.codes + at * code_row;
    norms[h] = part.norms + at * blocks;
  }
  constexpr bool kHasLow = kBits == 6 && kLags == 1;
  float sum[kTiles][4] = {};
  for (uint32_t g = warp; g < granules; g += kBatchWarps) {
    const uint32_t block = g >> call.granules_shift;
    LaneCodes<kBits> c[2];
    float norm[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      c[h] = load_codes<kBits, true>(codes[h] + g * call.granule_bytes, l, 128);
      norm[h] = __half2float(__ushort_as_half(__ldg(norms[h] + block)));
    }
    int dot[kTiles][4] = {}, low[kHasLow ? kTiles : 1][4] = {};
#pragma unroll
    for (int lag = 0; lag < kLags; ++lag) {
      uint32_t w[2][8], lo[2][8];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (lag == 0) decode_words<kBits, 0, (kLags > 1 || kBits < 6)>(c[h], call.tables, w[h]);
        if (lag == 1) decode_words<kBits, 1, true>(c[h], call.tables, w[h]);
        if (lag == 2) decode_words<kBits, 2, true>(c[h], call.tables, w[h]);
        if constexpr (kHasLow) decode_words<6, 0, false, true>(c[h], call.tables, lo[h]);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint32_t token = kGrouped ? x_row[tile] : min(tile * 8 + row_of_lane, tokens - 1);
        const auto* x =
            reinterpret_cast<const uint4*>(call.q[lag] + (static_cast<uint64_t>(token) * granules + g) * 128);
        const uint4 a = __ldg(x + first_words<kBits>(l) / 4), b = __ldg(x + second_words<kBits>(l, 128) / 4);
        const uint32_t xs[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          mma_s8(dot[tile], w[0][2 * j], w[1][2 * j], w[0][2 * j + 1], w[1][2 * j + 1], xs[2 * j],
                 xs[2 * j + 1]);
          if constexpr (kHasLow)
            mma_s8(low[tile], lo[0][2 * j], lo[1][2 * j], lo[0][2 * j + 1], lo[1][2 * j + 1], xs[2 * j],
                   xs[2 * j + 1]);
        }
      }
    }
    const bool first = (g & ((1u << call.granules_shift) - 1)) == 0;
    const float offset = first ? call.tables.offset * kLags : 0.0f;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t token = kGrouped ? s_row[tile][i] : min(tile * 8 + 2 * l + i, tokens - 1);
        const float2 scale_sum = __ldg(call.scale_sum + static_cast<uint64_t>(token) * blocks + block);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float value = static_cast<float>(dot[tile][2 * h + i]) + offset * scale_sum.y;
          if constexpr (kHasLow) value += static_cast<float>(low[tile][2 * h + i]) * 0x1p-7f;
          sum[tile][2 * h + i] += norm[h] * scale_sum.x * value;
        }
      }
  }
  __shared__ float parts[kBatchWarps][kTiles][4][32];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int i = 0; i < 4; ++i) parts[warp][tile][i][lane] = sum[tile][i];
  __syncthreads();
  for (int i = threadIdx.x; i < kTiles * 128; i += kBatchThreads) {
    float total = 0;
    for (int w = 0; w < kBatchWarps; ++w) total += (&parts[w][0][0][0])[i];
    const int tile = i / 128, c = i / 32 % 4, from = i % 32;
    const uint32_t r = row + from / 4 + (c / 2) * 8,
                   token = static_cast<uint32_t>(tile * 8 + from % 4 * 2 + c % 2);
    if (r < part.rows && token < tokens)
      part.y[(group.first + token) * part.y_stride + r] = total * call.tables.step;
  }
}

}  // namespace hlwq::cuda
