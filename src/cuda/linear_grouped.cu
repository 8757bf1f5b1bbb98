// Linears of a mixture of experts: a few tokens of each of many matrices in one launch.
#include "cuda/linear_batch.cuh"

namespace hlwq::cuda {
namespace {

constexpr int kSmallWarps = 4, kSmallTokens = 8;

// Granules of 32 and 64 codes, which fill no operand of the tensor cores: a warp a row, codes decoded once
// for kSmallTokens tokens of the tile.
template <int kBits, int kLags>
__global__ void __launch_bounds__(kSmallWarps * 32)
    small_grouped_kernel(const __grid_constant__ LinearCall call, const LinearGroups groups) {
  if (blockIdx.y >= *groups.n_tiles) return;
  const LinearGroups::Tile tile = groups.tiles[blockIdx.y];
  const LinearPart& part = call.parts[0];
  const uint32_t row = blockIdx.x * kSmallWarps + threadIdx.x / 32;
  if (row >= part.rows) return;  // whole warps: no barriers below
  const int lane = threadIdx.x % 32, lanes = call.granule / 32, l = lane % lanes;
  const uint32_t granules = call.granules, per_step = 32 / lanes, blocks = granules >> call.granules_shift;
  const uint64_t at = static_cast<uint64_t>(tile.matrix) * part.rows + row;
  const uint8_t* codes = part.codes + at * granules * call.granule_bytes;
  const uint16_t* norms = part.norms + at * blocks;
  constexpr bool kHasLow = kBits == 6 && kLags == 1;
  for (uint32_t t0 = 0; t0 < tile.count; t0 += kSmallTokens) {
    uint64_t input[kSmallTokens];
    float sum[kSmallTokens] = {};
#pragma unroll
    for (int t = 0; t < kSmallTokens; ++t) {
      const uint32_t i = tile.first + min(t0 + t, tile.count - 1);
      input[t] = groups.inputs ? groups.inputs[i] / groups.inputs_each : i;
    }
    for (uint32_t g = lane / lanes; g < granules; g += per_step) {
      const uint32_t block = g >> call.granules_shift;
      const LaneCodes<kBits> c = load_codes<kBits, false>(codes + g * call.granule_bytes, l, call.granule);
      const float norm = __half2float(__ushort_as_half(__ldg(norms + block)));
      int dot[kSmallTokens] = {}, low[kHasLow ? kSmallTokens : 1] = {};
#pragma unroll
      for (int lag = 0; lag < kLags; ++lag) {
        uint32_t w[8], lo[8];
        if (lag == 0) decode_words<kBits, 0, (kLags > 1 || kBits < 6)>(c, call.tables, w);
        if (lag == 1) decode_words<kBits, 1, true>(c, call.tables, w);
        if (lag == 2) decode_words<kBits, 2, true>(c, call.tables, w);
        if constexpr (kHasLow) decode_words<6, 0, false, true>(c, call.tables, lo);
#pragma unroll
        for (int t = 0; t < kSmallTokens; ++t) {
          const auto* x = reinterpret_cast<const uint4*>(
              call.q[lag] + (input[t] * granules + g) * static_cast<uint64_t>(call.granule));
          const uint4 a = __ldg(x + first_words<kBits>(l) / 4),
                      b = __ldg(x + second_words<kBits>(l, call.granule) / 4);
          const uint32_t xs[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            dot[t] = __dp4a(static_cast<int>(w[i]), static_cast<int>(xs[i]), dot[t]);
            if constexpr (kHasLow) low[t] = __dp4a(static_cast<int>(lo[i]), static_cast<int>(xs[i]), low[t]);
          }
          if (t0 + t + 1 >= tile.count) break;  // the same for all threads
        }
      }
      // The offset of every value, once a block.
      const bool first = l == 0 && (g & ((1u << call.granules_shift) - 1)) == 0;
      const float offset = first ? call.tables.offset * kLags : 0.0f;
#pragma unroll
      for (int t = 0; t < kSmallTokens; ++t) {
        const float2 scale_sum = __ldg(call.scale_sum + input[t] * blocks + block);
        float value = static_cast<float>(dot[t]) + offset * scale_sum.y;
        if constexpr (kHasLow) value += static_cast<float>(low[t]) * 0x1p-7f;
        sum[t] += norm * scale_sum.x * value;
      }
    }
#pragma unroll
    for (int t = 0; t < kSmallTokens; ++t) {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum[t] += __shfl_xor_sync(0xffffffffu, sum[t], step);
      if (lane == 0 && t0 + t < tile.count)
        part.y[static_cast<uint64_t>(tile.first + t0 + t) * part.y_stride + row] = sum[t] * call.tables.step;
    }
  }
}

}  // namespace

void launch_grouped(LinearCall& call, int bits, int lags, const LinearGroups& groups, uint64_t max_tiles,
                    uint64_t tile_tokens, cudaStream_t stream) {
  if (call.granule < 128) {
    const dim3 grid(call.set_groups(kSmallWarps), static_cast<unsigned>(max_tiles));
    dispatch_format(bits, lags, [&]<int kBits, int kLags>() {
      small_grouped_kernel<kBits, kLags><<<grid, kSmallWarps * 32, 0, stream>>>(call, groups);
    });
    return check_launch("the linears of experts");
  }
  const dim3 grid(call.set_groups(kBatchRows), static_cast<unsigned>(max_tiles));
  dispatch_format(bits, lags, [&]<int kBits, int kLags>() {
    if (tile_tokens <= 8)
      batch_kernel<kBits, kLags, 1, true><<<grid, kBatchThreads, 0, stream>>>(call, 0, groups);
    else
      batch_kernel<kBits, kLags, 4, true><<<grid, kBatchThreads, 0, stream>>>(call, 0, groups);
  });
  check_launch("the linears of experts");
}

}  // namespace hlwq::cuda
