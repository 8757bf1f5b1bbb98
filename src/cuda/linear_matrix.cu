// Many tokens: a slab of rows is expanded to INT8 once, small enough to stay in the L2 cache, and multiplied
// with all tokens by the INT8 tensor cores; each block of 128 columns is scaled in floats. What the codes say
// is summed as integers, as everywhere.
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/async_copy.cuh"
#include "cuda/hlwq_words.cuh"
#include "cuda/linear_kernels.h"
#include "cuda/tensor_core.cuh"

namespace hlwq::cuda {
namespace {

constexpr int kTile = 128;                 // rows and tokens of a block's tile, and the columns of a step
constexpr uint64_t kSlabBytes = 24 << 20;  // INT8 values that share the L2 cache with activations and outputs

/// A slab ready for the product.
struct Slab {
  int8_t* values;                          // [rows, granules * 128], pair order, lags summed
  float* norms;                            // [granules, rows], with the step
  float2* tokens;                          // [granules, padded tokens]: scale, and offset times sum
  uint32_t rows, granules, tokens_padded;  // rows: a multiple of kTile
};

// Byte by byte, no sum leaving INT8.
__device__ __forceinline__ uint32_t add_bytes(uint32_t a, uint32_t b) {
  return ((a & 0x7f7f7f7f) + (b & 0x7f7f7f7f)) ^ ((a ^ b) & 0x80808080);
}

// A warp expands 8 blocks of a row.
template <int kBits, int kLags>
__global__ void __launch_bounds__(256)
    expand_kernel(LinearPart part, uint32_t first_row, uint32_t granule_bytes,
                  const __grid_constant__ PrmtTables tables, Slab slab) {
  const int lane = threadIdx.x % 32, l = lane % 4;
  const uint32_t per_row = (slab.granules + 7) / 8;
  const uint32_t job = blockIdx.x * 8 + threadIdx.x / 32, row = job / per_row;
  if (row >= slab.rows) return;
  const uint32_t g = job % per_row * 8 + lane / 4, source = min(first_row + row, part.rows - 1);
  const uint32_t at = min(g, slab.granules - 1);  // all lanes take part in the exchange
  const LaneCodes<kBits> c = load_codes<kBits, true>(
      part.codes + (static_cast<uint64_t>(source) * slab.granules + at) * granule_bytes, l, 128);
  uint32_t w[8];
  decode_words<kBits, 0, true>(c, tables, w);
  if constexpr (kLags > 1) {
    uint32_t v[8];
    decode_words<kBits, 1, true>(c, tables, v);
    if constexpr (kLags > 2) {
      uint32_t u[8];
      decode_words<kBits, 2, true>(c, tables, u);
      turn_right<kBits>(u);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = add_bytes(v[i], u[i]);
    }
    turn_right<kBits>(v);
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = add_bytes(w[i], v[i]);
  }
  if (g >= slab.granules) return;
  auto* out = reinterpret_cast<uint4*>(slab.values + (static_cast<uint64_t>(row) * slab.granules + g) * 128);
  out[first_words<kBits>(l) / 4] = make_uint4(w[0], w[1], w[2], w[3]);
  out[second_words<kBits>(l, 128) / 4] = make_uint4(w[4], w[5], w[6], w[7]);
  if (l == 0)
    slab.norms[static_cast<uint64_t>(g) * slab.rows + row] =
        first_row + row < part.rows
            ? __half2float(__ushort_as_half(part.norms[static_cast<uint64_t>(source) * slab.granules + g])) *
                  tables.step
            : 0.0f;
}

__global__ void tokens_kernel(const float2* scale_sum, uint32_t tokens, float offset, Slab slab) {
  const uint32_t t = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.y;
  if (t >= slab.tokens_padded) return;
  const float2 s = scale_sum[static_cast<uint64_t>(min(t, tokens - 1)) * slab.granules + g];
  slab.tokens[static_cast<uint64_t>(g) * slab.tokens_padded + t] = make_float2(s.x, offset * s.y);
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const int8_t* shared) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

struct Stage {
  int8_t a[kTile * 128],
      b[kTile * 128];  // 16-byte pieces of a row exchanged, so that 8 rows meet no bank twice
  float norms[kTile];
  float2 tokens[kTile];
};

// Integers near this float differ from it by exactly their distance: sums start here and need no conversion.
// A block's sum is below 127 * 127 * 128 < 2^22.
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23

/// kWhole: offset times sum is a whole number, so that it can be taken off the magic number exactly.
template <int kStages, bool kWhole>
__global__ void __launch_bounds__(256, 1) product_kernel(Slab slab, const int8_t* q, uint32_t tokens,
                                                         float* y, uint64_t y_stride, uint32_t y_rows) {
  extern __shared__ __align__(128) unsigned char memory[];
  auto* stages = reinterpret_cast<Stage*>(memory);
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const uint32_t row0 = blockIdx.x * kTile, token0 = blockIdx.y * kTile, granules = slab.granules;
  const uint64_t k_bytes = static_cast<uint64_t>(granules) * 128;

  const auto load = [&](uint32_t g) {
    Stage& s = stages[g % kStages];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int piece = tid + 256 * i, r = piece / 8, c = piece % 8, to = r * 128 + (c ^ (r & 7)) * 16;
      copy_16(s.a + to, slab.values + (row0 + r) * k_bytes + static_cast<uint64_t>(g) * 128 + c * 16);
      copy_16(s.b + to, q + min(token0 + r, tokens - 1) * k_bytes + static_cast<uint64_t>(g) * 128 + c * 16);
    }
    if (tid < 32)
      copy_16(s.norms + 4 * tid, slab.norms + static_cast<uint64_t>(g) * slab.rows + row0 + 4 * tid);
    else if (tid < 96)
      copy_16(s.tokens + 2 * (tid - 32),
              slab.tokens + static_cast<uint64_t>(g) * slab.tokens_padded + token0 + 2 * (tid - 32));
  };

