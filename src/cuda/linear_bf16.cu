// Many tokens where BF16 tensor cores are the faster road (Hopper and data-centre Blackwell, through cuBLAS),
// and formats whose values do not fit INT8: a slab of rows is expanded to BF16 and multiplied with all
// tokens. Rounding values and activations to 8 bits of mantissa adds less than a hundredth of what 5 bits
// cost.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/dense.h"
#include "cuda/hlwq_words.cuh"
#include "cuda/linear_kernels.h"

namespace hlwq::cuda {
namespace {

constexpr uint64_t kSlabBytes = 32 << 20;  // stays in the L2 cache until it is read again
constexpr uint64_t kMostBytes = 128 << 20;
constexpr uint64_t kLeastRows = 128;

// A warp expands 8 granules of a row, in pair order.
template <int kBits, int kLags>
__global__ void __launch_bounds__(256)
    expand_kernel(LinearPart part, uint32_t first_row, uint32_t rows, const __grid_constant__ LinearCall call,
                  __nv_bfloat16* out) {
  const int lane = threadIdx.x % 32, l = lane % 4;
  const uint32_t granules = call.granules, per_row = (granules + 7) / 8;
  const uint32_t job = blockIdx.x * 8 + threadIdx.x / 32, row = job / per_row;
  if (row >= rows) return;
  const uint32_t g = job % per_row * 8 + lane / 4,
                 at = min(g, granules - 1);  // all lanes take part in the exchange
  const uint64_t source = first_row + row;
  const LaneCodes<kBits> c =
      load_codes<kBits, true>(part.codes + (source * granules + at) * call.granule_bytes, l, 128);
  constexpr bool kHasLow = kBits == 6 && kLags == 1;
  uint32_t w[kLags + (kHasLow ? 1 : 0)][8];
  decode_words<kBits, 0, (kLags > 1 || kBits < 6)>(c, call.tables, w[0]);
  if constexpr (kHasLow) decode_words<6, 0, false, true>(c, call.tables, w[1]);
  if constexpr (kLags > 1) {
    decode_words<kBits, 1, true>(c, call.tables, w[1]);
    turn_right<kBits>(w[1]);
  }
  if constexpr (kLags > 2) {
    decode_words<kBits, 2, true>(c, call.tables, w[2]);
    turn_right<kBits>(w[2]);
    turn_right<kBits>(w[2]);
  }
  const uint64_t blocks = granules >> call.granules_shift;
  const float scale =
      __half2float(__ushort_as_half(part.norms[source * blocks + (at >> call.granules_shift)])) *
      call.tables.step;
  // Bytes become floats without a conversion: in the low mantissa of 2^23, less that and the 128 that makes
  // them positive.
  constexpr int kParts = kLags > 1 ? kLags : 1;
  uint2 packed[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float v[4];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const auto raised = [&](int lag) {
        return __uint_as_float(prmt(w[lag][i] ^ 0x80808080, 0x4b000000, 0x7540 + b));
      };
      float sum = raised(0);
      if constexpr (kLags > 1) sum = sum - 8388608.0f + raised(1);
      if constexpr (kLags > 2) sum = sum - 8388608.0f + raised(2);
      v[b] = sum - (8388608.0f + 128.0f * kParts) + call.tables.offset * kLags;
      if constexpr (kHasLow) v[b] += (raised(1) - 8388736.0f) * 0x1p-7f;
      v[b] *= scale;
    }
    const __nv_bfloat162 low = __floats2bfloat162_rn(v[0], v[1]), high = __floats2bfloat162_rn(v[2], v[3]);
    packed[i] = make_uint2(reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high));
  }
  // Over shared memory, so that a warp writes whole lines.
  __shared__ uint2 staging[8][8][32 + 1];
  uint2* own = staging[threadIdx.x / 32][lane / 4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    own[first_words<kBits>(l) + i] = packed[i];
    own[second_words<kBits>(l, 128) + i] = packed[4 + i];
  }
  __syncwarp();
  auto* to = reinterpret_cast<uint2*>(out + static_cast<uint64_t>(row) * granules * 128);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t granule = job % per_row * 8 + i;
    if (granule < granules) to[granule * 32 + lane] = staging[threadIdx.x / 32][i][lane];
  }
}

