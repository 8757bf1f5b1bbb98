// Widths of 7 and 8 bits: too many levels for PRMT, so values are read from a table in shared memory, one
// code at a time. Such matrices are rare (a few tensors of a mixed policy).
#include <cuda_fp16.h>

#include "cuda/linear_kernels.h"

namespace hlwq::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kRows = 2;

struct ValueTable {
  int16_t value[256];  // 128 hi + lo, by stored code
};

template <int kBits>
__global__ void __launch_bounds__(kThreads)
    table_kernel(const __grid_constant__ LinearCall call, const __grid_constant__ ValueTable values) {
  __shared__ int table[1 << kBits];
  for (int i = threadIdx.x; i < 1 << kBits; i += kThreads) table[i] = values.value[i];
  __syncthreads();
  const int lane = threadIdx.x % 32, size = call.granule;
  const uint32_t group = blockIdx.x * kWarps + threadIdx.x / 32;
  const LinearPart& part = call.part_of(group);
  const uint32_t row = (group - part.first_group) * kRows, token = blockIdx.y;
  const uint32_t blocks = call.granules >> call.granules_shift;
  if (row >= part.rows) return;
  float sum[kRows] = {};
  // A lane takes whole bytes of the planes: pair p of the granule, codes p and size / 2 + p.
  for (uint32_t g = 0; g < call.granules; ++g) {
    const uint32_t block = g >> call.granules_shift;
    const float scale = call.scale_sum[static_cast<uint64_t>(token) * blocks + block].x;
    const int8_t* x = call.q[0] + (static_cast<uint64_t>(token) * call.granules + g) * size;
    for (int r = 0; r < kRows; ++r) {
      const uint32_t at = min(row + r, part.rows - 1);
      const uint8_t* c = part.codes + (static_cast<uint64_t>(at) * call.granules + g) * call.granule_bytes;
      int dot = 0;
      for (int p = lane; p < size / 2; p += 32) {
        int code[2];
        if constexpr (kBits == 8) {
          code[0] = c[p], code[1] = c[size / 2 + p];
        } else {
          const uint8_t *two = c + size / 2, *one = two + size / 4;
          for (int h = 0; h < 2; ++h) {
            const int at_code = h * (size / 2) + p, quarter = size / 4;
            code[h] = (c[p] >> (4 * h) & 15) |
                      (two[at_code % quarter] >> (2 * (at_code / quarter)) & 3) << 4 |
                      (one[at_code / 8] >> (at_code % 8) & 1) << 6;
          }
        }
        dot += table[code[0]] * x[2 * p] + table[code[1]] * x[2 * p + 1];
      }
      // Every lane's part is an integer below 2^31, and exact; the sum over lanes is made in floats of exact
      // parts.
      const float norm =
          __half2float(__ushort_as_half(part.norms[static_cast<uint64_t>(at) * blocks + block]));
      sum[r] += norm * scale * (static_cast<float>(dot) * 0x1p-7f);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 16; i > 0; i /= 2) sum[r] += __shfl_xor_sync(0xffffffff, sum[r], i);
    if (lane == 0 && row + r < part.rows) part.y[token * part.y_stride + row + r] = sum[r] * call.tables.step;
  }
}

}  // namespace

void launch_table(LinearCall& call, const LookupTables& tables, uint64_t tokens, cudaStream_t stream) {
  ValueTable values{};
  for (int i = 0; i < 1 << tables.bits; ++i)
    values.value[i] = static_cast<int16_t>(128 * tables.hi[0][i] + tables.lo[0][i]);
  const uint32_t groups = call.set_groups(kRows);
  const dim3 grid((groups + kWarps - 1) / kWarps, static_cast<unsigned>(tokens));
  if (tables.bits == 7)
    table_kernel<7><<<grid, kThreads, 0, stream>>>(call, values);
  else
    table_kernel<8><<<grid, kThreads, 0, stream>>>(call, values);
  check_launch("the linear of 7 and 8 bits");
}

}  // namespace hlwq::cuda
