// A decode step where keys are rebuilt from values, heads of 512 of which 64 pairs rotate, on tensor cores.
//
//   <q, RoPE(w v)> = <w q, v> over the channels that stand still + <q, RoPE(w v)> over the 128 that rotate.
// The first product meets the values as they lie in the tile, rotated by the Hadamard matrix where they are
// coded (so is w q then); only the second needs keys: of a coded value a folded transform of that size undoes
// the rotation. Eight warps share a tile of values decoded to FP16, 64 channels each, and up to 16 query
// rows.
#include "cuda/attention_prefill_tiles.cuh"
#include "cuda/attention_tables.h"
#include "cuda/chain.cuh"
#include "cuda/runtime.h"

namespace hlwq::cuda {
namespace {

constexpr int D = 512, kPairs = 64, kTurning = 2 * kPairs, kWarps = 8, kThreads = kWarps * 32;
constexpr int kRows = 16, kKeys = 32;
[[maybe_unused]] constexpr int kChannels = D / kWarps;  // of a warp
constexpr int kScores = kRows * kKeys / 32;             // of a lane, where a warp holds those of a tile
[[maybe_unused]] constexpr float kWeightExponent = 10;  // weights up to 2^10: small ones stay normal numbers

struct RebuiltArgs {
  AttentionArgs base;
  CodeTable v_table;
};

struct Shared {
  __half still[kRows * D];           // w q of the channels that stand still
  __half turning[kRows * kTurning];  // q of those that turn: pairs' first halves, then their second ones
  __half v[kKeys * D], k[kKeys * kTurning];
  float part[kWarps][kScores][32], scores[kScores][32];
  float scale[kRows];
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

/// Both parts of a query, by a power of two in the range of FP16; keys and values lie in units of v_unit.
__device__ void load_query(Shared& shared, int r, const float* q, float scale, const float* weight,
                           bool v_coded, float v_unit, int lane) {
  float x[16], turning[4];
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = q ? q[lane + 32 * i] * (scale * 1.44269504f) : 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) turning[i] = x[i % 2 + 8 * (i / 2)];
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = (i & 7) < 2 ? 0.0f : x[i] * weight[lane + 32 * i];
  if (v_coded) {
    hadamard_sums<16>(x, lane);
#pragma unroll
    for (int i = 0; i < 16; ++i) x[i] *= rsqrtf(static_cast<float>(D));
  }
  float top = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) top = fmaxf(top, fmaxf(fabsf(x[i]), fabsf(turning[i % 4])));
  for (int step = 16; step; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
  const int exponent = top > 0 && top < INFINITY ? ilogbf(top) : 0;
  const float down = ldexpf(1.0f, -exponent);
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int c = lane + 32 * i;
    shared.still[tile_at<D>(r, c / 8) + c % 8] = __float2half_rn(x[i] * down);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int c = lane + 32 * i;
    shared.turning[tile_at<kTurning>(r, c / 8) + c % 8] = __float2half_rn(turning[i] * down);
  }
  if (lane == 0) shared.scale[r] = ldexpf(v_unit, exponent);
}

/// Channels lane, 32 + lane, 256 + lane and 288 + lane of a value that lies rotated: bits 6 and 7 of a
/// channel are summed over, the others transformed.
__device__ __forceinline__ void unrotate(const __half* v, int row, float (&y)[4], int lane) {
  float e[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    e[i] = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int c = lane + 32 * (i % 2) + 64 * j + 256 * (i / 2);
      e[i] += __half2float(v[tile_at<D>(row, c / 8) + c % 8]);
    }
  }
  const float a = e[0] + e[1], b = e[0] - e[1], c = e[2] + e[3], d = e[2] - e[3];
  y[0] = a + c;
  y[1] = b + d;
  y[2] = a - c;
  y[3] = b - d;
#pragma unroll
  for (int step = 1; step < 32; step *= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float other = __shfl_xor_sync(~0u, y[i], step);
      y[i] = lane & step ? other - y[i] : y[i] + other;
    }
#pragma unroll
  for (int i = 0; i < 4; ++i) y[i] *= rsqrtf(static_cast<float>(D));
}

#endif