// Four values a thread.
__global__ void tokens_kernel(const int8_t* q, const float2* scale_sum, uint64_t words, int words_a_block,
                              __nv_bfloat16* out) {
  const uint64_t i = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x;
  if (i >= words) return;
  const char4 v = reinterpret_cast<const char4*>(q)[i];
  const float scale = scale_sum[i / words_a_block].x;
  const __nv_bfloat162 low = __floats2bfloat162_rn(v.x * scale, v.y * scale),
                       high = __floats2bfloat162_rn(v.z * scale, v.w * scale);
  reinterpret_cast<uint2*>(out)[i] =
      make_uint2(reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high));
}

// Enough rows for four rounds of tiles of 128 x 128 on a large GPU, else what the cache holds.
uint64_t slab_rows(uint64_t cols, uint64_t tokens) {
  const uint64_t tiles = (tokens + 127) / 128,
                 rows = std::max<uint64_t>(kSlabBytes / (cols * 2), 4 * 132 * 128 / tiles);
  return std::max(kLeastRows, std::min(rows, kMostBytes / (cols * 2)) / kLeastRows * kLeastRows);
}

}  // namespace

uint64_t bf16_scratch_bytes(uint64_t tokens, uint64_t rows, uint64_t cols) {
  const uint64_t padded = (cols + 127) / 128 * 128;
  return (tokens + std::min((rows + kLeastRows - 1) / kLeastRows * kLeastRows, slab_rows(padded, tokens))) *
             padded * 2 +
         256;
}

bool launch_bf16(LinearCall& call, const HlwqFormat& f, uint64_t tokens, Cublas& cublas, void* scratch,
                 uint64_t scratch_bytes, cudaStream_t stream) {
  // A ring of several granules would have to be followed across lanes.
  if (f.granule() != 128 || (f.lags > 1 && f.block != 128)) return false;
  const uint64_t cols = static_cast<uint64_t>(call.granules) * 128,
                 for_tokens = (tokens * cols * 2 + 255) / 256 * 256;
  if (scratch_bytes < for_tokens + kLeastRows * cols * 2) return false;
  const uint64_t most = std::min(slab_rows(cols, tokens), (scratch_bytes - for_tokens) / (cols * 2));
  auto* x = static_cast<__nv_bfloat16*>(scratch);
  auto* w = reinterpret_cast<__nv_bfloat16*>(static_cast<unsigned char*>(scratch) + for_tokens);
  const uint64_t words = tokens * cols / 4;
  tokens_kernel<<<static_cast<unsigned>((words + 255) / 256), 256, 0, stream>>>(call.q[0], call.scale_sum,
                                                                                words, f.block / 4, x);
  check_launch("preparing tokens");
  for (int i = 0; i < call.n_parts; ++i) {
    const LinearPart& part = call.parts[i];
    for (uint64_t first = 0; first < part.rows; first += most) {
      const uint64_t rows = std::min<uint64_t>(most, part.rows - first);
      const auto jobs = static_cast<unsigned>((rows * ((call.granules + 7) / 8) + 7) / 8);
      dispatch_format(f.bits, f.lags, [&]<int kBits, int kLags>() {
        expand_kernel<kBits, kLags><<<jobs, 256, 0, stream>>>(part, static_cast<uint32_t>(first),
                                                              static_cast<uint32_t>(rows), call, w);
      });
      check_launch("expanding codes");
      const DenseView slab{.data = w, .type = DenseType::kBF16, .rows = rows, .cols = cols, .pitch = cols};
      cublas.multiply(slab, x, cols, tokens, 0, part.y + first, stream, part.y_stride);
    }
  }
  return true;
}

}  // namespace hlwq::cuda
