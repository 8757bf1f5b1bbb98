#include <cuda_fp16.h>

#include <string>

#include "base/checked.h"
#include "cuda/runtime.h"
#include "cuda/vision_attention.h"

namespace hlwq::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;
constexpr int kQueries = kWarps * 16;  // per block: one row of 16 x 8 tiles a warp
constexpr int kStep = 16;              // what one tensor core instruction adds up
constexpr float kLog2E = 1.4426950408889634f;
// Weights of keys reach the tensor cores times 2^12, so that their lower halves stay clear of FP16's
// subnormals; the sum that they are divided by is scaled alike.
constexpr float kWeightBits = 12;

// Head sizes that the kernel is made for, in steps of 16; others are padded with zeros.
constexpr uint64_t kSteps[] = {1, 2, 3, 4, 5, 8};

uint64_t padded_head(uint64_t head_dim) {
  for (uint64_t steps : kSteps)
    if (head_dim <= steps * kStep) return steps * kStep;
  throw Error(ErrorCode::kUnsupported, "the image encoder has heads of " + std::to_string(head_dim) +
                                           " values, the GPU's can have " + std::to_string(kMaxVisionHead) +
                                           " at most; encode images on the CPU");
}

// Two planes of one kind of heads: [heads, patches, padded] each, value = high + low. Those of queries, keys
// and values follow each other.
struct Planes {
  __half *high, *low;
};

struct HeadsView {
  Planes q, k, v;
  uint64_t patches, heads, kv_heads, head_dim, padded;
};

HeadsView view_of(const VisionSpec& s, uint64_t patches, void* memory) {
  HeadsView h{.q = {},
              .k = {},
              .v = {},
              .patches = patches,
              .heads = s.heads,
              .kv_heads = s.kv_heads,
              .head_dim = s.head_dim,
              .padded = padded_head(s.head_dim)};
  auto* next = static_cast<__half*>(memory);
  for (auto [planes, heads] : {std::pair{&h.q, s.heads}, {&h.k, s.kv_heads}, {&h.v, s.kv_heads}})
    for (__half** plane : {&planes->high, &planes->low}) {
      *plane = next;
      next += heads * patches * h.padded;
    }
  return h;
}

__device__ float clip(float v, ClipRange range) {
  return v < range.low ? range.low : v > range.high ? range.high : v;
}

__device__ void split(float value, __half& high, __half& low) {
  value = fminf(fmaxf(value, -65504.0f), 65504.0f);
  high = __float2half_rn(value);
  low = __float2half_rn(value - __half2float(high));
}

struct Sources {
  ClippedOutput q, k, v;
  const float *q_norm, *k_norm, *rotations;
  float eps;
};

// A warp a head of a patch: heads of queries first, then of keys, then of values; a patch a column of blocks.
__global__ void __launch_bounds__(kThreads)
    store_kernel(HeadsView h, Sources s, uint64_t grid_cols, uint64_t first) {
  __shared__ float normed[kWarps][kMaxVisionHead];
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint64_t slot = uint64_t{blockIdx.y} * kWarps + warp, row = blockIdx.x, patch = first + row;
  if (slot >= h.heads + 2 * h.kv_heads) return;  // whole warps: nothing below waits for other warps
  float* mine = normed[warp];
  const bool is_q = slot < h.heads, is_v = slot >= h.heads + h.kv_heads;
  const uint64_t head = is_q ? slot : is_v ? slot - h.heads - h.kv_heads : slot - h.heads;
  // Field by field: a choice between whole parameters would copy them to memory first.
  const float* data = is_q ? s.q.data : is_v ? s.v.data : s.k.data;
  const uint64_t stride = is_q ? s.q.stride : is_v ? s.v.stride : s.k.stride;
  const ClipRange range{is_q   ? s.q.range.low
                        : is_v ? s.v.range.low
                               : s.k.range.low,
                        is_q   ? s.q.range.high
                        : is_v ? s.v.range.high
                               : s.k.range.high};
  const float* weight = is_q ? s.q_norm : is_v ? nullptr : s.k_norm;
  __half* high = is_q ? h.q.high : is_v ? h.v.high : h.k.high;
  __half* low = is_q ? h.q.low : is_v ? h.v.low : h.k.low;

  const uint32_t dim = static_cast<uint32_t>(h.head_dim), quarter = dim / 4;
  const float* in = data + row * stride + head * dim;
  float sum = 0;
  for (uint32_t i = lane; i < dim; i += 32) {
    const float v = clip(in[i], range);
    mine[i] = v;
    sum += v * v;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(dim) + s.eps);
  for (uint32_t i = lane; i < dim; i += 32) mine[i] *= weight ? scale * weight[i] : scale;
  __syncwarp();
  const uint64_t out = (head * h.patches + patch) * h.padded;
  const float* by_column = s.rotations + patch % grid_cols * 2 * quarter;
  const float* by_row = s.rotations + patch / grid_cols * 2 * quarter;
  for (uint32_t i = lane; i < h.padded; i += 32) {
    float value = i < dim ? mine[i] : 0.0f;
    if (!is_v && i < dim) {
      const bool first_of_pair = i % (2 * quarter) < quarter;
      const float* turn = i < 2 * quarter ? by_column : by_row;
      const float cosine = turn[i % quarter], sine = turn[quarter + i % quarter];
      value = first_of_pair ? value * cosine - mine[i + quarter] * sine
                            : value * cosine + mine[i - quarter] * sine;
    }
    split(value, high[out + i], low[out + i]);
  }
}