/// Grid: (splits, KV heads, sequences).
__global__ void __launch_bounds__(kThreads, 2) rebuilt_kernel(const __grid_constant__ RebuiltArgs args) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ uint4 dynamic[];
  auto& shared = *reinterpret_cast<Shared*>(dynamic);
  const AttentionArgs& a = args.base;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4,
            m = lane / 8;
  const int split = blockIdx.x, head = blockIdx.y, sequence = blockIdx.z;
  const int rows = a.tokens * a.group, last_token = a.tokens - 1;
  start_next_kernel();
  wait_for_previous_kernel();
  const KvView& view = a.views[sequence];
  const KeySpan span{a, static_cast<int>(a.positions[sequence])};
  const bool v_coded = a.v_bits < 16;
  const float code_unit = 16.0f * rsqrtf(static_cast<float>(D)), v_unit = v_coded ? code_unit : 1.0f;
  const auto index = [&](int r) {
    return (static_cast<int64_t>(sequence) * a.tokens + r / a.group) * a.heads + head * a.group + r % a.group;
  };
  for (int r = warp; r < kRows; r += kWarps)
    load_query(shared, r, r < rows ? a.q + index(r) * D : nullptr, a.scale, view.k_weight, v_coded, v_unit,
               lane);
  float weight[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) weight[i] = view.k_weight[lane + 32 * (i % 2) + 256 * (i / 2)];

  const KeyRange own = span.part({span.first_key(0), span.end_key(last_token)}, split);
  int source = -1, key = 0, end = 0;
  const auto enter = [&](int& at_source, int& at_key,
                         int& at_end) {  // the first tile from here on, or source 3
    while (at_key >= at_end && at_source < 3) {
      if (++at_source == 3) break;
      at_key = max(own.begin, span.keys(0, static_cast<KeySource>(at_source)).begin);
      at_end = min(own.end, span.keys(last_token, static_cast<KeySource>(at_source)).end);
    }
  };
  enter(source, key, end);

  TileShare<D, kKeys, kThreads> share;
  const auto fetch = [&](int at_source, int at_key, int at_end) {
    share.load(ring_of(view.v, static_cast<KeySource>(at_source)), head, at_key, min(kKeys, at_end - at_key));
  };
  if (source < 3) fetch(source, key, end);

  const int tokens[2] = {min(g, rows - 1) / a.group, min(g + 8, rows - 1) / a.group};
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {};
  float o[kChannels / 8][4] = {};
  while (source < 3) {
    const int n = min(kKeys, end - key);
    const bool exact = v_coded && source != 1;
    float angles[kKeys / kWarps][4];  // of this warp's rows: cosines of pairs lane and 32 + lane, then sines
#pragma unroll
    for (int i = 0; i < kKeys / kWarps; ++i) {
      const float* from = view.k_rope + static_cast<uint64_t>(key + min(warp + kWarps * i, n - 1)) * kTurning;
#pragma unroll
      for (int j = 0; j < 4; ++j) angles[i][j] = from[lane + 32 * j];
    }
    __syncthreads();  // queries; the last tile has been read
    share.store(shared.v, exact ? 16 : a.v_bits, v_coded ? 1.0f / code_unit : 1.0f, args.v_table, nullptr);
    __syncthreads();

#pragma unroll
    for (int i = 0; i < kKeys / kWarps; ++i) {
      const int r = warp + kWarps * i;
      float y[4];
      if (v_coded) {
        unrotate(shared.v, r, y, lane);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int c = lane + 32 * (j % 2) + 256 * (j / 2);
          y[j] = __half2float(shared.v[tile_at<D>(r, c / 8) + c % 8]);
        }
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float x = y[j] * weight[j], z = y[j + 2] * weight[j + 2];
        const float cosine = angles[i][j], sine = angles[i][j + 2];
        const int c = lane + 32 * j;
        shared.k[tile_at<kTurning>(r, c / 8) + c % 8] = __float2half_rn(x * cosine - z * sine);
        shared.k[tile_at<kTurning>(r, 8 + c / 8) + c % 8] = __float2half_rn(z * cosine + x * sine);
      }
    }
    int next_source = source, next_key = key + kKeys, next_end = end;
    enter(next_source, next_key, next_end);
    if (next_source < 3) fetch(next_source, next_key, next_end);

    const auto products = [&](float(&s)[kKeys / 8][4], const __half* x_at, const __half* y_at, int y_step) {
      uint32_t x[4];
      load_matrices(x, x_at);
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t y[4];
        load_matrices(y, y_at + j * 16 * y_step);
        mma_f16(s[2 * j], x, y[0], y[1]);
        mma_f16(s[2 * j + 1], x, y[2], y[3]);
      }
    };
    const int x_row = (m & 1) * 8 + lane % 8, y_row = (m >> 1) * 8 + lane % 8;
    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kChannels / 16; ++step) {
      const int chunk = warp * (kChannels / 8) + 2 * step;
      products(s, shared.still + tile_at<D>(x_row, chunk + (m >> 1)),
               shared.v + tile_at<D>(y_row, chunk + (m & 1)), D);
    }
    __syncthreads();
    products(s, shared.turning + tile_at<kTurning>(x_row, 2 * warp + (m >> 1)),
             shared.k + tile_at<kTurning>(y_row, 2 * warp + (m & 1)), kTurning);
