// Attention of many tokens on tensor cores: FP16 products with float sums, tiles of keys and values decoded
// into shared memory once for 64 query rows (tokens x heads of a group).
//
// Queries are scaled by a power of two, row by row, and rounded to FP16; so are weights, relative to the
// largest: 2^-12 of their size, an eighth of what BF16 would cost.
#include "cuda/attention_prefill_tiles.cuh"
#include "cuda/attention_tables.h"
#include "cuda/runtime.h"

namespace hlwq::cuda {
namespace {

[[maybe_unused]] constexpr float kWeightExponent = 10;  // weights up to 2^10: small ones stay normal numbers

struct PrefillArgs {
  AttentionArgs base;
  CodeTable k_table, v_table;
};

/// D: head size. A warp has 16 rows and up to 256 channels of the outputs: heads of 512 take two warps a row
/// group, each of which also sums half of the scores' products.
template <int D, int kRowGroups, int kKeys>
struct Shape {
  static constexpr int kColumns = D > 256 ? D / 256 : 1, kWarps = kRowGroups * kColumns,
                       kThreads = kWarps * 32;
  static constexpr int kRows = kRowGroups * 16;
  static constexpr int channels() { return D / kColumns; }
  struct Shared {
    __half q[kRows * D], k[kKeys * D], v[kKeys * D];
    float exchange[kColumns > 1 ? kWarps : 1][kKeys / 2][32];  // a warp's half of the scores
    float scale[kRows];
    uint16_t levels8[256];
  };
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <int kColumns>
__device__ inline void pair_barrier(int row_group) {
  if constexpr (kColumns > 1)
    asm volatile("bar.sync %0, %1;" ::"r"(row_group + 1), "n"(32 * kColumns) : "memory");
}

/// The tiles of all sources, one after another.
struct TileCursor {
  int source = 0, key = 0, end = 0;
};

#endif

/// Grid: (row tiles x splits, KV heads, sequences).
template <int D, int kRowGroups, int kKeys>
__global__ void __launch_bounds__(Shape<D, kRowGroups, kKeys>::kThreads, D > 256 ? 1 : 2)
    prefill_kernel(const __grid_constant__ PrefillArgs args) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using S = Shape<D, kRowGroups, kKeys>;
  extern __shared__ uint4 dynamic[];
  auto& shared = *reinterpret_cast<typename S::Shared*>(dynamic);
  const AttentionArgs& a = args.base;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int row_group = warp / S::kColumns, column = warp % S::kColumns;
  // Late rows see more keys: they start first, so that all end together.
  const int row_tiles = (a.tokens * a.group + S::kRows - 1) / S::kRows;
  const int split = blockIdx.x % a.splits, first_row = (row_tiles - 1 - blockIdx.x / a.splits) * S::kRows;
  const int head = blockIdx.y, sequence = blockIdx.z;
  const int rows = min(S::kRows, a.tokens * a.group - first_row);
  const KvView& view = a.views[sequence];
  const KeySpan span{a, static_cast<int>(a.positions[sequence])};
  const bool rebuilt = a.k_bits == 0, k_coded = !rebuilt && a.k_bits < 16, v_coded = a.v_bits < 16;
  // Coded vectors lie in units of 16 / sqrt(D).
  const float code_unit = 16.0f * rsqrtf(static_cast<float>(D));
  const float k_unit = k_coded ? code_unit : 1.0f, v_unit = v_coded ? code_unit : 1.0f;
  const auto index = [&](int r) {
    const int row = first_row + r;
    return (static_cast<int64_t>(sequence) * a.tokens + row / a.group) * a.heads + head * a.group +
           row % a.group;
  };

  if (a.k_bits == 8)
    for (int i = thread; i < 256; i += S::kThreads)
      shared.levels8[i] = __half_as_ushort(__float2half_rn(level(a.tables, 8, i)));
  for (int r = warp; r < S::kRows; r += S::kWarps) {
    constexpr int kEach = D / 32;
    float x[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      x[i] = r < rows ? a.q[index(r) * D + lane + 32 * i] * (a.scale * 1.44269504f) : 0.0f;
    if (k_coded) {
      hadamard_sums<kEach>(x, lane);
#pragma unroll
      for (int i = 0; i < kEach; ++i) x[i] *= rsqrtf(static_cast<float>(D));
    }
    float top = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) top = fmaxf(top, fabsf(x[i]));
    for (int step = 16; step; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    const int exponent = top > 0 && top < INFINITY ? ilogbf(top) : 0;
    const float down = ldexpf(1.0f, -exponent);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int c = lane + 32 * i;
      shared.q[tile_at<D>(r, c / 8) + c % 8] = __float2half_rn(x[i] * down);
    }
    if (lane == 0) shared.scale[r] = ldexpf(k_unit, exponent);
  }