  const int warp_row = warp / 4 * 64, warp_token = warp % 4 * 32, matrix = lane / 8, in_matrix = lane % 8;
  float sum[4][4][4] = {};  // [16 rows][8 tokens][fragment]
  for (uint32_t g = 0; g < kStages - 1; ++g) {
    if (g < granules) load(g);
    copies_end();
  }
  for (uint32_t g = 0; g < granules; ++g) {
    copies_wait<kStages - 2>();
    __syncthreads();
    if (g + kStages - 1 < granules) load(g + kStages - 1);
    copies_end();
    const Stage& s = stages[g % kStages];
    uint32_t b[4][4][2];  // [32 columns][8 tokens]
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int n = 0; n < 4; n += 2) {
        const int r = warp_token + n * 8 + in_matrix + matrix / 2 * 8, c = 2 * k + matrix % 2;
        uint32_t m[4];
        load_matrices(m, s.b + r * 128 + (c ^ (r & 7)) * 16);
        b[k][n][0] = m[0], b[k][n][1] = m[1], b[k][n + 1][0] = m[2], b[k][n + 1][1] = m[3];
      }
    float2 token[4][2];
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        token[n][i] = s.tokens[warp_token + n * 8 + lane % 4 * 2 + i];
        if (kWhole) token[n][i].y = kMagic - token[n][i].y;
      }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      uint32_t a[4][4];
      const int r = warp_row + m * 16 + in_matrix + matrix % 2 * 8;
#pragma unroll
      for (int k = 0; k < 4; ++k) load_matrices(a[k], s.a + r * 128 + ((2 * k + matrix / 2) ^ (r & 7)) * 16);
      const float norm[2] = {s.norms[warp_row + m * 16 + lane / 4],
                             s.norms[warp_row + m * 16 + lane / 4 + 8]};
      int dot[4][4];
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) dot[n][i] = __float_as_int(kMagic);
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int n = 0; n < 4; ++n)
          mma_s8(dot[n], a[k][0], a[k][1], a[k][2], a[k][3], b[k][n][0], b[k][n][1]);
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 t = token[n][i % 2];
          const float value =
              kWhole ? __int_as_float(dot[n][i]) - t.y : __int_as_float(dot[n][i]) - kMagic + t.y;
          sum[m][n][i] += norm[i / 2] * t.x * value;
        }
    }
  }
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t r = row0 + warp_row + m * 16 + lane / 4 + i / 2 * 8;
        const uint32_t t = token0 + warp_token + n * 8 + lane % 4 * 2 + i % 2;
        if (r < y_rows && t < tokens) y[t * y_stride + r] = sum[m][n][i];
      }
}