#pragma unroll
    for (int i = 0; i < kScores; ++i) shared.part[warp][i][lane] = s[i / 4][i % 4];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kScores / kWarps; ++i) {
      const int mine = warp * (kScores / kWarps) + i;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += shared.part[w][mine][lane];
      shared.scores[mine][lane] = sum * shared.scale[g + 8 * (mine % 4 / 2)];
    }
    __syncthreads();

    uint32_t p[kKeys / 8][2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const KeyRange seen = span.keys(tokens[r], static_cast<KeySource>(source));
      const int lo = seen.begin - key, hi = min(seen.end - key, n);
      float x[kKeys / 8][2], tile_top = top[r];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int at = 8 * j + 2 * t + c;
          const float score = shared.scores[4 * j + 2 * r + c][lane];
          x[j][c] = at >= lo && at < hi ? score : -INFINITY;
          tile_top = fmaxf(tile_top, x[j][c]);
        }
      tile_top = fmaxf(tile_top, __shfl_xor_sync(~0u, tile_top, 1));
      tile_top = fmaxf(tile_top, __shfl_xor_sync(~0u, tile_top, 2));
      const float base = tile_top == -INFINITY ? 0.0f : tile_top, kept = exp2f(top[r] - base);
      top[r] = tile_top;
      total[r] *= kept;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          x[j][c] = exp2f(x[j][c] - base + kWeightExponent);
          total[r] += x[j][c];
        }
        p[j][r] = pack_f16(x[j][0], x[j][1]);
      }
#pragma unroll
      for (int i = 0; i < kChannels / 8; ++i) {
        o[i][2 * r] *= kept;
        o[i][2 * r + 1] *= kept;
      }
    }
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const uint32_t x[4] = {p[2 * k][0], p[2 * k][1], p[2 * k + 1][0], p[2 * k + 1][1]};
      const int row = k * 16 + (m & 1) * 8 + lane % 8;
#pragma unroll
      for (int i = 0; i < kChannels / 16; ++i) {
        uint32_t y[4];
        load_transposed(y, shared.v + tile_at<D>(row, warp * (kChannels / 8) + 2 * i + (m >> 1)));
        mma_f16(o[2 * i], x, y[0], y[1]);
        mma_f16(o[2 * i + 1], x, y[2], y[3]);
      }
    }
    source = next_source;
    key = next_key;
    end = next_end;
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(~0u, total[r], 1);
    total[r] += __shfl_xor_sync(~0u, total[r], 2);
    const int row = g + 8 * r;
    if (row >= rows) continue;
    const int64_t i = index(row);
    const float unit = exp2f(-kWeightExponent);
    if (a.splits > 1 && t == 0 && warp == 0) {
      float* stats = a.stats + (i * a.splits + split) * 2;
      stats[0] = top[r] * 0.693147181f;
      stats[1] = total[r] * unit;
    }
    const float scale = a.splits > 1 ? v_unit * unit : v_unit / total[r];
    float* to =
        (a.splits > 1 ? a.sums + (i * a.splits + split) * D : a.out + i * D) + warp * kChannels + 2 * t;
#pragma unroll
    for (int c = 0; c < kChannels / 8; ++c)
      *reinterpret_cast<float2*>(to + 8 * c) = {o[c][2 * r] * scale, o[c][2 * r + 1] * scale};
  }
#endif
}

}  // namespace

bool rebuilt_fits(const AttentionPlan& plan) {
  const KvView& l = plan.layout;
  const int v = l.v.main.bits;
  return l.k.main.bits == 0 && l.head_dim == D && l.k_pairs == kPairs && ((v >= 2 && v <= 4) || v == 16) &&
         plan.tokens * (plan.heads / l.kv_heads) <= kRows;
}

void launch_rebuilt(const AttentionArgs& base, int kv_heads, cudaStream_t stream) {
  const RebuiltArgs args{base, code_table(base.tables, base.v_bits)};
  check(cudaFuncSetAttribute(rebuilt_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)),
        "attention's shared memory");
  const dim3 grid(static_cast<unsigned>(base.splits), static_cast<unsigned>(kv_heads),
                  static_cast<unsigned>(base.sequences));
  launch_chained(rebuilt_kernel, grid, kThreads, sizeof(Shared), stream, args);
  check_launch("attention");
}

}  // namespace hlwq::cuda