// Four 8 x 8 tiles of FP16 from shared memory, the address of one row from each lane; transposed or not.
__device__ void load_tiles(uint32_t (&r)[4], const __half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ void load_tiles_transposed(uint32_t (&r)[4], const __half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// c [16, 8] += a [16, 16] b [16, 8]. Not volatile: the compiler may put independent products between
// dependent ones, which have to wait for each other.
__device__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  for (int half = 0; half < 2; ++half)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(half ? b1 : b0));
#endif
}

// Two floats as FP16 pairs, the first in the lower half.
__device__ void split_pair(float first, float second, uint32_t& high, uint32_t& low) {
  const __half2 h = __floats2half2_rn(first, second);
  const float2 back = __half22float2(h);
  const __half2 l = __floats2half2_rn(first - back.x, second - back.y);
  high = *reinterpret_cast<const uint32_t*>(&h);
  low = *reinterpret_cast<const uint32_t*>(&l);
}

// One block: 64 queries of one head, over all keys in tiles, with an online softmax. A warp owns 16 queries;
// a lane holds rows lane / 4 and lane / 4 + 8 of them, two neighbouring columns of each 8.
template <int kHeadSteps, int kKeys, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    attend_kernel(HeadsView h, ClipRange range, float* __restrict__ out) {
  constexpr int kPadded = kHeadSteps * kStep;
  constexpr int kPitch = kPadded + 8;  // an odd number of 16 bytes: rows of a tile fall into different banks
  constexpr int kChunks = kPadded / 8;
  enum { kKeyHigh, kKeyLow, kValueHigh, kValueLow };
  __shared__ __align__(16) __half tiles[4][kKeys][kPitch];

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint64_t head = blockIdx.y, kv_head = head / (h.heads / h.kv_heads);
  const uint64_t first_row = uint64_t{blockIdx.x} * kQueries + warp * 16 + lane / 4;
  const __half* keys = h.k.high + kv_head * h.patches * kPadded;
  const uint64_t plane_size = h.kv_heads * h.patches * kPadded;

  uint32_t q_high[kHeadSteps][4], q_low[kHeadSteps][4];
#pragma unroll
  for (int step = 0; step < kHeadSteps; ++step)
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const uint64_t row = first_row + part % 2 * 8;
      const uint64_t at = (head * h.patches + row) * kPadded + step * kStep + part / 2 * 8 + lane % 4 * 2;
      const bool there = row < h.patches;
      q_high[step][part] = there ? *reinterpret_cast<const uint32_t*>(h.q.high + at) : 0;
      q_low[step][part] = there ? *reinterpret_cast<const uint32_t*>(h.q.low + at) : 0;
    }

  float sums[2 * kHeadSteps][4] = {};  // of weighted values
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  const int tile_row = lane % 8, tile = lane / 8;  // whose address this lane gives to load_tiles

  for (uint64_t begin = 0; begin < h.patches; begin += kKeys) {
    __syncthreads();  // all have read the last tile
#pragma unroll
    for (int plane = 0; plane < 4; ++plane) {
      const uint4* from = reinterpret_cast<const uint4*>(keys + plane * plane_size + begin * kPadded);
      const uint64_t there = (h.patches - begin) * kChunks;
#pragma unroll
      for (int i = threadIdx.x; i < kKeys * kChunks; i += kThreads)  // zeros beyond the last key
        *reinterpret_cast<uint4*>(&tiles[plane][i / kChunks][i % kChunks * 8]) =
            i < there ? from[i] : uint4{0, 0, 0, 0};
    }
    __syncthreads();

    float scores[kKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kHeadSteps; ++step)
#pragma unroll
      for (int four = 0; four < kKeys / 32;
           ++four) {  // tiles of 8 keys, whose sums do not wait for each other
        uint32_t high[2][4], low[2][4];
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          const int key = (2 * four + pair) * 16 + tile / 2 * 8 + tile_row, dim = step * kStep + tile % 2 * 8;
          load_tiles(high[pair], &tiles[kKeyHigh][key][dim]);
          load_tiles(low[pair], &tiles[kKeyLow][key][dim]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
          multiply_add(scores[4 * four + i], q_low[step], high[i / 2][i % 2 * 2], high[i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          multiply_add(scores[4 * four + i], q_high[step], low[i / 2][i % 2 * 2], low[i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          multiply_add(scores[4 * four + i], q_high[step], high[i / 2][i % 2 * 2],
                       high[i / 2][i % 2 * 2 + 1]);
      }
    if (begin + kKeys > h.patches) {
      const int left = static_cast<int>(h.patches - begin);
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (j * 8 + lane % 4 * 2 + i % 2 >= left) scores[j][i] = -INFINITY;
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float best = top[r];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) best = fmaxf(best, fmaxf(scores[j][2 * r], scores[j][2 * r + 1]));
      best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
      best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
      const float shrink = exp2f((top[r] - best) * kLog2E);
      top[r] = best;
      total[r] *= shrink;
#pragma unroll
      for (int n = 0; n < 2 * kHeadSteps; ++n) {
        sums[n][2 * r] *= shrink;
        sums[n][2 * r + 1] *= shrink;
      }
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          scores[j][i] = exp2f(fmaf(scores[j][i] - best, kLog2E, kWeightBits));
          total[r] += scores[j][i];
        }
    }

#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t high[4], low[4];
#pragma unroll
      for (int part = 0; part < 4; ++part)
        split_pair(scores[2 * step + part / 2][part % 2 * 2], scores[2 * step + part / 2][part % 2 * 2 + 1],
                   high[part], low[part]);
#pragma unroll
      for (int pair = 0; pair < kHeadSteps; ++pair) {
        const int key = step * 16 + tile % 2 * 8 + tile_row, dim = pair * 16 + tile / 2 * 8;
        uint32_t v_high[4], v_low[4];
        load_tiles_transposed(v_high, &tiles[kValueHigh][key][dim]);
        load_tiles_transposed(v_low, &tiles[kValueLow][key][dim]);
#pragma unroll
        for (int side = 0; side < 2; ++side)
          multiply_add(sums[2 * pair + side], low, v_high[2 * side], v_high[2 * side + 1]);
#pragma unroll
        for (int side = 0; side < 2; ++side)
          multiply_add(sums[2 * pair + side], high, v_low[2 * side], v_low[2 * side + 1]);
#pragma unroll
        for (int side = 0; side < 2; ++side)
          multiply_add(sums[2 * pair + side], high, v_high[2 * side], v_high[2 * side + 1]);
      }
    }
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
    const uint64_t row = first_row + r * 8;
    if (row >= h.patches) continue;
    float* to = out + (row * h.heads + head) * h.head_dim;
#pragma unroll
    for (int n = 0; n < 2 * kHeadSteps; ++n) {
      const int dim = n * 8 + lane % 4 * 2;
      if (dim < static_cast<int>(h.head_dim))
        *reinterpret_cast<float2*>(to + dim) = {clip(sums[n][2 * r] / total[r], range),
                                                clip(sums[n][2 * r + 1] / total[r], range)};
    }
  }
}

}  // namespace