template <int kStages, bool kWhole>
void multiply(const Slab& slab, const int8_t* q, uint32_t tokens, float* y, uint64_t stride, uint32_t rows,
              cudaStream_t stream) {
  constexpr size_t kBytes = kStages * sizeof(Stage);
  check(cudaFuncSetAttribute(product_kernel<kStages, kWhole>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kBytes),
        "asking for shared memory");
  const dim3 grid(slab.rows / kTile, slab.tokens_padded / kTile);
  product_kernel<kStages, kWhole><<<grid, 256, kBytes, stream>>>(slab, q, tokens, y, stride, rows);
  check_launch("the linear of many tokens");
}

uint64_t padded(uint64_t n) { return (n + kTile - 1) / kTile * kTile; }

}  // namespace

uint64_t matrix_scratch_bytes(uint64_t tokens, uint64_t rows, uint64_t cols) {
  const uint64_t granules = (cols + 127) / 128,
                 slab = std::min(padded(rows),
                                 std::max<uint64_t>(kTile, kSlabBytes / (granules * 128) / kTile * kTile));
  return slab * granules * (128 + sizeof(float)) + granules * padded(tokens) * sizeof(float2) + 1024;
}

bool launch_matrix(LinearCall& call, const HlwqFormat& f, const LookupTables& tables, uint64_t tokens,
                   void* scratch, uint64_t scratch_bytes, int shared_memory, cudaStream_t stream) {
  // Sums of lags must fit INT8, and blocks be what a step covers.
  if (f.block != 128 || f.bits > 5 || (f.lags > 1 && tables.largest_sum > 127)) return false;
  const bool deep = shared_memory >= static_cast<int>(4 * sizeof(Stage));
  if (shared_memory < static_cast<int>(2 * sizeof(Stage))) return false;
  const uint64_t per_row = static_cast<uint64_t>(call.granules) * (128 + sizeof(float));
  const uint64_t for_tokens = call.granules * padded(tokens) * sizeof(float2);
  if (scratch_bytes < for_tokens + 1024 + per_row * kTile) return false;
  const uint64_t fits = (scratch_bytes - for_tokens - 1024) / per_row / kTile * kTile;
  const uint64_t slab_rows =
      std::min(fits, std::max<uint64_t>(kTile, kSlabBytes / (call.granules * 128) / kTile * kTile));

  Slab slab{};
  slab.granules = call.granules;
  slab.tokens_padded = static_cast<uint32_t>(padded(tokens));
  auto* p = static_cast<unsigned char*>(scratch);
  slab.tokens = reinterpret_cast<float2*>(p);
  p += (for_tokens + 255) / 256 * 256;
  slab.norms = reinterpret_cast<float*>(p);
  slab.values = reinterpret_cast<int8_t*>(p + (call.granules * slab_rows * sizeof(float) + 255) / 256 * 256);
  tokens_kernel<<<dim3(slab.tokens_padded / 128, call.granules), 128, 0, stream>>>(
      call.scale_sum, static_cast<uint32_t>(tokens), call.tables.offset * static_cast<float>(f.lags), slab);
  check_launch("preparing tokens");
  for (int i = 0; i < call.n_parts; ++i) {
    const LinearPart& part = call.parts[i];
    for (uint64_t first = 0; first < part.rows; first += slab_rows) {
      const uint64_t rows = std::min<uint64_t>(slab_rows, part.rows - first);
      slab.rows = static_cast<uint32_t>(padded(rows));
      const auto jobs =
          static_cast<unsigned>((static_cast<uint64_t>(slab.rows) * ((call.granules + 7) / 8) + 7) / 8);
      dispatch_format(f.bits, f.lags, [&]<int kBits, int kLags>() {
        if constexpr (kBits <= 5)
          expand_kernel<kBits, kLags><<<jobs, 256, 0, stream>>>(part, static_cast<uint32_t>(first),
                                                                call.granule_bytes, call.tables, slab);
      });
      check_launch("expanding codes");
      const auto run = [&]<bool kWhole>() {
        const auto n = static_cast<uint32_t>(tokens);
        float* y = part.y + first;
        if (deep)
          multiply<4, kWhole>(slab, call.q[0], n, y, part.y_stride, static_cast<uint32_t>(rows), stream);
        else
          multiply<2, kWhole>(slab, call.q[0], n, y, part.y_stride, static_cast<uint32_t>(rows), stream);
      };
      if (f.lags == 2)
        run.template operator()<true>();
      else
        run.template operator()<false>();
    }
  }
  return true;
}

}  // namespace hlwq::cuda
