// One token: integer dot products on the codes, at the speed of memory. A warp takes kRows rows over all
// columns, or, where a matrix has too few rows to fill the GPU, the warps of a block share rows and split the
// columns.
#include <cuda_fp16.h>

#include "cuda/hlwq_words.cuh"
#include "cuda/linear_kernels.h"

namespace hlwq::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

template <int kBits, int kLags, bool kWide, int kRows, int kSplit>
__global__ void __launch_bounds__(kThreads) vector_kernel(const __grid_constant__ LinearCall call) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t group = blockIdx.x * (kWarps / kSplit) + warp / kSplit;
  const LinearPart& part = call.part_of(group);
  const uint32_t row = (group - part.first_group) * kRows;
  const int lanes = kWide ? 4 : call.granule / 32, l = lane % lanes;
  const uint32_t per_step = 32 / lanes, token = blockIdx.y;
  const uint32_t granules = call.granules;
  const uint64_t code_row = static_cast<uint64_t>(granules) * call.granule_bytes;
  const uint32_t blocks = granules >> call.granules_shift;

  const uint8_t* codes[kRows];
  const uint16_t* norms[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const uint32_t at = min(row + r, part.rows - 1);
    codes[r] = part.codes + at * code_row;
    norms[r] = part.norms + static_cast<uint64_t>(at) * blocks;
  }
  const uint64_t x_row = static_cast<uint64_t>(token) * granules * call.granule;
  float sum[kRows] = {};
  for (uint32_t g = (warp % kSplit) * per_step + lane / lanes; g < granules; g += kSplit * per_step) {
    LaneCodes<kBits> c[kRows];
    float norm[kRows];
    const uint32_t block = g >> call.granules_shift;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      c[r] = load_codes<kBits, kWide>(codes[r] + g * call.granule_bytes, l, call.granule);
      norm[r] = __half2float(__ushort_as_half(__ldg(norms[r] + block)));
    }
    const float2 scale_sum = __ldg(call.scale_sum + static_cast<uint64_t>(token) * blocks + block);
    int dot[kRows] = {}, low[kRows] = {};
#pragma unroll
    for (int lag = 0; lag < kLags; ++lag) {
      const auto* x =
          reinterpret_cast<const uint4*>(call.q[lag] + x_row + static_cast<uint64_t>(g) * call.granule);
      const uint4 a = __ldg(x + first_words<kBits>(l) / 4);
      const uint4 b = __ldg(x + second_words<kBits>(l, kWide ? 128 : call.granule) / 4);
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
    // The offset of every value, once a block.
    const bool first = l == 0 && (g & ((1u << call.granules_shift) - 1)) == 0;
    const float offset = first ? call.tables.offset * kLags * scale_sum.y : 0.0f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float value = static_cast<float>(dot[r]) + offset;
      if (kBits == 6 && kLags == 1) value += static_cast<float>(low[r]) * 0x1p-7f;
      sum[r] += norm[r] * scale_sum.x * value;
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int i = 16; i > 0; i /= 2) sum[r] += __shfl_xor_sync(0xffffffff, sum[r], i);
  if constexpr (kSplit > 1) {
    __shared__ float parts[kWarps][kRows];
    if (lane == 0)
      for (int r = 0; r < kRows; ++r) parts[warp][r] = sum[r];
    __syncthreads();
    if (warp % kSplit != 0) return;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      sum[r] = 0;
      for (int s = 0; s < kSplit; ++s) sum[r] += parts[warp + s][r];
    }
  }
  if (lane == 0)
    for (int r = 0; r < kRows; ++r)
      if (row + r < part.rows) part.y[token * part.y_stride + row + r] = sum[r] * call.tables.step;
}

template <int kBits, int kLags, bool kWide>
void launch(LinearCall& call, uint64_t tokens, int multiprocessors, cudaStream_t stream) {
  uint64_t rows = 0;
  for (int i = 0; i < call.n_parts; ++i) rows += call.parts[i].rows;
  // Rows a warp, so that every multiprocessor gets several blocks; below, columns are split as well.
  const uint64_t enough = static_cast<uint64_t>(multiprocessors) * 16;
  const auto run = [&]<int kRows, int kSplit>() {
    const uint32_t groups = call.set_groups(kRows);
    const dim3 grid(static_cast<unsigned>((groups + kWarps / kSplit - 1) / (kWarps / kSplit)),
                    static_cast<unsigned>(tokens));
    vector_kernel<kBits, kLags, kWide, kRows, kSplit><<<grid, kThreads, 0, stream>>>(call);
  };
  if constexpr (!kWide) {
    run.template operator()<2, 1>();
  } else if (rows / 4 >= enough) {
    run.template operator()<4, 1>();
  } else if (call.granules >= 96) {
    run.template operator()<4, 4>();
  } else {
    run.template operator()<2, 1>();
  }
  check_launch("the linear of one token");
}

}  // namespace

void launch_vector(LinearCall& call, int bits, int lags, uint64_t tokens, int multiprocessors,
                   cudaStream_t stream) {
  const bool wide = call.granule == 128;
  const auto run = [&]<int kBits, int kLags>() {
    if (wide)
      launch<kBits, kLags, true>(call, tokens, multiprocessors, stream);
    else
      launch<kBits, kLags, false>(call, tokens, multiprocessors, stream);
  };
  dispatch_format(bits, lags, run);
}

}  // namespace hlwq::cuda