uint64_t VisionHeads::bytes(const VisionSpec& spec, uint64_t patches) {
  const uint64_t heads = spec.heads + 2 * spec.kv_heads;
  return checked_mul(checked_mul(heads, patches, "an image"), 2 * sizeof(__half) * padded_head(spec.head_dim),
                     "an image");
}

VisionHeads::VisionHeads(const VisionSpec& spec, uint64_t patches, void* memory)
    : spec_(spec), patches_(patches), memory_(memory) {
  padded_head(spec.head_dim);
}

void VisionHeads::store(const ClippedOutput& q, const ClippedOutput& k, const ClippedOutput& v,
                        const float* q_norm, const float* k_norm, const float* rotations, uint64_t grid_cols,
                        uint64_t first, uint64_t rows, cudaStream_t stream) const {
  const Sources sources{.q = q,
                        .k = k,
                        .v = v,
                        .q_norm = q_norm,
                        .k_norm = k_norm,
                        .rotations = rotations,
                        .eps = spec_.norm_eps};
  const dim3 grid(static_cast<unsigned>(rows),
                  static_cast<unsigned>(ceil_div(spec_.heads + 2 * spec_.kv_heads, kWarps)));
  store_kernel<<<grid, kThreads, 0, stream>>>(view_of(spec_, patches_, memory_), sources, grid_cols, first);
  check_launch("norms and rotations of an image's heads");
}

void VisionHeads::attend(ClipRange range, float* out, cudaStream_t stream) const {
  const HeadsView h = view_of(spec_, patches_, memory_);
  const dim3 grid(static_cast<unsigned>(ceil_div(patches_, kQueries)), static_cast<unsigned>(spec_.heads));
  const auto launch = [&](auto kernel) { kernel<<<grid, kThreads, 0, stream>>>(h, range, out); };
  switch (h.padded / kStep) {
    case 1:
      launch(attend_kernel<1, 64, 4>);
      break;
    case 2:
      launch(attend_kernel<2, 64, 4>);
      break;
    case 3:
      launch(attend_kernel<3, 64, 3>);
      break;
    case 4:
      launch(attend_kernel<4, 64, 3>);
      break;
    case 5:
      launch(attend_kernel<5, 64, 3>);
      break;
    default:
      launch(attend_kernel<8, 32, 2>);
  }
  check_launch("an image's attention");
}

}  // namespace hlwq::cuda