  const int first_token = first_row / a.group, last_token = (first_row + rows - 1) / a.group;
  const KeyRange own = span.part({span.first_key(first_token), span.end_key(last_token)}, split);
  const auto enter = [&](TileCursor& c) {  // the first tile from c on, or source 3
    while (c.key >= c.end && c.source < 3) {
      if (++c.source == 3) break;
      const auto source = static_cast<KeySource>(c.source);
      c.key = max(own.begin, span.keys(first_token, source).begin);
      c.end = min(own.end, span.keys(last_token, source).end);
    }
  };
  const int token[2] = {(first_row + min(row_group * 16 + g, rows - 1)) / a.group,
                        (first_row + min(row_group * 16 + g + 8, rows - 1)) / a.group};
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {};
  float o[S::channels() / 8][4] = {};

  TileShare<D, kKeys, S::kThreads> share;
  const auto load = [&](const KvStore& store, const TileCursor& c) {
    share.load(ring_of(store, static_cast<KeySource>(c.source)), head, c.key, min(kKeys, c.end - c.key));
  };
  const auto put = [&](__half* tile, const KvStore& store, const TileCursor& c, bool coded,
                       const CodeTable& table) {
    share.store(tile, ring_of(store, static_cast<KeySource>(c.source)).bits, coded ? 1.0f / code_unit : 1.0f,
                table, shared.levels8);
  };
  TileCursor at{-1, 0, 0};
  enter(at);
  if (at.source < 3) load(rebuilt ? view.v : view.k, at);
  __syncthreads();  // levels8
  if (at.source < 3 && !rebuilt) put(shared.k, view.k, at, k_coded, args.k_table);

  while (at.source < 3) {
    const int n = min(kKeys, at.end - at.key);
    TileCursor next = at;
    next.key += kKeys;
    enter(next);
    if (rebuilt) {
      __syncthreads();  // the last tile has been read
      put(shared.v, view.v, at, v_coded, args.v_table);
      if (next.source < 3) load(view.v, next);
      __syncthreads();
      rebuild_tile<D, S::kWarps>(view, v_coded, v_unit, at.key, n, shared.v, shared.k, warp, lane);
    } else {
      load(view.v, at);
    }
    __syncthreads();

    float s[kKeys / 8][4] = {};
#pragma unroll 4
    for (int step = 0; step < S::channels() / 16; ++step) {
      const int chunk = column * (S::channels() / 8) + 2 * step, m = lane / 8;
      uint32_t x[4];
      load_matrices(x, shared.q + tile_at<D>(row_group * 16 + (m & 1) * 8 + lane % 8, chunk + (m >> 1)));
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t y[4];
        load_matrices(y, shared.k + tile_at<D>(j * 16 + (m >> 1) * 8 + lane % 8, chunk + (m & 1)));
        mma_f16(s[2 * j], x, y[0], y[1]);
        mma_f16(s[2 * j + 1], x, y[2], y[3]);
      }
    }
    if constexpr (S::kColumns > 1) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) shared.exchange[warp][i][lane] = s[i / 4][i % 4];
      pair_barrier<S::kColumns>(row_group);
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) s[i / 4][i % 4] += shared.exchange[warp ^ 1][i][lane];
    }

    const auto source = static_cast<KeySource>(at.source);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float scale = shared.scale[row_group * 16 + g + 8 * r];
      const KeyRange seen = span.keys(token[r], source);
      const int lo = seen.begin - at.key, hi = min(seen.end - at.key, n);
      float tile_top = top[r];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int key = 8 * j + 2 * t + c;
          float& x = s[j][2 * r + c];
          x = key >= lo && key < hi ? x * scale : -INFINITY;
          tile_top = fmaxf(tile_top, x);
        }
      tile_top = fmaxf(tile_top, __shfl_xor_sync(~0u, tile_top, 1));
      tile_top = fmaxf(tile_top, __shfl_xor_sync(~0u, tile_top, 2));
      const float base = tile_top == -INFINITY ? 0.0f : tile_top;
      const float kept = exp2f(top[r] - base);
      top[r] = tile_top;
      total[r] *= kept;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = s[j][2 * r + c];
          x = exp2f(x - base + kWeightExponent);
          total[r] += x;
        }
      if (__any_sync(~0u, kept != 1.0f)) {
#pragma unroll
        for (int i = 0; i < S::channels() / 8; ++i) {
          o[i][2 * r] *= kept;
          o[i][2 * r + 1] *= kept;
        }
      }
    }

    if (!rebuilt) {
      put(shared.v, view.v, at, v_coded, args.v_table);
      if (next.source < 3) load(view.k, next);
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const uint32_t p[4] = {pack_f16(s[2 * k][0], s[2 * k][1]), pack_f16(s[2 * k][2], s[2 * k][3]),
                             pack_f16(s[2 * k + 1][0], s[2 * k + 1][1]),
                             pack_f16(s[2 * k + 1][2], s[2 * k + 1][3])};
      const int m = lane / 8, row = k * 16 + (m & 1) * 8 + lane % 8;
#pragma unroll
      for (int i = 0; i < S::channels() / 16; ++i) {
        uint32_t y[4];
        load_transposed(y, shared.v + tile_at<D>(row, column * (S::channels() / 8) + 2 * i + (m >> 1)));
        mma_f16(o[2 * i], p, y[0], y[1]);
        mma_f16(o[2 * i + 1], p, y[2], y[3]);
      }
    }
    if (!rebuilt && next.source < 3) put(shared.k, view.k, next, k_coded, args.k_table);
    at = next;
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(~0u, total[r], 1);
    total[r] += __shfl_xor_sync(~0u, total[r], 2);
    const int row = row_group * 16 + g + 8 * r;
    if (row >= rows) continue;
    const int64_t i = index(row);
    const float unit = exp2f(-kWeightExponent);
    if (a.splits > 1 && t == 0 && column == 0) {
      float* stats = a.stats + (i * a.splits + split) * 2;
      stats[0] = top[r] * 0.693147181f;
      stats[1] = total[r] * unit;
    }
    const float scale = a.splits > 1 ? v_unit * unit : v_unit / total[r];
    float* to =
        (a.splits > 1 ? a.sums + (i * a.splits + split) * D : a.out + i * D) + column * S::channels() + 2 * t;
#pragma unroll
    for (int c = 0; c < S::channels() / 8; ++c)
      *reinterpret_cast<float2*>(to + 8 * c) = {o[c][2 * r] * scale, o[c][2 * r + 1] * scale};
  }
#endif
}

template <int D, int kRowGroups, int kKeys>
void launch(const PrefillArgs& args, int kv_heads, cudaStream_t stream) {
  using S = Shape<D, kRowGroups, kKeys>;
  constexpr int kBytes = sizeof(typename S::Shared);
  check(cudaFuncSetAttribute(prefill_kernel<D, kRowGroups, kKeys>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "attention's shared memory");
  const int tiles = (args.base.tokens * args.base.group + S::kRows - 1) / S::kRows;
  const dim3 grid(static_cast<unsigned>(tiles * args.base.splits), static_cast<unsigned>(kv_heads),
                  static_cast<unsigned>(args.base.sequences));
  prefill_kernel<D, kRowGroups, kKeys><<<grid, S::kThreads, kBytes, stream>>>(args);
  check_launch("attention");
}

}  // namespace

bool prefill_fits(const AttentionPlan& plan) {
  const KvView& l = plan.layout;
  const auto fits = [](int bits) { return (bits >= 2 && bits <= 4) || bits == 16; };
  const int k = l.k.main.bits;
  return (l.head_dim == 64 || l.head_dim == 128 || l.head_dim == 256 || l.head_dim == 512) &&
         (fits(k) || k == 8 || k == 0) && fits(l.v.main.bits);
}

void launch_prefill(const AttentionArgs& base, int kv_heads, int shared_bytes, cudaStream_t stream) {
  const PrefillArgs args{base, code_table(base.tables, base.k_bits), code_table(base.tables, base.v_bits)};
  switch (base.head_dim) {
    case 64:
      return launch<64, 4, 64>(args, kv_heads, stream);
    case 128:
      return launch<128, 4, 64>(args, kv_heads, stream);
    case 256:
      return launch<256, 4, 32>(args, kv_heads, stream);
  }
  if (shared_bytes >= static_cast<int>(sizeof(Shape<512, 4, 32>::Shared)))
    launch<512, 4, 32>(args, kv_heads, stream);
  else
    launch<512, 2, 16>(args, kv_heads, stream);
}

}  // namespace hlwq::cuda
